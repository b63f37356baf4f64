"""Messages and media to what the engine reads: ids, pixels and frames of sound, and where their soft tokens stand.

Knows: the checkpoint's tokenizer, template, picture sizes and front end. Must not know: the engine, sampling, answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import media
from ..checkpoint import Checkpoint, load_budget, load_front_end, load_known_budgets
from ..config import MediaTokens, ParsedConfig, PatchGrid
from ..errors import ContextLengthError, MediaError, ModelFileError, RequestError
from ..media import SAMPLE_RATE, FrontEnd, Pixels, RawFrames
from ..notices import warn
from ..tokens import Tokenizer, as_ids
from .messages import SEVERAL, Conversation, Kind, MediaSlot, SoundTrack, expand, normalize, render
from .tools import declare

if TYPE_CHECKING:
    from .template import ChatTemplate

__all__ = ["PreparedAudio", "PreparedImage", "PreparedInputs", "PreparedVideo", "Processor", "Question", "is_prepared"]


@dataclass(frozen=True)
class PreparedImage:
    """A picture, resized, and where its soft tokens stand."""

    pixels: NDArray[np.uint8]
    """(height, width, 3), sides multiples of patch x pool."""
    start: int
    """Position of its first soft token in the ids."""
    count: int
    """Soft tokens."""
    size: tuple[int, int]
    """(width, height) of the original."""


@dataclass(frozen=True)
class PreparedAudio:
    """A sound as frames, and where its soft tokens stand."""

    frames: NDArray[np.float32]
    """(frames, mel bins), 10 ms each; for a model without an audio encoder (count, samples), 40 ms each."""
    start: int
    """Position of its first soft token in the ids."""
    count: int
    """Soft tokens."""
    seconds: float


@dataclass(frozen=True)
class PreparedVideo:
    """The frames that were taken from a video, and where their soft tokens stand."""

    frames: tuple[PreparedImage, ...]
    times: tuple[float, ...]
    """Seconds at which they are shown, from the first frame of the file on; the prompt says `mm:ss`."""
    seconds: float
    """Length of the whole video."""
    sound: PreparedAudio | None = None
    """Its sound track where that was asked for; it is among the prompt's sounds too."""


@dataclass(frozen=True)
class PreparedInputs:
    """A prompt ready for the engine, from `Model.prepare`."""

    input_ids: NDArray[np.int32]
    """(T,) with the placeholders of all media in place."""
    images: tuple[PreparedImage, ...] = ()
    audio: tuple[PreparedAudio, ...] = ()
    video: tuple[PreparedVideo, ...] = ()

    @property
    def seen(self) -> tuple[PreparedImage, ...]:
        """The pictures, and the frames of all videos."""
        return (*self.images, *(frame for clip in self.video for frame in clip.frames))

    @property
    def media(self) -> list[PreparedImage | PreparedAudio]:
        """All that has soft tokens, in the order of the prompt."""
        return sorted((*self.seen, *self.audio), key=lambda medium: medium.start)

    def __len__(self) -> int:
        return len(self.input_ids)

    def __repr__(self) -> str:
        sounds = f" and {len(self.audio)} sounds" if self.audio else ""
        videos = f" and {len(self.video)} videos" if self.video else ""
        return f"<gemma4.PreparedInputs of {len(self)} tokens and {len(self.images)} pictures{videos}{sounds}>"


@dataclass(frozen=True)
class Question:
    """What a prompt is made of, as the caller gave it."""

    messages: Any
    images: Any = None
    audio: Any = None
    video: Any = None
    thinking: bool = False
    tools: Any = None
    max_soft_tokens: Any = None


Messages: TypeAlias = "str | Sequence[Mapping[str, Any]] | PreparedInputs | NDArray[np.integer[Any]] | Sequence[int]"
"""What is asked: a text, a conversation, or a prompt that is prepared."""


def is_prepared(messages: Any) -> bool:
    """Whether it is token ids, or holds them, and no messages."""
    return isinstance(messages, np.ndarray | PreparedInputs) or (
        isinstance(messages, list | tuple) and len(messages) > 0 and not isinstance(messages[0], Mapping | str)
    )


