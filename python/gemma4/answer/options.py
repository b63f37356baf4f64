"""What one answer is generated with: the caller's arguments, and what the checkpoint recommends for those left out.

Knows: names, types and ranges of options. Must not know: logits, text, messages.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import _core
from ..arguments import MOST, flag, flag_or_count, integer, one_of, strings
from ..config import BanOptions, GenerationDefaults, read_bans, sampling_number
from ..errors import ModelFileError, RequestError

__all__ = ["MAX_LOGPROBS", "GenerationOptions"]

_GREEDY_BELOW = 1e-4  # a temperature so low that only rounding separates it from greedy
MAX_LOGPROBS = 1000
MAX_NEW_TOKENS = 512  # where neither the call nor the checkpoint says a number
_TOP_K = 50  # of a checkpoint that samples and does not say; so in transformers


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
        asked = {name: sampling_number(name, value) for name, value in given.items() if value is not None}
        sampling = _sampling(defaults, None if do_sample is None else flag("do_sample", do_sample), asked)
        for problem in defaults.not_obeyed + (defaults.not_obeyed_sampling if sampling["temperature"] else ()):
            raise ModelFileError(problem)
        (limit, most), total = one_of("max_new_tokens", max_new_tokens, "max_tokens", max_tokens), None
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
        stopping, stops = one_of("stop", stop, "stop_strings", stop_strings)
        penalty = repetition_penalty if repetition_penalty is not None else defaults.repetition_penalty
        wanted, top = flag_or_count("logprobs", logprobs, MAX_LOGPROBS)
        return cls(
            max_new_tokens=integer(limit, most, 1, MOST),
            max_length=total,
            temperature=float(sampling["temperature"]),
            top_k=int(sampling["top_k"]),
            top_p=float(sampling["top_p"]),
            min_p=float(sampling["min_p"]),
            repetition_penalty=float(sampling_number("repetition_penalty", penalty)),
            seed=int.from_bytes(os.urandom(8), "little") if seed is None else integer("seed", seed, 0, (1 << 64) - 1),
            stop=defaults.stop if stops is None else strings(stopping, stops),
            min_new_tokens=(
                defaults.min_new_tokens
                if min_new_tokens is None
                else integer("min_new_tokens", min_new_tokens, 0, MOST)
            ),
            min_length=defaults.min_length if min_new_tokens is None else 0,
            bans=defaults.bans.replaced(read_bans(bans)),
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


def _grammar(response_format: Any) -> str | None:
    if response_format is None:
        return None
    from .grammar import read_format  # here, because few answers have a given form

    return read_format(response_format)
