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
from ..cpu import available_memory
from ..errors import ContextLengthError, OutOfMemoryError, RequestError
from ..progress import progress_bar
from ..prompt import PreparedAudio, PreparedImage, PreparedInputs, Question, is_prepared
from . import scoring
from .adapters import AdapterName, Adapters
from .answers import Answer
from .drafter import Drafter
from .kept import Kept, Medium, media_of
from .loaded import Loaded
from .prefix_cache import PrefixCache
from .scheduler import Scheduler

__all__ = ["KvCache", "Runtime", "check_kv_cache"]

KvCache: TypeAlias = Literal["f32", "bf16", "q8_0", "q4_0"]
"""Formats of keys and values."""
_LITTLE = 64 << 20  # bytes of keys and values that are not worth a look at the machine
_EXACT = "f32"  # keys and values of what returns numbers, whatever those of answers are


@dataclass(frozen=True)
class Runtime:
    """A loaded checkpoint, and how much of it is used. Safe to use from many threads."""

    loaded: Loaded
    context: int
    """Tokens of prompt and answer together at most."""
    kv_cache: str
    """Format of the keys and values of answers."""
    kept: Kept
    """What is kept between requests."""
    adapters: Adapters = field(default_factory=Adapters)
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
        return Answer(self, inputs, decoder, cache, self.adapters.chosen(options.adapter))

    def forward(self, inputs: Any, last_only: bool, wanted: AdapterName) -> NDArray[np.float32]:
        """See `Model.forward`."""
        prepared, adapter = self.loaded.processor.take(Question(inputs), self.context), self.adapters.chosen(wanted)
        sequence = self._exact_sequence(prepared, adapter)
        soft = self.soft_tokens(prepared, media_of(prepared), 0, adapter)
        logits = sequence.prefill(prepared.input_ids, soft, "last" if last_only else "all")
        assert logits is not None
        return logits

    def score(self, question: Question, top: int, wanted: AdapterName) -> scoring.Scores:
        """See `Model.score`."""
        inputs, adapter = self.loaded.processor.take(question, self.context), self.adapters.chosen(wanted)
        sequence = self._exact_sequence(inputs, adapter)
        media = self._media(inputs, media_of(inputs), 0, adapter)
        return scoring.score(sequence, inputs.input_ids, media, top, self.loaded.tokenizer)

    def encode_image(self, image: Any, max_soft_tokens: int | None, wanted: AdapterName) -> NDArray[np.float32]:
        """See `Model.encode_image`."""
        loaded = self.loaded
        loaded.store.check_unchanged()
        pixels, _ = loaded.processor.load(image, loaded.processor.budget(max_soft_tokens), "image")
        return loaded.core.encode_image(pixels, adapter=self.adapters.chosen(wanted))

    def encode_audio(self, samples: Any, sampling_rate: int, wanted: AdapterName) -> NDArray[np.float32]:
        """See `Model.encode_audio`."""
        loaded = self.loaded
        loaded.store.check_unchanged()
        heard = loaded.processor.hear(samples, "audio", sampling_rate)
        return loaded.core.encode_audio(loaded.processor.frames(heard), adapter=self.adapters.chosen(wanted))

    def prefix_cache(self) -> PrefixCache:
        """For a new conversation."""
        return PrefixCache(self.sequence, self.context, lambda: self.loaded.fingerprint)

    def sequence(self, room: int, adapter: _core.Adapter | None = None, chunk: int | None = None) -> _core.Sequence:
        """Keys and values for `room` tokens of an answer and its prompt, of which `chunk` are computed at once, by
        default what suits the model.

        Raises:
            OutOfMemoryError: they would take more than this machine has left.
        """
        sequence = self.loaded.core.sequence(room, self.kv_cache, chunk, adapter)
        size = sequence.kv_bytes()  # of which nothing is taken before it is written
        if size > _LITTLE and size > (free := available_memory()):
            raise OutOfMemoryError(
                f"keys and values of {room} tokens take {size >> 20} MiB, {free >> 20} are left on this machine: "
                f"ask for fewer max_new_tokens, or load the model with kv_cache='q8_0' or 'q4_0'"
            )
        return sequence

    def begin(
        self, inputs: PreparedInputs, media: list[Medium], room: int, adapter: _core.Adapter | None
    ) -> tuple[_core.Sequence, int]:
        """A sequence with room for so many tokens, and how many of the prompt's first ones it holds already."""
        sequence = self.sequence(room, adapter)
        return sequence, self.kept.begin(sequence, inputs, media, adapter)

    def keep(
        self, sequence: _core.Sequence, inputs: PreparedInputs, media: list[Medium], known: int,
        adapter: _core.Adapter | None,
    ) -> None:  # fmt: skip
        """Keep a prompt for others that begin as it does, now that a sequence has computed it."""

        def new(room: int) -> _core.Sequence:  # of a size that the cap judges, not the machine
            return self.loaded.core.sequence(room, self.kv_cache, adapter=adapter)

        self.kept.keep_prompt(sequence, inputs, media, known, new, adapter)

    def soft_tokens(
        self, inputs: PreparedInputs, media: list[Medium], known: int, adapter: _core.Adapter | None
    ) -> list[_core.SoftTokens]:
        """Those of the media behind the first `known` tokens, their places counted from there."""
        return [_core.SoftTokens(*one) for one in self._media(inputs, media, known, adapter)]

    @property
    def vocab_size(self) -> int:
        """Of the logits."""
        return self.loaded.language.vocab_size

    def check_unchanged(self) -> None:
        """Raises ModelFileChanged if a weight file changed since it was loaded."""
        self.loaded.store.check_unchanged()
        if self.drafter is not None:
            self.drafter.check_unchanged()

    def _exact_sequence(self, inputs: PreparedInputs, adapter: _core.Adapter | None) -> _core.Sequence:
        self._check_length(inputs, self.context)
        self.loaded.store.check_unchanged()
        return self.loaded.core.sequence(len(inputs), _EXACT, adapter=adapter)

    def _check_length(self, inputs: PreparedInputs, most: int) -> None:
        if len(inputs) > most:
            raise ContextLengthError(f"the prompt has {len(inputs)} tokens, the context holds {self.context}")

    def _media(
        self, inputs: PreparedInputs, media: list[Medium], known: int, adapter: _core.Adapter | None
    ) -> list[scoring.Media]:
        pairs = zip(inputs.media, media, strict=True)
        wanted = [(medium, of) for medium, of in pairs if medium.start + medium.count > known]
        if not wanted:
            return []
        return [
            # Of a medium whose first tokens are known only the others are needed.
            (
                max(medium.start - known, 0),
                self._encoded(medium, of, adapter)[max(known - medium.start, 0) :],
                isinstance(medium, PreparedImage),
            )
            for medium, of in progress_bar(wanted, desc="looking and listening", delay=1, leave=False)
        ]

    def _encoded(
        self, medium: PreparedImage | PreparedAudio, of: Medium, adapter: _core.Adapter | None
    ) -> NDArray[np.float32]:
        core = self.loaded.core

        def encode() -> NDArray[np.float32]:
            if isinstance(medium, PreparedImage):
                return core.encode_image(medium.pixels, adapter=adapter)
            return core.encode_audio(medium.frames, adapter=adapter)

        return self.kept.soft_tokens(of, encode, adapter)


def check_kv_cache(value: Any) -> None:
    """`kv_cache=` of `Model.from_pretrained`. Raises RequestError for a format that there is not."""
    formats = get_args(KvCache)
    if not isinstance(value, str) or value not in formats:
        raise RequestError(f"kv_cache: expected one of {', '.join(formats)}, found {str(value)[:40]!r}")
