"""From logits to an answer: logits in, id out.

Knows: token ids, the sampler, when an answer ends. Must not know: what computes logits, clocks, messages, pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..errors import RequestError
from ..tokens import Tokenizer
from .bans import Bans
from .drafts import Draft, Drafts
from .options import GenerationOptions
from .reader import AnswerReader
from .repetition import RepetitionGuard
from .result import Chunk, GenerationResult, Timings, TopLogprobs
from .token_mask import PromptState, TokenMask

if TYPE_CHECKING:
    from .grammar import Grammars

__all__ = ["Decoder", "Language", "Prompt"]


@dataclass(frozen=True)
class Prompt:
    """What an answer follows."""

    ids: NDArray[np.int32]
    """(T,)"""
    image_tokens: int
    """How many of them stand for pictures."""
    limit: int
    """Tokens that the answer may have."""


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
    drafts: Drafts = field(default_factory=Drafts)
    """What earlier answers say about the next."""


class Decoder:
    """One answer on its way.

    The caller computes; this chooses and reads::

        logits = (those of the prompt's last token)
        while True:
            index = decoder.take(logits)
            chunk = decoder.chunk()  # what this id completes, if anything
            if index is None:
                break
            logits = (those of index)
    """

    def __init__(self, prompt: Prompt, options: GenerationOptions, language: Language) -> None:
        """Begin an answer.

        Raises:
            RequestError: an option that needs a tokenizer without one, a budget for a model that cannot think, a
                response format that cannot be applied.
        """
        tokenizer, vocab = language.tokenizer, language.vocab_size
        for name, given in (("stop", options.stop), ("response_format", options.grammar)):
            if given and tokenizer is None:
                raise RequestError(f"{name}: the checkpoint has no tokenizer, so its answers have no text")
        if options.thinking_budget is not None and (tokenizer is None or not PromptState.can_think(tokenizer)):
            raise RequestError("thinking: the checkpoint's vocabulary has no thoughts that a budget could end")
        self.prompt, self._options, self._tokenizer = prompt, options, tokenizer
        self._draft = Draft(language.drafts, prompt.ids)
        self._eos = frozenset() if options.ignore_eos else frozenset(language.eos_ids)
        self._reader: AnswerReader | None = None
        self._mask: TokenMask | None = None
        if tokenizer is not None:
            state = PromptState(tokenizer, prompt.ids)
            self._reader = AnswerReader(tokenizer, options.stop, tools=state.tools, opening=state.opening)
            matcher = None if options.grammar is None else language.grammars().matcher(options.grammar)
            self._mask = TokenMask(state, tokenizer, vocab, language.eos_ids, matcher, options.thinking_budget)
        self._bans = Bans(options.bans, options.least(len(prompt.ids)), prompt.ids, vocab, language.eos_ids)
        # What ignores the end of sequence is to run on, whatever it says.
        self._guard = RepetitionGuard() if options.repetition_guard and not options.ignore_eos else None
        self._sampler = options.sampler(vocab)
        penalized = options.repetition_penalty != 1.0
        self._seen = len(prompt.ids) if penalized else 0
        # (seen,) ids that the repetition penalty looks at
        self._history = np.zeros(self._seen + prompt.limit if penalized else 0, dtype=np.int32)
        self._history[: self._seen] = prompt.ids[: self._seen]
        self.ids: list[int] = []
        """Those chosen so far."""
        self._logprobs: list[float] = []
        self._top: list[list[tuple[int, float]]] = []  # (id, log-probability) of the likeliest in each place
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._given = [0, 0, 0, 0]  # pieces of text and of thoughts, tool calls and ids that chunks have handed out
        self._finish_reason = "length"

    def guess(self, most: int, drafter: Callable[[int], list[int]] | None = None) -> list[int]:
        """At most so many ids that may follow the last one that was chosen: computed together with it, they give the
        logits for :meth:`take_all`. `drafter` gives at most so many as it is asked for, where nothing else does."""
        most = min(most, self.prompt.limit - len(self.ids) - 1)
        forced = [] if self._mask is None or self._reader is None else self._mask.forced(self._reader.inside)
        return forced[:most] or self._draft.guess(most, drafter)

    def take_all(self, logits: NDArray[np.float32], guesses: Sequence[int]) -> tuple[int | None, int]:
        """Choose from the logits behind the last id and behind each of the guesses that follow it, for as long as these
        are right: the ids are those that :meth:`take` would have chosen one by one.

        Args:
            logits: (1 + guesses, vocab)
            guesses: as :meth:`guess` gave them.

        Returns:
            The last id that was chosen, None once the answer is whole; and how many guesses were right.

        Raises:
            RequestError, ToolCallError: as :meth:`take`.
        """
        kept = 0
        index = self.take(logits[0])
        while index is not None and kept < len(guesses) and index == guesses[kept]:
            kept += 1
            index = self.take(logits[kept])
        self._draft.judge(len(guesses), kept)
        return index, kept

    def take(self, logits: NDArray[np.float32]) -> int | None:
        """Choose the next id from logits (vocab,); None once the answer is whole, its last id included in `ids`.

        Raises:
            RequestError: no id is allowed.
            ToolCallError: a tool call that cannot be read, or in which the answer ends.
        """
        allowed = None if self._mask is None or self._reader is None else self._mask.mask(self._reader.inside)
        index, logprob = self._sampler.sample(logits, self._history[: self._seen], self._bans.forbid(allowed))
        if len(self._history):
            self._history[self._seen] = index
            self._seen += 1
        self.ids.append(index)
        self._draft.say(index)
        self._logprobs.append(logprob)
        if self._options.top_logprobs:
            self._top.append(_core.top_logprobs(logits, self._options.top_logprobs))
        self._bans.take(index)
        stopped = self._read(index)
        if stopped or index in self._eos or (self._mask is not None and self._mask.ended):
            self._finish_reason = "stop"
        elif self._guard is not None and self._guard.push(index):
            self._finish_reason = "repetition"
        if self._finish_reason == "length" and len(self.ids) < self.prompt.limit:
            return index
        self._finish()
        return None

    def _read(self, index: int) -> bool:
        """The text of an id; whether a stop string ends the answer."""
        reader, mask = self._reader, self._mask
        if reader is None or mask is None:
            return False
        before = reader.inside
        self._add(reader.push(index))
        mask.take(index, before, reader.inside)
        return reader.stopped

    def _finish(self) -> None:
        self._draft.end()
        if self._reader is None:
            return
        self._add(self._reader.finish())
        if self._finish_reason == "stop" and self._reader.ends_in_call:
            self._finish_reason = "tool_calls"

    def _add(self, said: tuple[str, str]) -> None:
        for pieces, text in zip((self._text, self._thinking), said, strict=True):
            if text:
                pieces.append(text)

    def chunk(self, last: bool = False) -> Chunk | None:
        """What was added since the last chunk; None where that is nothing to read. `last`: ids without a text, too."""
        calls = [] if self._reader is None else self._reader.tool_calls
        parts: tuple[list[Any], ...] = (self._text, self._thinking, calls, self.ids)
        text, thinking, new_calls, ids = (part[given:] for part, given in zip(parts, self._given, strict=True))
        if not (text or thinking or new_calls or (last and ids)):
            return None
        start, options = self._given[3], self._options
        self._given = [len(part) for part in parts]
        return Chunk(
            "".join(text),
            "".join(thinking),
            tuple(ids),
            tuple(new_calls),
            tuple(self._logprobs[start:]) if options.logprobs else None,
            tuple(TopLogprobs(self._top[start:], self._tokenizer)) if options.top_logprobs else None,
        )

    def result(self, timings: Timings) -> GenerationResult:
        """The whole answer, once :meth:`take` has returned None."""
        reader, options = self._reader, self._options
        length, made = len(self.prompt.ids), len(self.ids)
        return GenerationResult(
            text="".join(self._text),
            thinking="".join(self._thinking) if reader is not None and reader.thought else None,
            tool_calls=[] if reader is None else list(reader.tool_calls),
            token_ids=np.array(self.ids, dtype=np.int32),
            logprobs=np.array(self._logprobs, dtype=np.float32) if options.logprobs else None,
            finish_reason=self._finish_reason,
            usage={
                "prompt_tokens": length,
                "image_tokens": self.prompt.image_tokens,
                "completion_tokens": made,
                "total_tokens": length + made,
            },
            timings={
                **timings.report(length, made),
                "drafted_tokens": self._draft.made,
                "accepted_tokens": self._draft.kept,
            },
            token_spans=[] if reader is None else reader.spans,
            top_logprobs=TopLogprobs(self._top, self._tokenizer) if options.top_logprobs else None,
            reader=options.reader,
        )
