"""What computes behind `Model`: prompts and media to answers, logits and soft tokens.

Knows: the order of the steps on one loaded checkpoint. Must not know: how arguments of a user are spelled, tasks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..answer import Answer, GenerationOptions, Outcome, Prompt
from ..errors import ContextLengthError
from ..prompt import PreparedInputs, is_prepared
from . import scoring
from .loaded import Loaded
from .prefix_cache import Memory

__all__ = ["Runtime"]

_EXACT = "f32"  # keys and values of what returns numbers, whatever those of answers are


@dataclass(frozen=True)
class Runtime:
    """A loaded checkpoint, and how much of it is used. Safe to use from many threads."""

    checkpoint: Loaded
    context: int
    """Tokens of prompt and answer together at most."""
    kv_cache: str
    """Format of the keys and values of answers."""

    def answer(
        self,
        messages: Any,
        images: Any,
        audio: Any,
        video: Any,
        thinking: Any,
        tools: Any,
        response_format: Any,
        max_soft_tokens: Any,
        memory: Memory | None = None,
        **options: Any,
    ) -> Answer:
        """One answer on its way; arguments and errors as :meth:`gemma4.Model.generate`, `memory` of a conversation."""
        checkpoint = self.checkpoint
        options |= {"thinking": thinking, "response_format": response_format}
        resolved = GenerationOptions.resolve(checkpoint.defaults, **options)
        # A budget is no part of the prompt, so that a prepared one can be given one.
        budget_alone = resolved.thinking_budget is not None and is_prepared(messages)
        inputs = checkpoint.processor.take(
            messages, images, audio, video, thinking=bool(thinking) and not budget_alone,
            max_soft_tokens=max_soft_tokens, context=self.context, tools=tools,
        )  # fmt: skip
        self._check_length(inputs, self.context - 1)
        limit = min(resolved.limit(len(inputs)), self.context - len(inputs))

        def prefill(outcome: Outcome) -> tuple[_core.Session, NDArray[np.float32]]:
            checkpoint.store.check_unchanged()
            started = time.perf_counter()
            known = 0 if memory is None else memory.recall(inputs, limit, outcome.ids)
            soft = self._soft(inputs, known)
            outcome.encode_s = time.perf_counter() - started
            session = memory.session if memory else self.session(len(inputs) + limit)
            logits = session.prefill(inputs.input_ids[known:], soft, "last")
            assert logits is not None
            return session, logits

        pictured = sum(image.count for image in inputs.seen)
        prompt = Prompt(inputs.input_ids, pictured, limit, prefill)
        return Answer(prompt, resolved, checkpoint.language)

    def forward(self, inputs: Any, last_only: bool) -> NDArray[np.float32]:
        """See `Model.forward`."""
        prepared = self.checkpoint.processor.take(inputs, context=self.context)
        session = self._exact_session(prepared)
        logits = session.prefill(prepared.input_ids, self._soft(prepared), "last" if last_only else "all")
        assert logits is not None
        return logits

    def score(
        self, messages: Any, images: Any, audio: Any, thinking: bool, max_soft_tokens: int | None, top: int
    ) -> scoring.Scores:
        """See `Model.score`."""
        checkpoint = self.checkpoint
        inputs = checkpoint.processor.take(
            messages, images, audio, thinking=thinking, max_soft_tokens=max_soft_tokens, context=self.context
        )
        session = self._exact_session(inputs)
        return scoring.score(session, inputs.input_ids, self._media(inputs), top, checkpoint.tokenizer)

    def encode_image(self, image: Any, max_soft_tokens: int | None) -> NDArray[np.float32]:
        """See `Model.encode_image`."""
        checkpoint = self.checkpoint
        checkpoint.store.check_unchanged()
        pixels, _ = checkpoint.processor.load(image, checkpoint.processor.budget(max_soft_tokens), "image")
        return checkpoint.core.encode_image(pixels)

    def encode_audio(self, samples: Any, sampling_rate: int) -> NDArray[np.float32]:
        """See `Model.encode_audio`."""
        checkpoint = self.checkpoint
        checkpoint.store.check_unchanged()
        heard = checkpoint.processor.hear(samples, "audio", sampling_rate)
        return checkpoint.core.encode_audio(checkpoint.processor.frames(heard))

    def memory(self) -> Memory:
        """For a new conversation."""
        return Memory(self.session, self.context)

    def session(self, room: int) -> _core.Session:
        """Keys and values for `room` tokens of an answer and its prompt."""
        return self.checkpoint.core.session(room, self.kv_cache)

    def _exact_session(self, inputs: PreparedInputs) -> _core.Session:
        self._check_length(inputs, self.context)
        self.checkpoint.store.check_unchanged()
        return self.checkpoint.core.session(len(inputs), _EXACT)

    def _check_length(self, inputs: PreparedInputs, most: int) -> None:
        if len(inputs) > most:
            raise ContextLengthError(f"the prompt has {len(inputs)} tokens, the context holds {self.context}")

    def _soft(self, inputs: PreparedInputs, known: int = 0) -> list[_core.SoftTokens]:
        """Those of the media behind the first `known` tokens, their places counted from there."""
        return [_core.SoftTokens(*media) for media in self._media(inputs, known)]

    def _media(self, inputs: PreparedInputs, known: int = 0) -> list[scoring.Media]:
        images = [image for image in inputs.seen if image.start >= known]
        audio = [sound for sound in inputs.audio if sound.start >= known]
        if not images and not audio:
            return []
        from tqdm import tqdm  # type: ignore[import-untyped]

        core = self.checkpoint.core
        pictures = tqdm(images, desc="pictures", delay=1, leave=False, disable=None)
        sounds = tqdm(audio, desc="sounds", delay=1, leave=False, disable=None)
        soft = {image.start: (core.encode_image(image.pixels), True) for image in pictures}
        soft |= {sound.start: (core.encode_audio(sound.frames), False) for sound in sounds}
        return [(start - known, *soft[start]) for start in sorted(soft)]
