"""What one answer is generated with: the caller's arguments, and what the checkpoint recommends for those left out.

Knows: names, types and ranges of options, `generation_config.json`. Must not know: logits, text, messages.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import _core
from .bans import BanOptions
from .config import read_eos
from .errors import ModelFileError, RequestError

__all__ = ["MAX_LOGPROBS", "GenerationDefaults", "GenerationOptions", "flag", "flag_or_count"]

_GREEDY_BELOW = 1e-4  # a temperature so low that only rounding separates it from greedy
_MAX_STOPS = 1000
_MAX_STOP_LENGTH = 10_000
_MAX_BANS = 1 << 20  # ids in one option
MAX_LOGPROBS = 1000
MAX_NEW_TOKENS = 512  # where neither the call nor the checkpoint says a number
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
_TOP_K = 50  # of a checkpoint that samples and does not say; so in transformers
_MOST = (1 << 31) - 1

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
    def from_config(cls, data: Mapping[str, Any], source: str, vocab_size: int = _MOST) -> GenerationDefaults:
        """Read a generation config. Ids that a vocabulary of `vocab_size` lacks need not be forbidden.

        Raises:
            ModelFileError: a field that is used here has the wrong type or range.
        """
        given = {name: value for name, value in data.items() if value is not None}

        def integer(name: str, low: int) -> int | None:
            return _integer(name, given[name], low, _MOST) if name in given else None

        try:
            bans = BanOptions().replaced(_read_bans(given))
            return cls(
                do_sample=flag("do_sample", given.get("do_sample", False)),
                sampling={name: _number(name, given[name]) for name in _SAMPLING if name in given},
                repetition_penalty=float(_number("repetition_penalty", given.get("repetition_penalty", 1.0))),
                max_new_tokens=integer("max_new_tokens", 1),
                max_length=integer("max_length", 1),
                min_new_tokens=integer("min_new_tokens", 0) or 0,
                min_length=integer("min_length", 0) or 0,
                stop=_stops("stop_strings", given.get("stop_strings")),
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


@dataclass(frozen=True)
class GenerationOptions:
    """How one answer is generated; every field is checked and final.

    >>> GenerationOptions.resolve(GenerationDefaults(), max_new_tokens=8).temperature
    0.0
    """

    max_new_tokens: int = MAX_NEW_TOKENS
    max_length: int | None = None
    """Of prompt and answer together."""
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    min_new_tokens: int = 0
    min_length: int = 0
    """Of prompt and answer together."""
    bans: BanOptions = field(default_factory=BanOptions)
    logprobs: bool = False
    top_logprobs: int = 0
    ignore_eos: bool = False
    repetition_guard: bool = True
    thinking_budget: int | None = None
    grammar: str | None = None

    @classmethod
    def resolve(
        cls,
        defaults: GenerationDefaults,
        *,
        max_new_tokens: Any = None,
        max_tokens: Any = None,
        min_new_tokens: Any = None,
        do_sample: Any = None,
        temperature: Any = None,
        top_k: Any = None,
        top_p: Any = None,
        min_p: Any = None,
        repetition_penalty: Any = None,
        seed: Any = None,
        stop: Any = None,
        stop_strings: Any = None,
        logprobs: Any = False,
        ignore_eos: Any = False,
        repetition_guard: Any = True,
        thinking: Any = False,
        response_format: Any = None,
        suppress_tokens: Any = None,
        begin_suppress_tokens: Any = None,
        bad_words_ids: Any = None,
        no_repeat_ngram_size: Any = None,
    ) -> GenerationOptions:
        """Check a call's arguments and fill in the checkpoint's defaults.

        Without `seed` every call draws its own. Of `thinking` only a budget matters here.

        Raises:
            RequestError: names the argument that is wrong.
            ModelFileError: the checkpoint asks for what cannot be done.
        """
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        asked = {name: _number(name, value) for name, value in given.items() if value is not None}
        sampling = _sampling(defaults, None if do_sample is None else flag("do_sample", do_sample), asked)
        for problem in defaults.not_obeyed + (defaults.not_obeyed_sampling if sampling["temperature"] else ()):
            raise ModelFileError(problem)
        (limit, most), total = _one_of("max_new_tokens", max_new_tokens, "max_tokens", max_tokens), None
        if most is None:
            most = defaults.max_new_tokens
        if most is None:
            total = defaults.max_length
            most = MAX_NEW_TOKENS if total is None else total
        bans = {
            "suppress_tokens": suppress_tokens,
            "begin_suppress_tokens": begin_suppress_tokens,
            "bad_words_ids": bad_words_ids,
            "no_repeat_ngram_size": no_repeat_ngram_size,
        }
        stopping, stops = _one_of("stop", stop, "stop_strings", stop_strings)
        penalty = repetition_penalty if repetition_penalty is not None else defaults.repetition_penalty
        wanted, top = flag_or_count("logprobs", logprobs, MAX_LOGPROBS)
        return cls(
            max_new_tokens=_integer(limit, most, 1, _MOST),
            max_length=total,
            temperature=float(sampling["temperature"]),
            top_k=int(sampling["top_k"]),
            top_p=float(sampling["top_p"]),
            min_p=float(sampling["min_p"]),
            repetition_penalty=float(_number("repetition_penalty", penalty)),
            seed=int.from_bytes(os.urandom(8), "little") if seed is None else _integer("seed", seed, 0, (1 << 64) - 1),
            stop=defaults.stop if stops is None else _stops(stopping, stops),
            min_new_tokens=(
                defaults.min_new_tokens
                if min_new_tokens is None
                else _integer("min_new_tokens", min_new_tokens, 0, _MOST)
            ),
            min_length=defaults.min_length if min_new_tokens is None else 0,
            bans=defaults.bans.replaced(_read_bans(bans)),
            logprobs=wanted,
            top_logprobs=top or 0,
            ignore_eos=flag("ignore_eos", ignore_eos),
            repetition_guard=flag("repetition_guard", repetition_guard),
            thinking_budget=flag_or_count("thinking", thinking)[1],
            grammar=_grammar(response_format),
        )

    def limit(self, prompt: int) -> int:
        """Tokens that an answer to a prompt of so many may have."""
        room = self.max_new_tokens if self.max_length is None else self.max_length - prompt
        return max(1, min(self.max_new_tokens, room))

    def least(self, prompt: int) -> int:
        """Tokens that it must have before it may end."""
        return max(self.min_new_tokens, self.min_length - prompt)

    def sampler(self, vocab_size: int) -> _core.Sampler:
        options = _core.SamplingOptions()
        options.temperature = self.temperature
        options.top_k = min(self.top_k, vocab_size)
        options.top_p = self.top_p
        options.min_p = self.min_p
        options.repetition_penalty = self.repetition_penalty
        return _core.Sampler(options, self.seed)


def _sampling(
    defaults: GenerationDefaults, do_sample: bool | None, asked: Mapping[str, float | int]
) -> dict[str, float | int]:
    """Temperature, top_k, top_p and min_p of a call that gives `asked` of them.

    What the checkpoint says counts where it or the call says `do_sample`, as in transformers. A temperature, `top_k`,
    `top_p` or `min_p` asks for sampling, too.
    """
    if do_sample is False and asked.get("temperature"):
        raise RequestError("temperature: do_sample=False is greedy, whose temperature is 0")
    recommended = defaults.do_sample if do_sample is None else do_sample
    values: dict[str, float | int] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    if recommended:
        values |= {"top_k": _TOP_K, **defaults.sampling}
    if do_sample is False or not (recommended or asked):
        values["temperature"] = 0.0
    values |= asked
    if values["temperature"] < _GREEDY_BELOW:
        values["temperature"] = 0.0
    return values


def _one_of(name: str, value: Any, alias: str, other: Any) -> tuple[str, Any]:
    """An argument that has two names, with the one that was used. Raises RequestError where both are given."""
    if value is not None and other is not None:
        raise RequestError(f"{alias}: another name of {name}, which is given too")
    return (name, value) if other is None else (alias, other)


def _grammar(response_format: Any) -> str | None:
    if response_format is None:
        return None
    from .grammar import read_format  # here, because few answers have a given form

    return read_format(response_format)


# name -> (least, most, whether the least itself is out)
_RANGES: dict[str, tuple[float, float, bool]] = {
    "temperature": (0.0, 100.0, False),
    "top_k": (0, (1 << 31) - 1, False),
    "top_p": (0.0, 1.0, True),
    "min_p": (0.0, 1.0, False),
    "repetition_penalty": (0.0, 100.0, True),
}


def _number(name: str, value: Any) -> float | int:
    low, high, exclusive = _RANGES[name]
    if name == "top_k":
        return _integer(name, value, int(low), int(high))
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise RequestError(f"{name}: expected a number, found {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not math.isfinite(number) or not low <= number <= high or (exclusive and number == low):
        raise RequestError(f"{name}: expected {'above ' if exclusive else ''}{low:g} to {high:g}, found {value!s:.40}")
    return number


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise RequestError(f"{name}: expected an integer, found {type(value).__name__}")
    if not low <= value <= high:
        raise RequestError(f"{name}: expected {low} to {high}, found {value!s:.40}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """A boolean argument. Raises RequestError for anything but True and False."""
    if not isinstance(value, bool | np.bool_):
        raise RequestError(f"{name}: expected True or False, found {type(value).__name__}")
    return bool(value)


def flag_or_count(name: str, value: Any, most: int = (1 << 31) - 1) -> tuple[bool, int | None]:
    """(whether, how many) of an argument that is True, False, or a number from 1 on, which means True.

    Raises:
        RequestError: anything else; 0 is refused, since it could mean either.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value), None
    if not isinstance(value, int | np.integer):
        raise RequestError(f"{name}: expected True, False or a number, found {type(value).__name__}")
    return True, _integer(name, value, 1, most)


