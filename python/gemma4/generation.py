"""From logits to an answer: options, the decoding loop, the result.

Knows: token ids, the sampler. Must not know: messages, templates, pictures, files.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from .config import read_eos
from .errors import ModelFileError, RequestError
from .reader import AnswerReader
from .tokenizer import Tokenizer

__all__ = ["Answer", "Chunk", "GenerationDefaults", "GenerationOptions", "GenerationResult", "Prompt"]

_GREEDY_BELOW = 1e-4  # a temperature so low that only rounding separates it from greedy
_MAX_STOPS = 1000
_MAX_STOP_LENGTH = 10_000


@dataclass(frozen=True)
class GenerationDefaults:
    """What `generation_config.json` says, for arguments left at None."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    eos_ids: tuple[int, ...] = ()

    @classmethod
    def from_config(cls, data: Mapping[str, Any], source: str) -> GenerationDefaults:
        """Read a generation config. As in transformers, its sampling fields count only where `do_sample` is true.

        Raises:
            ModelFileError: a field that is used here has the wrong type or range.
        """
        sample = data.get("do_sample", False)
        if sample is not None and not isinstance(sample, bool):
            raise ModelFileError(f"{source}: do_sample: expected true or false, found {str(sample)[:40]!r}")
        given = {name: data[name] for name in _RANGES if data.get(name) is not None}
        try:
            values = {name: _number(name, value) for name, value in given.items()}
        except RequestError as error:
            raise ModelFileError(f"{source}: {error}") from None
        penalty = float(values.get("repetition_penalty", 1.0))
        eos = read_eos(data, source)
        if not sample:
            return cls(repetition_penalty=penalty, eos_ids=eos)
        return cls(
            temperature=float(values.get("temperature", 1.0)),
            top_k=int(values.get("top_k", 0)),
            top_p=float(values.get("top_p", 1.0)),
            min_p=float(values.get("min_p", 0.0)),
            repetition_penalty=penalty,
            eos_ids=eos,
        )


@dataclass(frozen=True)
class GenerationOptions:
    """How one answer is generated; every field is checked and final.

    >>> GenerationOptions.resolve(GenerationDefaults(), max_new_tokens=8).temperature
    0.0
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    ignore_eos: bool = False

    @classmethod
    def resolve(
        cls,
        defaults: GenerationDefaults,
        *,
        max_new_tokens: Any = 512,
        temperature: Any = None,
        top_k: Any = None,
        top_p: Any = None,
        min_p: Any = None,
        repetition_penalty: Any = None,
        seed: Any = None,
        stop: Any = None,
        logprobs: Any = False,
        ignore_eos: Any = False,
    ) -> GenerationOptions:
        """Check a call's arguments and fill in the checkpoint's defaults.

        A `top_k`, `top_p` or `min_p` asks for sampling: where neither the call nor the checkpoint gives a temperature,
        it is 1. Without `seed` every call draws its own.

        Raises:
            RequestError: names the argument that is wrong.
        """
        asked = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        numbers = {name: _number(name, value) for name, value in asked.items() if value is not None}
        sampling = any(name != "temperature" for name in numbers)
        fallback = 1.0 if sampling and defaults.temperature == 0 else defaults.temperature
        heat = float(numbers.get("temperature", fallback))
        penalty = repetition_penalty if repetition_penalty is not None else defaults.repetition_penalty
        return cls(
            max_new_tokens=_integer("max_new_tokens", max_new_tokens, 1, (1 << 31) - 1),
            temperature=heat if heat >= _GREEDY_BELOW else 0.0,
            top_k=int(numbers.get("top_k", defaults.top_k)),
            top_p=float(numbers.get("top_p", defaults.top_p)),
            min_p=float(numbers.get("min_p", defaults.min_p)),
            repetition_penalty=float(_number("repetition_penalty", penalty)),
            seed=secrets.randbits(64) if seed is None else _integer("seed", seed, 0, (1 << 64) - 1),
            stop=_stops(stop),
            logprobs=flag("logprobs", logprobs),
            ignore_eos=flag("ignore_eos", ignore_eos),
        )

    def sampler(self, vocab_size: int) -> _core.Sampler:
        options = _core.SamplingOptions()
        options.temperature = self.temperature
        options.top_k = min(self.top_k, vocab_size)
        options.top_p = self.top_p
        options.min_p = self.min_p
        options.repetition_penalty = self.repetition_penalty
        return _core.Sampler(options, self.seed)


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


def _stops(stop: Any) -> tuple[str, ...]:
    texts = () if stop is None else (stop,) if isinstance(stop, str) else stop
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise RequestError("stop: expected a string or a list of strings, none of them empty")
    if len(texts) > _MAX_STOPS or any(len(text) > _MAX_STOP_LENGTH for text in texts):
        raise RequestError(f"stop: at most {_MAX_STOPS} strings of at most {_MAX_STOP_LENGTH} characters")
    return tuple(texts)


# ----------------------------------------------------------------------------------------------------------------------
# Results


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer as it is generated. The pieces joined are the whole answer."""

    text: str
    thinking: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class GenerationResult:
    """A whole answer; `str(result)` is its text."""

    text: str
    """The answer, without thoughts and control tokens, up to the stop string."""
    thinking: str | None
    """What the model thought before it answered, None if it did not."""
    tool_calls: list[dict[str, Any]]
    """Empty in this version."""
    token_ids: NDArray[np.int32]
    """(n,) every generated id, control tokens and the final end-of-sequence included."""
    logprobs: NDArray[np.float32] | None
    """(n,) log-probability of each id before temperature and penalties; None unless asked for."""
    finish_reason: str
    """`"stop"`: end of sequence or a stop string; `"length"`: `max_new_tokens`, or the context is full."""
    usage: dict[str, int]
    """`prompt_tokens`, `image_tokens` (part of them), `completion_tokens`, `total_tokens`."""
    timings: dict[str, float]
    """Seconds: `encode_s` (pictures), `prefill_s`, `decode_s`; and tokens a second: `prefill_tps`, `decode_tps`."""
    token_spans: list[tuple[int, int]] = field(default_factory=list, repr=False)
    """(start, end) of each id's characters in `text`; empty ranges for ids that are not part of it."""

    def __str__(self) -> str:
        return self.text


