"""Messages and media to what the engine reads: ids, pixels and frames of sound, and where their soft tokens stand.

Knows: the checkpoint's tokenizer, template, picture sizes and front end. Must not know: the engine, sampling, answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import media
from ..checkpoint import Checkpoint, load_budget, load_front_end
from ..config import ParsedConfig, PatchGrid
from ..errors import ContextLengthError, MediaError, ModelFileError, RequestError
from ..media import SAMPLE_RATE, FrontEnd, RawFrames
from ..tokens import Tokenizer, as_ids
from .messages import Conversation, Frames, MediaSlot, SoundTrack, expand, normalize, render_ids
from .tools import declare

if TYPE_CHECKING:
    from .template import ChatTemplate

__all__ = ["PreparedAudio", "PreparedImage", "PreparedInputs", "PreparedVideo", "Processor", "is_prepared"]


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

    def __len__(self) -> int:
        return len(self.input_ids)

    def __repr__(self) -> str:
        sounds = f" and {len(self.audio)} sounds" if self.audio else ""
        videos = f" and {len(self.video)} videos" if self.video else ""
        return f"<gemma4.PreparedInputs of {len(self)} tokens and {len(self.images)} pictures{videos}{sounds}>"


def is_prepared(messages: Any) -> bool:
    """Whether it is token ids, or holds them, and no messages."""
    return isinstance(messages, np.ndarray | PreparedInputs) or (
        isinstance(messages, list | tuple) and len(messages) > 0 and not isinstance(messages[0], Mapping | str)
    )


@dataclass(frozen=True)
class _Watched:
    """The frames of a video, resized."""

    frames: list[tuple[NDArray[np.uint8], tuple[int, int]]]
    """Pixels, and the (width, height) that they had."""
    times: list[float]
    labels: list[str]
    seconds: float
    sound: NDArray[np.float32] | None


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
        self._front_end = load_front_end(checkpoint, config)

    @cached_property
    def _template(self) -> ChatTemplate | None:
        """Compiled when the first messages come: token ids need no Jinja.

        Raises:
            ModelFileError: not a template, or too large.
        """
        from .template import ChatTemplate

        return None if self._template_source is None else ChatTemplate(*self._template_source)

    def prepare(
        self,
        messages: Any,
        images: Any,
        sounds: Any = None,
        videos: Any = None,
        *,
        thinking: bool,
        max_soft_tokens: Any,
        context: int,
        tools: Any = None,
    ) -> PreparedInputs:
        """Token ids, pixels and frames for messages; see `Model.prepare`."""
        budget = self.budget(max_soft_tokens)
        declared = None if tools is None else declare(tools)
        conversation = normalize(messages, images, sounds, videos)
        self._check_senses(conversation)
        tokenizer, template = self._text_parts()
        ids = render_ids(conversation, template, tokenizer, thinking=thinking, tools=declared)
        if len(ids) >= context:
            raise ContextLengthError(f"the prompt has {len(ids)} tokens, the context holds {context}")
        room = _Room(context, context - len(ids))
        pictures, counts = [], []
        for slot in conversation.images:
            pixels, size = self.load(slot.source, slot.budget or budget, slot.name)
            pictures.append((pixels, size))
            counts.append(self.count(pixels))
            room.take(counts, len(conversation.images), "pictures")
        watched = [self._watch(slot, room) for slot in conversation.video]
        clips, lengths = self._listen(conversation, watched, room)
        if self._config.video is not None and watched:
            written = Frames(tokenizer.token(self._config.video.soft), [clip.labels for clip in watched])
            ids = render_ids(conversation, template, tokenizer, thinking=thinking, tools=declared, frames=written)
        taken = [self.count(pixels) for clip in watched for pixels, _ in clip.frames]
        expanded, starts = expand(
            ids,
            {
                "pictures": (counts, self._config.image),
                "frames": (taken, self._config.video),
                "sounds": (lengths, self._config.audio),
            },
        )
        if len(expanded) >= context:
            raise ContextLengthError(f"the prompt has {len(expanded)} tokens, the context holds {context}")
        seen = zip(pictures, starts["pictures"], counts, strict=True)
        heard = zip(clips, starts["sounds"], lengths, strict=True)
        prepared = tuple(PreparedAudio(self.frames(c), s, n, len(c) / SAMPLE_RATE) for c, s, n in heard)
        return PreparedInputs(
            expanded,
            tuple(PreparedImage(p, s, n, size) for (p, size), s, n in seen),
            prepared,
            _prepared_videos(conversation, watched, list(zip(starts["frames"], taken, strict=True)), prepared),
        )

    def take(
        self,
        messages: Any,
        images: Any = None,
        sounds: Any = None,
        videos: Any = None,
        *,
        context: int,
        thinking: bool = False,
        max_soft_tokens: Any = None,
        tools: Any = None,
    ) -> PreparedInputs:
        """Messages prepared; what is prepared already, or token ids, as they are.

        Raises:
            RequestError: a prompt that is prepared with something that belongs to messages, ids that are none, or that
                stand for media.
        """
        if not is_prepared(messages):
            return self.prepare(
                messages, images, sounds, videos, thinking=thinking, max_soft_tokens=max_soft_tokens, context=context,
                tools=tools,
            )  # fmt: skip
        given = {"images": images, "audio": sounds, "video": videos, "tools": tools}
        for name, value in {**given, "thinking": thinking or None, "max_soft_tokens": max_soft_tokens}.items():
            if value is not None:
                raise RequestError(f"{name}: the prompt is prepared already; give it to prepare()")
        vocab = self._config.core.text.vocab
        if isinstance(messages, PreparedInputs):
            as_ids(messages.input_ids, vocab)
            return messages
        ids = as_ids(messages, vocab)
        known = {"image": self._config.image, "audio": self._config.audio, "video": self._config.video}
        for kind, tokens in known.items():
            if tokens is not None and (ids == tokens.soft).any():
                raise RequestError(
                    f"token ids: they hold {kind} placeholders ({tokens.soft}) but no {kind}; use prepare()"
                )
        return PreparedInputs(ids)

    def _check_senses(self, conversation: Conversation) -> None:
        """Refuse media that the model cannot take, before any is opened."""
        for slot in (*conversation.images[:1], *conversation.video[:1]):
            self._grid(slot.name, "pictures" if conversation.images else "videos")
        if conversation.audio:
            self._ears(conversation.audio[0].name)
        for slots, name, known in (
            (conversation.images, "image_token_id", self._config.image),
            (conversation.audio, "audio_token_id", self._config.audio),
            (conversation.video, "video_token_id", self._config.video),
        ):
            if slots and known is None:
                raise ModelFileError(f"{self._name}: config.json: {name}: missing, or outside the vocabulary")

    def _watch(self, slot: MediaSlot, room: _Room) -> _Watched:
        """Decode, resize and count the frames of a video one by one."""
        budget = slot.options.max_soft_tokens or self.frame_budget
        counts: list[int] = []
        with media.open_clip(slot.source, slot.options, slot.name) as clip:
            result = _Watched([], [], [], clip.seconds, clip.sound() if slot.options.sound else None)
            for frame in clip.frames():
                height, width = frame.pixels.shape[:2]
                fitted = self._fit(frame.pixels, budget, f"{clip.where} at {frame.label}")
                result.frames.append((fitted, (width, height)))
                result.times.append(frame.seconds)
                result.labels.append(frame.label)
                counts.append(self.count(fitted))
                if len(counts) == 1:
                    room.expect(len(clip.chosen), counts[0], clip.where)
                room.take(counts, len(clip.chosen), f"frames of {clip.where}")
        return result

    def _listen(
        self, conversation: Conversation, watched: list[_Watched], room: _Room
    ) -> tuple[list[NDArray[np.float32]], list[int]]:
        """Samples and soft tokens of every sound, those of videos among them."""
        clips: list[NDArray[np.float32]] = []
        lengths: list[int] = []
        for slot in conversation.audio:
            track = watched[slot.source.video].sound if isinstance(slot.source, SoundTrack) else None
            samples = self.hear(slot.source, slot.name, slot.sampling_rate) if track is None else track
            clips.append(samples)
            lengths.append(self._ears(slot.name).token_count(len(samples)))
            if lengths[-1] == 0:
                raise MediaError(f"{slot.name}: {len(samples)} samples at 16 kHz are too short to be heard (10 ms)")
            room.take(lengths, len(conversation.audio), "sounds")
        return clips, lengths

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
        """A clip of at most 30 s as (n,) samples at 16 kHz. Raises MediaError for a model without ears."""
        self._ears(name)
        return media.load_audio(source, name, sampling_rate)

    def frames(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples at 16 kHz as the engine reads them, see `PreparedAudio`."""
        return self._ears("audio").frames(samples)

    def _grid(self, name: str, what: str) -> PatchGrid:
        if self._config.grid is None:
            raise RequestError(f"{name}: this model has no eyes: it cannot take {what}")
        return self._config.grid

    def _ears(self, name: str) -> FrontEnd | RawFrames:
        if self._front_end is None:
            raise MediaError(f"{name}: this model has no ears: it cannot take sounds")
        return self._front_end

    def count(self, pixels: NDArray[np.uint8]) -> int:
        """Soft tokens of a resized picture."""
        grid = self._grid("pixels", "pictures")
        cell = grid.patch * grid.pool
        return int(pixels.shape[0] // cell) * int(pixels.shape[1] // cell)

    def budget(self, max_soft_tokens: Any) -> int:
        return self.default_budget if max_soft_tokens is None else media.check_budget(max_soft_tokens)

    def _text_parts(self) -> tuple[Tokenizer, ChatTemplate]:
        if self._tokenizer is None:
            raise ModelFileError(f"{self._name}: no tokenizer.json; without it only token ids can be given")
        if self._template is None:
            raise ModelFileError(f"{self._name}: no chat template; without it only token ids can be given")
        return self._tokenizer, self._template


class _Room:
    """What is left of the context while media are loaded, so that too many are refused before the next is decoded."""

    def __init__(self, context: int, left: int) -> None:
        self._context = context
        self._left = left

    def take(self, counts: list[int], wanted: int, kind: str) -> None:
        """Subtract the last of `counts`; every medium replaces one token by its own and two around them."""
        self._left -= counts[-1] + 1
        if self._left <= 0:
            raise ContextLengthError(
                f"the prompt has more than {self._context - self._left} tokens with the first {len(counts)} of "
                f"{wanted} {kind}, the context holds {self._context}"
            )

    def expect(self, frames: int, count: int, where: str) -> None:
        """Refuse a video whose frames, all of `count` soft tokens, cannot fit, once the first one is decoded."""
        if frames * (count + 1) > self._left:
            raise ContextLengthError(
                f"{where}: {frames} frames of {count} soft tokens do not fit into the context, which holds "
                f"{self._context}, {self._left} of them free; take fewer frames or a smaller max_soft_tokens"
            )


def _prepared_videos(
    conversation: Conversation,
    watched: list[_Watched],
    places: list[tuple[int, int]],
    sounds: tuple[PreparedAudio, ...],
) -> tuple[PreparedVideo, ...]:
    """The videos with the (start, soft tokens) of all their frames."""
    left = iter(places)
    tracks = {
        slot.source.video: sound
        for slot, sound in zip(conversation.audio, sounds, strict=True)
        if isinstance(slot.source, SoundTrack)
    }
    return tuple(
        PreparedVideo(
            tuple(PreparedImage(pixels, *next(left), size) for pixels, size in clip.frames),
            tuple(clip.times),
            clip.seconds,
            tracks.get(index),
        )
        for index, clip in enumerate(watched)
    )
