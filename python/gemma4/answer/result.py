"""What an answer is, in pieces and as a whole.

Knows: its parts. Must not know: how it comes about.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from ..tokens import Tokenizer

CUT = ("length", "repetition")
"""Finish reasons of an answer that ends wherever it was."""

__all__ = ["CUT", "Chunk", "GenerationResult", "Timings", "TokenLogprob", "TopLogprobs", "named"]


class TokenLogprob(NamedTuple):
    """A token that could have stood at a place."""

    id: int
    token: str
    """Its text alone; a byte and a control token as the vocabulary writes them."""
    logprob: float


class TopLogprobs(Sequence[list[TokenLogprob]]):
    """The most likely tokens in each place, named when they are looked at: most seldom are."""

    def __init__(self, places: list[list[tuple[int, float]]], tokenizer: Tokenizer | None) -> None:
        """Of (id, log-probability) pairs in each place; without a tokenizer they have no texts."""
        self._places, self._tokenizer = places, tokenizer

    @overload
    def __getitem__(self, index: int) -> list[TokenLogprob]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[TokenLogprob]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [named(place, self._tokenizer) for place in self._places[index]]
        return named(self._places[index], self._tokenizer)

    def __len__(self) -> int:
        return len(self._places)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as a list's

    def __repr__(self) -> str:
        return repr(list(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer as it is generated. The pieces joined are the whole answer."""

    text: str
    thinking: str
    token_ids: tuple[int, ...]
    tool_calls: tuple[dict[str, Any], ...] = ()
    """Those that this piece completes."""
    logprobs: tuple[float, ...] | None = None
    """Of each id; None unless asked for."""
    top_logprobs: tuple[list[TokenLogprob], ...] | None = None
    """For each id; None unless asked for."""


@dataclass(frozen=True, eq=False)
class GenerationResult:
    """A whole answer; `str(result)` is its text. Two are equal if all but their timings is."""

    text: str
    """The answer, without thoughts, tool calls and control tokens, up to the stop string."""
    thinking: str | None
    """What the model thought before it answered, whether or not it came to an end; None if it did not think."""
    tool_calls: list[dict[str, Any]]
    """The tools that the model calls, each `{"type": "function", "function": {"name", "arguments"}}`."""
    token_ids: NDArray[np.int32]
    """(n,) every generated id, control tokens and the final end-of-sequence included."""
    logprobs: NDArray[np.float32] | None
    """(n,) log-probability of each id under the model's own distribution, before temperature, penalties, `top_k` and
    its like, and the mask of a `response_format`; None unless asked for."""
    finish_reason: str
    """`"stop"`: end of sequence or a stop string; `"tool_calls"`: end of sequence after a tool call; `"length"`:
    `max_new_tokens`, or the context is full; `"repetition"`: the answer went round in circles
    (:class:`gemma4.answer.RepetitionGuard`). After the last two the text is cut wherever it was, in the middle of a
    `response_format` too."""
    usage: dict[str, int]
    """`prompt_tokens`, `image_tokens` (part of them), `completion_tokens`, `total_tokens`."""
    timings: dict[str, float]
    """Seconds: `encode_s` (pictures), `prefill_s`, `decode_s`; tokens a second: `prefill_tps` (of those that were
    computed), `decode_tps`; `reused_tokens` of the prompt, which were computed for an earlier one; `drafted_tokens` of
    the answer, which were guessed and checked several at a time, of which `accepted_tokens` were right."""
    token_spans: list[tuple[int, int]] = field(default_factory=list, repr=False)
    """(start, end) of each id's characters in `text`; empty ranges for ids that are not part of it."""
    top_logprobs: Sequence[list[TokenLogprob]] | None = field(default=None, repr=False)
    """For each id, the `logprobs=n` most likely ones in its place, most likely first, from the same distribution as
    `logprobs`; None unless asked for."""

    reader: Callable[[str], Any] | None = field(default=None, repr=False)
    """Of a `response_format` that is JSON: from the text to its value."""

    def __str__(self) -> str:
        return self.text

    @cached_property
    def parsed(self) -> Any:
        """What the text says in its `response_format`: an instance of the pydantic model, or the JSON's value.

        None without such a format, and for an answer that was cut (`finish_reason`) or calls a tool instead.

        Raises:
            pydantic.ValidationError: the model refuses what its own schema allows.
        """
        if self.reader is None or self.finish_reason in CUT or not self.text:
            return None
        try:
            json.loads(self.text)
        except ValueError:  # a stop string in the middle of it
            return None
        return self.reader(self.text)

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON: arrays and tuples as lists, `top_logprobs` as dicts of `id`, `token`, `logprob`.

        A log-probability that is not finite becomes None, since JSON has none. What `parsed` would give is `text`.
        """
        top = self.top_logprobs
        return {
            "text": self.text,
            "thinking": self.thinking,
            "tool_calls": copy.deepcopy(self.tool_calls),
            "token_ids": self.token_ids.tolist(),
            "logprobs": None if self.logprobs is None else [_finite(value) for value in self.logprobs.tolist()],
            "finish_reason": self.finish_reason,
            "usage": dict(self.usage),
            "timings": dict(self.timings),
            "token_spans": [list(span) for span in self.token_spans],
            "top_logprobs": None
            if top is None
            else [[{**one._asdict(), "logprob": _finite(one.logprob)} for one in place] for place in top],
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GenerationResult):
            return NotImplemented
        names = (one.name for one in fields(self) if one.name not in ("timings", "reader"))
        return all(_same(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]  # lists and arrays are in it


@dataclass
class Timings:
    """Seconds that an answer took."""

    encode: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    reused: int = 0
    """Tokens of the prompt that were computed for an earlier one."""

    def report(self, prompt: int, made: int) -> dict[str, float]:
        """See `GenerationResult.timings`, for tokens of the prompt and tokens made."""
        return {
            "encode_s": self.encode,
            "prefill_s": self.prefill,
            "decode_s": self.decode,
            "prefill_tps": _rate(prompt - self.reused, self.prefill),
            "decode_tps": _rate(made - 1, self.decode),
            "reused_tokens": self.reused,
        }


def named(top: Iterable[tuple[int, float]], tokenizer: Tokenizer | None) -> list[TokenLogprob]:
    """(id, log-probability) pairs with the ids' texts; without a tokenizer these are empty."""
    return [TokenLogprob(index, "" if tokenizer is None else tokenizer.piece(index), logprob) for index, logprob in top]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other) if type(one) is type(other) or isinstance(one, Sequence) else False


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0