# ----------------------------------------------------------------------------------------------------------------------
# The loop


@dataclass
class Outcome:
    """What a decoding loop adds up while it runs."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = "length"
    encode_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class Prompt:
    """A prompt that is ready to be computed."""

    ids: NDArray[np.int32]
    """(T,)"""
    image_tokens: int
    """How many of them stand for pictures."""
    limit: int
    """Tokens that the answer may have."""
    prefill: Callable[[Outcome], tuple[_core.Session, NDArray[np.float32]]]
    """Computes the prompt; returns the session and its (1, vocab) logits."""


class Answer:
    """One answer on its way: the loop over tokens, and what has been read of it so far."""

    def __init__(
        self, prompt: Prompt, options: GenerationOptions, eos_ids: Iterable[int], tokenizer: Tokenizer | None
    ) -> None:
        """Nothing is computed before the first chunk is asked for.

        Args:
            prompt: what is answered.
            options: how tokens are chosen.
            eos_ids: ids that end the answer, unless `options.ignore_eos`.
            tokenizer: None gives ids without text.

        Raises:
            RequestError: stop strings without a tokenizer.
        """
        if tokenizer is None and options.stop:
            raise RequestError("stop: the checkpoint has no tokenizer, so there is no text to stop at")
        self._prompt = prompt
        self._options = options
        self._eos = frozenset() if options.ignore_eos else frozenset(eos_ids)
        self._reader = None if tokenizer is None else AnswerReader(tokenizer, options.stop)
        self._outcome = Outcome()

    def chunks(self) -> Generator[Chunk, None, None]:
        """The answer piece by piece. Closing the generator ends the work and frees the session."""
        reader = self._reader
        pending: list[int] = []
        for index in self._tokens():
            pending.append(index)
            text, thinking = ("", "") if reader is None else reader.push(index)
            if text or thinking:
                yield Chunk(text, thinking, tuple(pending))
                pending = []
            if reader is not None and reader.stopped:
                self._outcome.finish_reason = "stop"
                break
        text, thinking = ("", "") if reader is None else reader.finish()
        if text or thinking or pending:
            yield Chunk(text, thinking, tuple(pending))

    def _tokens(self) -> Iterator[int]:
        """Ids one by one, until an end of sequence or the limit."""
        outcome, prompt = self._outcome, self._prompt
        started = time.perf_counter()
        session, rows = prompt.prefill(outcome)
        logits = rows[-1]
        outcome.prefill_s = time.perf_counter() - started - outcome.encode_s
        sampler = self._options.sampler(logits.shape[-1])
        penalized = self._options.repetition_penalty != 1.0
        history = np.zeros(len(prompt.ids) + prompt.limit if penalized else 0, dtype=np.int32)
        seen = len(prompt.ids) if penalized else 0
        history[:seen] = prompt.ids[:seen]
        while True:
            started = time.perf_counter()
            index, logprob = sampler.sample(logits, history[:seen])
            if penalized:
                history[seen] = index
                seen += 1
            outcome.ids.append(index)
            outcome.logprobs.append(logprob)
            outcome.decode_s += time.perf_counter() - started
            if index in self._eos:
                outcome.finish_reason = "stop"
            yield index
            if outcome.finish_reason == "stop" or len(outcome.ids) >= prompt.limit:
                return
            started = time.perf_counter()
            logits = session.decode(index)
            outcome.decode_s += time.perf_counter() - started

    def result(self, chunks: Sequence[Chunk]) -> GenerationResult:
        """The whole, once all `chunks` have been generated."""
        outcome, reader = self._outcome, self._reader
        length, made = len(self._prompt.ids), len(outcome.ids)
        thought = reader is not None and reader.thought
        return GenerationResult(
            text="".join(chunk.text for chunk in chunks),
            thinking="".join(chunk.thinking for chunk in chunks) if thought else None,
            tool_calls=[],
            token_ids=np.array(outcome.ids, dtype=np.int32),
            logprobs=np.array(outcome.logprobs, dtype=np.float32) if self._options.logprobs else None,
            finish_reason=outcome.finish_reason,
            usage={
                "prompt_tokens": length,
                "image_tokens": self._prompt.image_tokens,
                "completion_tokens": made,
                "total_tokens": length + made,
            },
            timings={
                "encode_s": outcome.encode_s,
                "prefill_s": outcome.prefill_s,
                "decode_s": outcome.decode_s,
                "prefill_tps": _rate(length, outcome.prefill_s),
                "decode_tps": _rate(made - 1, outcome.decode_s),
            },
            token_spans=[] if reader is None else reader.spans,
        )


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0
