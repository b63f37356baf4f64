"""From logits to an answer: the decoding loop, the result.

Knows: token ids, the sampler, when an answer ends. Must not know: messages, templates, pictures, files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..errors import RequestError
from ..tokens import Tokenizer
from .bans import Bans
from .options import GenerationOptions
from .reader import AnswerReader
from .repetition import RepetitionGuard
from .token_mask import Situation, Steering

if TYPE_CHECKING:
    from .grammar import Grammars

__all__ = ["Answer", "Chunk", "GenerationResult", "Language", "Outcome", "Prompt", "TokenLogprob", "named"]

# ----------------------------------------------------------------------------------------------------------------------
# Results


class TokenLogprob(NamedTuple):
    """A token that could have stood at a place."""

    id: int
    token: str
    """Its text alone; a byte and a control token as the vocabulary writes them."""
    logprob: float


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


@dataclass(frozen=True)
class GenerationResult:
    """A whole answer; `str(result)` is its text."""

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
    """Seconds: `encode_s` (pictures), `prefill_s`, `decode_s`; and tokens a second: `prefill_tps`, `decode_tps`."""
    token_spans: list[tuple[int, int]] = field(default_factory=list, repr=False)
    """(start, end) of each id's characters in `text`; empty ranges for ids that are not part of it."""
    top_logprobs: list[list[TokenLogprob]] | None = field(default=None, repr=False)
    """For each id, the `logprobs=n` most likely ones in its place, most likely first, from the same distribution as
    `logprobs`; None unless asked for."""

    def __str__(self) -> str:
        return self.text


# ----------------------------------------------------------------------------------------------------------------------
# The loop


@dataclass
class Outcome:
    """What a decoding loop adds up while it runs."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[list[TokenLogprob]] = field(default_factory=list)
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


@dataclass(frozen=True)
class Language:
    """What a checkpoint's ids mean."""

    tokenizer: Tokenizer | None
    """None gives ids without text."""
    vocab_size: int
    """Of the logits."""
    eos_ids: tuple[int, ...]
    """Ids that end an answer."""
    grammars: Callable[[], Grammars]
    """Gives the grammars of the tokenizer, which are made when they are first needed."""


