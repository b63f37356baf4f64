"""What one answer is generated with: the caller's arguments, and what the checkpoint recommends for those left out.

Knows: names, types and ranges of options. Must not know: logits, text, messages.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import _core
from ..arguments import MOST, flag, flag_or_count, integer, one_of, strings
from ..config import SAMPLING, BanOptions, GenerationDefaults, read_bans, sampling_number
from ..errors import ModelFileError, RequestError
from .call import DEFAULTS

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .call import GenerationArguments

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
    thinking: bool = False
    thinking_budget: int | None = None
    """Tokens that a thought may have."""
    grammar: str | None = None
    """What the answer must fit, in Lark."""
    reader: Callable[[str], Any] | None = None
    """From the text of such an answer to its value, where that is JSON."""
    tools: Any = None
    """As they were given; the prompt declares them."""
    max_soft_tokens: int | None = None
    """As it was given; a picture's budget in the prompt."""
    adapter: str | bool | None = None
    """As it was given; whether there is one of that name is the runtime's to say."""

    @classmethod
    def resolve(cls, defaults: GenerationDefaults, **given: Unpack[GenerationArguments]) -> GenerationOptions:
        """Check a call's arguments and fill in the checkpoint's defaults. Without `seed` every call draws its own.

        Raises:
            RequestError: names the argument that is wrong, or that there is not.
            ModelFileError: the checkpoint asks for what cannot be done.
        """
        for name in given.keys() - DEFAULTS.keys():
            near = difflib.get_close_matches(name, DEFAULTS, 1)
            raise RequestError(f"{name}: no such argument" + (f"; did you mean {near[0]}?" if near else ""))
        call = {**DEFAULTS, **given}
        sampling = _sampling(defaults, call)
        for problem in defaults.not_obeyed + (defaults.not_obeyed_sampling if sampling["temperature"] else ()):
            raise ModelFileError(problem)
        most, total = _most(defaults, call)
        least, seed = call["min_new_tokens"], call["seed"]
        stopping, stops = one_of("stop", call["stop"], "stop_strings", call["stop_strings"])
        penalty = call["repetition_penalty"]
        grammar, reader = _form(call["response_format"])
        logprobs, top = flag_or_count("logprobs", call["logprobs"], MAX_LOGPROBS)
        thinking, budget = flag_or_count("thinking", call["thinking"])
        return cls(
            max_new_tokens=most,
            max_length=total,
            temperature=float(sampling["temperature"]),
            top_k=int(sampling["top_k"]),
            top_p=float(sampling["top_p"]),
            min_p=float(sampling["min_p"]),
            repetition_penalty=float(
                sampling_number("repetition_penalty", defaults.repetition_penalty if penalty is None else penalty)
            ),
            seed=int.from_bytes(os.urandom(8), "little") if seed is None else integer("seed", seed, 0, (1 << 64) - 1),
            stop=defaults.stop if stops is None else strings(stopping, stops),
            min_new_tokens=defaults.min_new_tokens if least is None else integer("min_new_tokens", least, 0, MOST),
            min_length=defaults.min_length if least is None else 0,
            bans=defaults.bans.replaced(read_bans(call)),
            logprobs=logprobs,
            top_logprobs=top or 0,
            ignore_eos=flag("ignore_eos", call["ignore_eos"]),
            repetition_guard=flag("repetition_guard", call["repetition_guard"]),
            thinking=thinking,
            thinking_budget=budget,
            grammar=grammar,
            reader=reader,
            tools=call["tools"],
            max_soft_tokens=call["max_soft_tokens"],
            adapter=call["adapter"],
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


def _most(defaults: GenerationDefaults, call: Mapping[str, Any]) -> tuple[int, int | None]:
    """Tokens of the answer at most, and of prompt and answer together."""
    name, most = one_of("max_new_tokens", call["max_new_tokens"], "max_tokens", call["max_tokens"])
    total = None
    if most is None:
        most = defaults.max_new_tokens
    if most is None:
        total = defaults.max_length
        most = MAX_NEW_TOKENS if total is None else total
    return integer(name, most, 1, MOST), total


def _sampling(defaults: GenerationDefaults, call: Mapping[str, Any]) -> dict[str, float | int]:
    """Temperature, top_k, top_p and min_p of a call.

    What the checkpoint says counts where it or the call says `do_sample`, as in transformers. A temperature, `top_k`,
    `top_p` or `min_p` asks for sampling, too.
    """
    asked = {name: sampling_number(name, call[name]) for name in SAMPLING if call[name] is not None}
    do_sample = None if call["do_sample"] is None else flag("do_sample", call["do_sample"])
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


def _form(response_format: Any) -> tuple[str | None, Callable[[str], Any] | None]:
    """The grammar of a form, and how an answer in it is read."""
    if response_format is None:
        return None, None
    from .grammar import read_format, reader_of  # here, because few answers have a given form

    return read_format(response_format), reader_of(response_format)