def _stops(name: str, stop: Any) -> tuple[str, ...]:
    texts = () if stop is None else (stop,) if isinstance(stop, str) else stop
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise RequestError(f"{name}: expected a string or a list of strings, none of them empty")
    if len(texts) > _MAX_STOPS or any(len(text) > _MAX_STOP_LENGTH for text in texts):
        raise RequestError(f"{name}: at most {_MAX_STOPS} strings of at most {_MAX_STOP_LENGTH} characters")
    return tuple(texts)


def _ids(name: str, value: Any) -> tuple[int, ...]:
    """Token ids: a list or an array of them, in any order."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise RequestError(f"{name}: expected a list of token ids, found {type(value).__name__}")
    ids = tuple(_integer(name, item, 0, _MOST) for item in value)
    if len(ids) > _MAX_BANS:
        raise RequestError(f"{name}: at most {_MAX_BANS} token ids, found {len(ids)}")
    return ids


def _sequences(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """Lists of token ids, none of them empty."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise RequestError(f"{name}: expected a list of lists of token ids, found {type(value).__name__}")
    sequences = tuple(_ids(name, item) for item in value)
    if not all(sequences) or sum(map(len, sequences)) > _MAX_BANS:
        raise RequestError(f"{name}: expected lists of 1 to {_MAX_BANS} token ids in all")
    return sequences


def _ngram(name: str, value: Any) -> int:
    return _integer(name, value, 0, _MOST)


# How each option that forbids tokens is read.
_BANS = {
    "suppress_tokens": _ids,
    "begin_suppress_tokens": _ids,
    "bad_words_ids": _sequences,
    "no_repeat_ngram_size": _ngram,
}


def _read_bans(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are among `given` and not None, checked."""
    return {name: read(name, given[name]) for name, read in _BANS.items() if given.get(name) is not None}