@dataclass(frozen=True)
class _Picture:
    """A picture or a frame, resized."""

    kind: Kind
    pixels: Pixels
    size: tuple[int, int]
    """The (width, height) that it had."""
    count: int
    """Soft tokens."""


@dataclass(frozen=True)
class _Sound:
    samples: NDArray[np.float32]
    """(n,) at 16 kHz."""
    count: int
    """Soft tokens."""
    track: bool
    """Whether it belongs to the video before it."""
    kind: Kind = "audio"


@dataclass(frozen=True)
class _Clip:
    """What was taken of a video."""

    frames: list[_Picture]
    times: list[float]
    labels: list[str]
    seconds: float
    sound: NDArray[np.float32] | None


_Medium = _Picture | _Sound | _Clip


class Processor:
    """Prepares the inputs of one checkpoint. Safe to use from many threads."""

    def __init__(
        self, checkpoint: Checkpoint, config: ParsedConfig, tokenizer: Tokenizer | None, resize: str = "torchvision"
    ) -> None:
        """Load what a checkpoint says about prompts and pictures; `resize` is one of `media.RESIZES`.

        Raises:
            ModelFileError: the picture settings are malformed, or do not fit the config, or the chat template is no
                text.
        """
        self._config = config
        self._tokenizer = tokenizer
        self._name = str(checkpoint)
        self._resize = resize
        self._template_source = checkpoint.template()
        self.default_budget = load_budget(checkpoint, config, "image_processor", media.PICTURE_BUDGET)
        self.frame_budget = load_budget(checkpoint, config, "video_processor", media.FRAME_BUDGET)
        self._known_budgets = load_known_budgets(checkpoint)
        self._front_end = load_front_end(checkpoint, config)

    @cached_property
    def _template(self) -> ChatTemplate | None:
        """Compiled when the first messages come: token ids need no Jinja.

        Raises:
            ModelFileError: not a template, or too large.
        """
        from .template import ChatTemplate

        return None if self._template_source is None else ChatTemplate(*self._template_source)

    def prepare(self, question: Question, context: int) -> PreparedInputs:
        """Token ids, pixels and frames for messages; see `Model.prepare`."""
        budget = self.budget(question.max_soft_tokens)
        tools = None if question.tools is None else declare(question.tools)
        conversation = normalize(question.messages, question.images, question.audio, question.video)
        self._check_media(conversation)
        tokenizer, template = self._text_parts()
        rendered = render(conversation, template, tokenizer, thinking=question.thinking, tools=tools)
        ids = rendered.ids()
        room = _Room(context, len(ids))
        opened = self._open(conversation, budget, room)
        clips = [medium for medium in opened if isinstance(medium, _Clip)]
        if clips and self._config.video is not None:
            ids = rendered.ids([clip.labels for clip in clips], self._config.video.soft)
        # One row for each that has soft tokens, in order.
        rows = [row for medium in opened for row in (medium.frames if isinstance(medium, _Clip) else [medium])]
        expanded, starts = expand(ids, [(row.kind, row.count) for row in rows], self._tokens, rendered.where)
        room.check(len(expanded))
        return self._placed(expanded, opened, iter(starts))

    def take(self, question: Question, context: int) -> PreparedInputs:
        """Messages prepared; what is prepared already, or token ids, as they are.

        Raises:
            RequestError: a prompt that is prepared with something that belongs to messages, ids that are none, or that
                stand for media.
        """
        given = question.messages
        if not is_prepared(given):
            return self.prepare(question, context)
        for name in ("images", "audio", "video", "tools", "thinking", "max_soft_tokens"):
            value = getattr(question, name)
            if value is not None and value is not False:
                raise RequestError(f"{name}: the prompt is prepared already; give it to prepare()")
        vocab = self._config.core.text.vocab
        if isinstance(given, PreparedInputs):
            as_ids(given.input_ids, vocab)
            return given
        ids = as_ids(given, vocab)
        for kind, tokens in self._tokens.items():
            if tokens is not None and (ids == tokens.soft).any():
                raise RequestError(
                    f"token ids: they hold {kind} placeholders ({tokens.soft}) but no {kind}; use prepare()"
                )
        return PreparedInputs(ids)

    @property
    def _tokens(self) -> dict[Kind, MediaTokens | None]:
        return {"image": self._config.image, "audio": self._config.audio, "video": self._config.video}

    def _check_media(self, conversation: Conversation) -> None:
        """Refuse media that the model cannot take, before any is opened."""
        for slot in conversation.media:
            if slot.kind == "audio":
                self._listener(slot.name)
            else:
                self._grid(slot.name, "pictures" if slot.kind == "image" else "videos")
        for slot in conversation.media:
            if self._tokens[slot.kind] is None:
                field = f"{slot.kind}_token_id"
                raise ModelFileError(f"{self._name}: config.json: {field}: missing, or outside the vocabulary")

    def _open(self, conversation: Conversation, budget: int, room: _Room) -> list[_Medium]:
        """Every medium decoded, resized and counted, in order."""
        opened: list[_Medium] = []
        wanted = {kind: len(conversation.of(kind)) for kind in self._tokens}
        done = dict.fromkeys(wanted, 0)
        for slot in conversation.media:
            done[slot.kind] += 1
            if slot.kind == "video":
                opened.append(self._watch(slot, room))
                continue
            before = opened[-1] if opened else None
            medium = self._look(slot, budget) if slot.kind == "image" else self._hear(slot, before)
            room.take(medium.count, done[slot.kind], wanted[slot.kind], SEVERAL[slot.kind])
            opened.append(medium)
        return opened

    def _look(self, slot: MediaSlot, budget: int) -> _Picture:
        pixels, size = self.load(slot.source, slot.budget or budget, slot.name)
        return _Picture("image", pixels, size, self.count(pixels))

    def _hear(self, slot: MediaSlot, before: _Medium | None) -> _Sound:
        track = isinstance(slot.source, SoundTrack)
        if isinstance(before, _Clip) and track:
            assert before.sound is not None
            samples = before.sound
        else:
            samples = self.hear(slot.source, slot.name, slot.sampling_rate)
        count = self._listener(slot.name).token_count(len(samples))
        if count == 0:
            raise MediaError(f"{slot.name}: {len(samples)} samples at 16 kHz are too short to be heard (10 ms)")
        return _Sound(samples, count, track)

    def _watch(self, slot: MediaSlot, room: _Room) -> _Clip:
        """Decode, resize and count the frames of a video one by one."""
        budget = slot.options.max_soft_tokens or self.frame_budget
        with media.open_clip(slot.source, slot.options, slot.name) as clip:
            result = _Clip([], [], [], clip.seconds, clip.sound() if slot.options.sound else None)
            for frame in clip.frames():
                height, width = frame.pixels.shape[:2]
                fitted = self._fit(frame.pixels, budget, f"{clip.where} at {frame.label}")
                result.frames.append(_Picture("video", fitted, (width, height), self.count(fitted)))
                result.times.append(frame.seconds)
                result.labels.append(frame.label)
                count, done = result.frames[-1].count, len(result.frames)
                if done == 1:
                    room.expect(len(clip.chosen), count, clip.where)
                room.take(count, done, len(clip.chosen), f"frames of {clip.where}")
        return result

    def _placed(self, ids: NDArray[np.int32], opened: list[_Medium], starts: Iterator[int]) -> PreparedInputs:
        """The prompt, every medium at the position that `starts` has for it, in order."""

        def picture(one: _Picture) -> PreparedImage:
            return PreparedImage(one.pixels, next(starts), one.count, one.size)

        images: list[PreparedImage] = []
        audio: list[PreparedAudio] = []
        video: list[PreparedVideo] = []
        for medium in opened:
            if isinstance(medium, _Picture):
                images.append(picture(medium))
            elif isinstance(medium, _Clip):
                frames = tuple(picture(frame) for frame in medium.frames)
                video.append(PreparedVideo(frames, tuple(medium.times), medium.seconds))
            else:
                frames_of_sound = self.frames(medium.samples)
                seconds = len(medium.samples) / SAMPLE_RATE
                audio.append(PreparedAudio(frames_of_sound, next(starts), medium.count, seconds))
                if medium.track:
                    video[-1] = replace(video[-1], sound=audio[-1])
        return PreparedInputs(ids, tuple(images), tuple(audio), tuple(video))

    def load(self, source: Any, budget: int, name: str) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """A picture resized for the encoder, and the (width, height) that it had."""
        self._grid(name, "pictures")
        pixels = media.load_image(source, name)
        height, width = pixels.shape[:2]
        return self._fit(pixels, budget, name), (width, height)

    def _fit(self, pixels: NDArray[np.uint8], budget: int, name: str) -> NDArray[np.uint8]:
        """Pixels resized for the encoder."""
        grid = self._grid(name, "pictures")
        height, width = pixels.shape[:2]
        try:
            target = media.target_size(height, width, budget, grid.patch, grid.pool)
            if max(target) > grid.reach:
                raise MediaError(
                    f"at {budget} soft tokens a picture of {width} x {height} becomes {max(target)} pixels long, "
                    f"this model knows positions up to {grid.reach}; take a smaller max_soft_tokens"
                )
            return media.resize(pixels, target, self._resize)
        except MediaError as error:
            raise MediaError(f"{name}: {error}") from None

    def hear(self, source: Any, name: str, sampling_rate: Any = SAMPLE_RATE) -> NDArray[np.float32]:
        """A clip of at most 30 s as (n,) samples at 16 kHz. Raises MediaError for a model without audio."""
        self._listener(name)
        return media.load_audio(source, name, sampling_rate)

    def frames(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples at 16 kHz as the engine reads them, see `PreparedAudio`."""
        return self._listener("audio").frames(samples)

    def _grid(self, name: str, what: str) -> PatchGrid:
        if self._config.grid is None:
            raise RequestError(f"{name}: this model has no vision: it cannot take {what}")
        return self._config.grid

    def _listener(self, name: str) -> FrontEnd | RawFrames:
        if self._front_end is None:
            raise MediaError(f"{name}: this model has no audio: it cannot take sounds")
        return self._front_end

    def count(self, pixels: NDArray[np.uint8]) -> int:
        """Soft tokens of a resized picture."""
        grid = self._grid("pixels", "pictures")
        cell = grid.patch * grid.pool
        return int(pixels.shape[0] // cell) * int(pixels.shape[1] // cell)

    def budget(self, max_soft_tokens: Any) -> int:
        """`max_soft_tokens=` of a request, None for the checkpoint's; warns where it was not trained for it."""
        budget = self.default_budget if max_soft_tokens is None else media.check_budget(max_soft_tokens)
        if self._known_budgets and budget not in self._known_budgets:
            known = ", ".join(map(str, self._known_budgets))
            warn(f"this model was trained with pictures of {known} soft tokens: with {budget} it may see wrongly")
        return budget

    def _text_parts(self) -> tuple[Tokenizer, ChatTemplate]:
        if self._tokenizer is None:
            raise ModelFileError(f"{self._name}: no tokenizer.json; without it only token ids can be given")
        if self._template is None:
            raise ModelFileError(f"{self._name}: no chat template; without it only token ids can be given")
        return self._tokenizer, self._template


class _Room:
    """What is left of the context while media are loaded, so that too many are refused before the next is decoded."""

    def __init__(self, context: int, tokens: int) -> None:
        self._context = context
        self.check(tokens)
        self._left = context - tokens

    def check(self, tokens: int) -> None:
        if tokens >= self._context:
            raise ContextLengthError(f"the prompt has {tokens} tokens, the context holds {self._context}")

    def take(self, count: int, done: int, wanted: int, kind: str) -> None:
        """Subtract the `done`-th of `wanted` media; every one replaces one token by its own and two around them."""
        self._left -= count + 1
        if self._left <= 0:
            raise ContextLengthError(
                f"the prompt has more than {self._context - self._left} tokens with the first {done} of "
                f"{wanted} {kind}, the context holds {self._context}"
            )

    def expect(self, frames: int, count: int, where: str) -> None:
        """Refuse a video whose frames, all of `count` soft tokens, cannot fit, once the first one is decoded."""
        if frames * (count + 1) > self._left:
            raise ContextLengthError(
                f"{where}: {frames} frames of {count} soft tokens do not fit into the context, which holds "
                f"{self._context}, {self._left} of them free; take fewer frames or a smaller max_soft_tokens"
            )
