"""generation_config.json: what a checkpoint recommends for arguments that a call leaves out.

Knows: names, types and ranges of its fields. Must not know: logits, text, messages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..arguments import MOST, flag, integer, number, strings, token_ids, token_sequences
from ..errors import ModelFileError, RequestError
from .model import read_eos

__all__ = ["SAMPLING", "BanOptions", "GenerationDefaults", "read_bans", "sampling_number"]

SAMPLING = ("temperature", "top_k", "top_p", "min_p")
"""Options that matter where tokens are drawn."""

# name -> (least, most, whether the least itself is out)
_RANGES: dict[str, tuple[float, float, bool]] = {
    "temperature": (0.0, 100.0, False),
    "top_k": (0, (1 << 31) - 1, False),
    "top_p": (0.0, 1.0, True),
    "min_p": (0.0, 1.0, False),
    "repetition_penalty": (0.0, 100.0, True),
}

# Fields of generation_config.json that change answers in a way that is not implemented, with the values that change
# nothing (null never does). Those of the second table matter where tokens are drawn.
_NOT_OBEYED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "guidance_scale": (1,),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "sequence_bias": (),
    "token_healing": (False,),
    "watermarking_config": (),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "constraints": (),
    "force_words_ids": (),
    "max_time": (),
}
_NOT_OBEYED_SAMPLING: dict[str, tuple[Any, ...]] = {
    "typical_p": (1,),
    "top_h": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}


@dataclass(frozen=True)
class BanOptions:
    """What is forbidden; the names are those of transformers' generation config."""

    suppress_tokens: tuple[int, ...] = ()
    """Ids that never come."""
    begin_suppress_tokens: tuple[int, ...] = ()
    """Ids that do not come first."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Sequences that never come whole, the prompt's end included."""
    no_repeat_ngram_size: int = 0
    """No n ids come a second time in the same order, the prompt included; 0 for any."""

    def replaced(self, fields: Mapping[str, Any]) -> BanOptions:
        return dataclasses.replace(self, **fields)

    def named(self) -> dict[str, set[int]]:
        """The ids in each option."""
        words = {index for word in self.bad_words_ids for index in word}
        sets = (set(self.suppress_tokens), set(self.begin_suppress_tokens), words)
        return dict(zip(("suppress_tokens", "begin_suppress_tokens", "bad_words_ids"), sets, strict=True))

    def within(self, vocab_size: int) -> BanOptions:
        """Without the ids that a model of so many cannot choose."""
        return BanOptions(
            tuple(index for index in self.suppress_tokens if index < vocab_size),
            tuple(index for index in self.begin_suppress_tokens if index < vocab_size),
            tuple(word for word in self.bad_words_ids if max(word) < vocab_size),
            self.no_repeat_ngram_size,
        )


@dataclass(frozen=True)
class GenerationDefaults:
    """What `generation_config.json` says, for arguments left at None."""

    do_sample: bool = False
    sampling: Mapping[str, float | int] = field(default_factory=dict)
    """Those given of temperature, top_k, top_p and min_p; they count where tokens are drawn."""
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None
    max_length: int | None = None
    """Of prompt and answer together, where there is no `max_new_tokens`."""
    min_new_tokens: int = 0
    min_length: int = 0
    """Of prompt and answer together."""
    stop: tuple[str, ...] = ()
    bans: BanOptions = field(default_factory=BanOptions)
    eos_ids: tuple[int, ...] = ()
    not_obeyed: tuple[str, ...] = ()
    """Why no answer can be generated as the file says, a message each."""
    not_obeyed_sampling: tuple[str, ...] = ()
    """The same for answers that are drawn."""

    @classmethod
    def from_config(cls, data: Mapping[str, Any], source: str, vocab_size: int = MOST) -> GenerationDefaults:
        """Read a generation config. Ids that a vocabulary of `vocab_size` lacks need not be forbidden.

        Raises:
            ModelFileError: a field that is used here has the wrong type or range.
        """
        given = {name: value for name, value in data.items() if value is not None}

        def whole(name: str, low: int) -> int | None:
            return integer(name, given[name], low, MOST) if name in given else None

        try:
            bans = BanOptions().replaced(read_bans(given))
            return cls(
                do_sample=flag("do_sample", given.get("do_sample", False)),
                sampling={name: sampling_number(name, given[name]) for name in SAMPLING if name in given},
                repetition_penalty=float(sampling_number("repetition_penalty", given.get("repetition_penalty", 1.0))),
                max_new_tokens=whole("max_new_tokens", 1),
                max_length=whole("max_length", 1),
                min_new_tokens=whole("min_new_tokens", 0) or 0,
                min_length=whole("min_length", 0) or 0,
                stop=strings("stop_strings", given.get("stop_strings")),
                bans=bans.within(vocab_size),
                eos_ids=read_eos(data, source),
                not_obeyed=_refusals(given, _NOT_OBEYED, source),
                not_obeyed_sampling=_refusals(given, _NOT_OBEYED_SAMPLING, source),
            )
        except RequestError as error:
            raise ModelFileError(f"{source}: {error}") from None


def _refusals(given: Mapping[str, Any], table: Mapping[str, tuple[Any, ...]], source: str) -> tuple[str, ...]:
    return tuple(
        f"{source}: {name}: this package cannot generate with {str(given[name])[:40]}; without that field it can"
        for name, neutral in table.items()
        if name in given and given[name] not in neutral
    )


def sampling_number(name: str, value: Any) -> float | int:
    """A sampling option or `repetition_penalty`, in its range. Raises RequestError."""
    low, high, above = _RANGES[name]
    return integer(name, value, int(low), int(high)) if name == "top_k" else number(name, value, low, high, above)


def _ngram(name: str, value: Any) -> int:
    return integer(name, value, 0, MOST)


# How each option that forbids tokens is read.
_BANS = {
    "suppress_tokens": token_ids,
    "begin_suppress_tokens": token_ids,
    "bad_words_ids": token_sequences,
    "no_repeat_ngram_size": _ngram,
}


def read_bans(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are among `given` and not None, checked."""
    return {name: read(name, given[name]) for name, read in _BANS.items() if given.get(name) is not None}
