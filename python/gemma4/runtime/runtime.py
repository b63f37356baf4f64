"""What computes behind `Model`: prompts and media to answers, logits and soft tokens.

Knows: the order of the steps on one loaded checkpoint. Must not know: how arguments of a user are spelled, tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..answer import Decoder, GenerationOptions, Prompt
from ..errors import ContextLengthError, RequestError
from ..prompt import PreparedAudio, PreparedImage, PreparedInputs, Question, is_prepared
from . import scoring
from .answers import Answer
from .drafter import Drafter
from .loaded import Loaded
from .prefix_cache import PrefixCache
from .scheduler import Scheduler

__all__ = ["KvCache", "Runtime", "check_kv_cache"]

KvCache: TypeAlias = Literal["f32", "bf16", "q8_0", "q4_0"]
"""Formats of keys and values."""
_EXACT = "f32"  # keys and values of what returns numbers, whatever those of answers are


@dataclass(frozen=True)
class Runtime:
    """A loaded checkpoint, and how much of it is used. Safe to use from many threads."""

    loaded: Loaded
    context: int
    """Tokens of prompt and answer together at most."""
    kv_cache: str
    """Format of the keys and values of answers."""
    scheduler: Scheduler = field(default_factory=Scheduler)
    drafter: Drafter | None = None
    """Guesses for answers."""

    def answer(self, question: Question, options: GenerationOptions, cache: PrefixCache | None = None) -> Answer:
        """One answer on its way.

        Args:
            question: what the prompt is made of; of tools, thoughts and soft tokens `options` says more.
            options: how the answer is generated.
            cache: of a conversation.

        Raises:
            RequestError, MediaError, ContextLengthError: as :meth:`gemma4.Model.generate`.
        """
        # A budget is no part of the prompt, so that a prepared one can be given one.
        budget_alone = options.thinking_budget is not None and is_prepared(question.messages)
        thinking = options.thinking and not budget_alone
        question = replace(question, thinking=thinking, tools=options.tools, max_soft_tokens=options.max_soft_tokens)
        inputs = self.loaded.processor.take(question, self.context)
        self._check_length(inputs, self.context - 1)
        limit = min(options.limit(len(inputs)), self.context - len(inputs))
        pictured = sum(image.count for image in inputs.seen)
        decoder = Decoder(Prompt(inputs.input_ids, pictured, limit), options, self.loaded.language)
        return Answer(self, inputs, decoder, cache)

    def forward(self, inputs: Any, last_only: bool) -> NDArray[np.float32]:
        """See `Model.forward`."""
        prepared = self.loaded.processor.take(Question(inputs), self.context)
        sequence = self._exact_sequence(prepared)
        logits = sequence.prefill(prepared.input_ids, self.soft_tokens(prepared), "last" if last_only else "all")
        assert logits is not None
        return logits

    def score(self, question: Question, top: int) -> scoring.Scores:
        """See `Model.score`."""
        inputs = self.loaded.processor.take(question, self.context)
        sequence = self._exact_sequence(inputs)
        return scoring.score(sequence, inputs.input_ids, self._media(inputs), top, self.loaded.tokenizer)

    def encode_image(self, image: Any, max_soft_tokens: int | None) -> NDArray[np.float32]:
        """See `Model.encode_image`."""
        loaded = self.loaded
        loaded.store.check_unchanged()
        pixels, _ = loaded.processor.load(image, loaded.processor.budget(max_soft_tokens), "image")
        return loaded.core.encode_image(pixels)

    def encode_audio(self, samples: Any, sampling_rate: int) -> NDArray[np.float32]:
        """See `Model.encode_audio`."""
        loaded = self.loaded
        loaded.store.check_unchanged()
        heard = loaded.processor.hear(samples, "audio", sampling_rate)
        return loaded.core.encode_audio(loaded.processor.frames(heard))

    def prefix_cache(self) -> PrefixCache:
        """For a new conversation."""
        return PrefixCache(self.sequence, self.context)

    def sequence(self, room: int) -> _core.Sequence:
        """Keys and values for `room` tokens of an answer and its prompt."""
        return self.loaded.core.sequence(room, self.kv_cache)

    def soft_tokens(self, inputs: PreparedInputs, known: int = 0) -> list[_core.SoftTokens]:
        """Those of the media behind the first `known` tokens, their places counted from there."""
        return [_core.SoftTokens(*media) for media in self._media(inputs, known)]

    def _exact_sequence(self, inputs: PreparedInputs) -> _core.Sequence:
        self._check_length(inputs, self.context)
        self.loaded.store.check_unchanged()
        return self.loaded.core.sequence(len(inputs), _EXACT)

    def _check_length(self, inputs: PreparedInputs, most: int) -> None:
        if len(inputs) > most:
            raise ContextLengthError(f"the prompt has {len(inputs)} tokens, the context holds {self.context}")

    def _media(self, inputs: PreparedInputs, known: int = 0) -> list[scoring.Media]:
        wanted = [medium for medium in inputs.media if medium.start >= known]
        if not wanted:
            return []
        from tqdm import tqdm  # type: ignore[import-untyped]

        return [
            (medium.start - known, self._encoded(medium), isinstance(medium, PreparedImage))
            for medium in tqdm(wanted, desc="looking and listening", delay=1, leave=False, disable=None)
        ]

    def _encoded(self, medium: PreparedImage | PreparedAudio) -> NDArray[np.float32]:
        core = self.loaded.core
        return (
            core.encode_image(medium.pixels) if isinstance(medium, PreparedImage) else core.encode_audio(medium.frames)
        )


def check_kv_cache(value: Any) -> None:
    """`kv_cache=` of `Model.from_pretrained`. Raises RequestError for a format that there is not."""
    formats = get_args(KvCache)
    if not isinstance(value, str) or value not in formats:
        raise RequestError(f"kv_cache: expected one of {', '.join(formats)}, found {str(value)[:40]!r}")