class Answer:
    """One answer on its way: the loop over tokens, and what has been read of it so far."""

    def __init__(self, prompt: Prompt, options: GenerationOptions, language: Language) -> None:
        """Nothing is computed before the first chunk is asked for.

        Raises:
            RequestError: an option that needs a tokenizer without one, a budget for a model that cannot think, a
                response format that cannot be applied.
        """
        tokenizer, matcher = language.tokenizer, None
        for name, given in (("stop", options.stop), ("response_format", options.grammar)):
            if given and tokenizer is None:
                raise RequestError(f"{name}: the checkpoint has no tokenizer, so its answers have no text")
        if options.grammar is not None:
            matcher = language.grammars().matcher(options.grammar)
        situation = Situation(tokenizer, prompt.ids)
        if options.thinking_budget is not None and situation.thought_end is None:
            raise RequestError("thinking: the checkpoint's vocabulary has no thoughts that a budget could end")
        self._prompt, self._options, self._tokenizer = prompt, options, tokenizer
        self._eos = frozenset() if options.ignore_eos else frozenset(language.eos_ids)
        self._steering = Steering(
            situation, tokenizer, language.vocab_size, language.eos_ids, matcher, options.thinking_budget
        )
        least = options.least(len(prompt.ids))
        self._bans = Bans(options.bans, least, prompt.ids, language.vocab_size, language.eos_ids)
        self._reader = None
        if tokenizer is not None:
            opening = (
                "" if situation.opened < 0 else tokenizer.decode(prompt.ids[situation.opened :], skip_special=False)
            )
            self._reader = AnswerReader(tokenizer, options.stop, tools=situation.tools, opening=opening)
        # What ignores the end of sequence is to run on, whatever it says.
        self._guard = RepetitionGuard() if options.repetition_guard and not options.ignore_eos else None
        self._outcome = Outcome()

    def chunks(self) -> Generator[Chunk, None, None]:
        """The answer piece by piece. Closing the generator ends the work and frees the session."""
        reader, outcome = self._reader, self._outcome
        given = 0  # ids
        called = 0  # tool calls
        for index in self._tokens():
            text, thinking = ("", "") if reader is None else reader.push(index)
            calls = () if reader is None else tuple(reader.tool_calls[called:])
            if text or thinking or calls:
                yield self._chunk(text, thinking, given, calls)
                given, called = len(outcome.ids), called + len(calls)
            if reader is not None and reader.stopped:
                outcome.finish_reason = "stop"
                break
        text, thinking = ("", "") if reader is None else reader.finish()
        if outcome.finish_reason == "stop" and reader is not None and reader.ends_in_call:
            outcome.finish_reason = "tool_calls"
        if text or thinking or given < len(outcome.ids):
            yield self._chunk(text, thinking, given, ())

    def _chunk(self, text: str, thinking: str, start: int, calls: tuple[dict[str, Any], ...]) -> Chunk:
        outcome, options = self._outcome, self._options
        logprobs = tuple(outcome.logprobs[start:]) if options.logprobs else None
        top = tuple(outcome.top_logprobs[start:]) if options.top_logprobs else None
        return Chunk(text, thinking, tuple(outcome.ids[start:]), calls, logprobs, top)

    def _tokens(self) -> Iterator[int]:
        """Ids one by one, until an end of sequence, the limit, or a loop."""
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
            index, logprob = sampler.sample(logits, history[:seen], self._bans.forbid(self._steering.mask()))
            if penalized:
                history[seen] = index
                seen += 1
            self._note(index, logprob, logits)
            outcome.decode_s += time.perf_counter() - started
            yield index
            if outcome.finish_reason != "length" or len(outcome.ids) >= prompt.limit:
                return
            started = time.perf_counter()
            logits = session.decode(index)
            outcome.decode_s += time.perf_counter() - started

    def _note(self, index: int, logprob: float, logits: NDArray[np.float32]) -> None:
        """Takes an id chosen from logits (vocab,), and says whether the answer ends with it."""
        outcome = self._outcome
        outcome.ids.append(index)
        outcome.logprobs.append(logprob)
        if self._options.top_logprobs:
            top = _core.top_logprobs(logits, self._options.top_logprobs)
            outcome.top_logprobs.append(named(top, self._tokenizer))
        self._steering.take(index)
        self._bans.take(index)
        if index in self._eos or self._steering.ended:
            outcome.finish_reason = "stop"
        elif self._guard is not None and self._guard.push(index):
            outcome.finish_reason = "repetition"

    def result(self, chunks: Sequence[Chunk]) -> GenerationResult:
        """The whole, once all `chunks` have been generated."""
        outcome, reader, options = self._outcome, self._reader, self._options
        length, made = len(self._prompt.ids), len(outcome.ids)
        thought = reader is not None and reader.thought
        return GenerationResult(
            text="".join(chunk.text for chunk in chunks),
            thinking="".join(chunk.thinking for chunk in chunks) if thought else None,
            tool_calls=[] if reader is None else list(reader.tool_calls),
            token_ids=np.array(outcome.ids, dtype=np.int32),
            logprobs=np.array(outcome.logprobs, dtype=np.float32) if options.logprobs else None,
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
            top_logprobs=outcome.top_logprobs if options.top_logprobs else None,
        )


def named(top: Iterable[tuple[int, float]], tokenizer: Tokenizer | None) -> list[TokenLogprob]:
    """(id, log-probability) pairs with the ids' texts; without a tokenizer these are empty."""
    return [TokenLogprob(index, "" if tokenizer is None else tokenizer.piece(index), logprob) for index, logprob in top]


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0
