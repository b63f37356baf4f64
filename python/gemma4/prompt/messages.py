"""Conversations to token ids with a place for every picture, frame and sound.

Knows: the shapes messages come in, the checkpoint's template, which tokens stand for media. Must not know: the engine.

Nothing that a caller writes can become a control token, be it a message, a tool or what one said; see `shield`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..config import MediaTokens
from ..errors import ModelFileError, RequestError
from ..media import FIELDS, SAMPLE_RATE, VideoOptions, decode_base64, is_pair, read_request
from ..tokens import Tokenizer, check_text, markers
from .shield import Shield
from .toolcalls import plain_data, read_calls, read_responses

if TYPE_CHECKING:
    from .template import ChatTemplate

__all__ = [
    "Conversation", "MediaSlot", "Rendered", "SoundTrack", "as_list", "as_sounds", "as_videos",
    "expand", "normalize", "render",
]  # fmt: skip

_ROLES = ("system", "developer", "user", "assistant", "model", "tool")
_MODEL = ("assistant", "model")
_IMAGE_KEYS = ("image", "url", "path", "base64")
_AUDIO_KEYS = ("audio", "url", "path", "base64")
_VIDEO_KEYS = ("video", "url", "path", "base64")
_TEXTS, _IMAGE_URLS = ("text", "input_text"), ("image_url", "input_image")
_AUDIOS, _VIDEOS = ("audio", "input_audio", "audio_url"), ("video", "video_url")
PART_TYPES = (*_TEXTS, "image", *_IMAGE_URLS, *_AUDIOS, *_VIDEOS)
"""Of the parts of a message's content."""
_KINDS = {"image": "picture", "audio": "sound", "video": "video"}
SEVERAL = {"image": "pictures", "audio": "sounds", "video": "frames"}
_REASONING = ("reasoning_content", "thinking", "reasoning")
_DETAIL = {"low": 70, "high": 1120, "auto": None, None: None}
_MAX_MESSAGES = 100_000


Kind = Literal["image", "audio", "video"]
"""Of a part of a message."""


@dataclass(frozen=True)
class MediaSlot:
    """A picture, a sound or a video of a conversation, still as the caller gave it."""

    kind: Kind
    source: Any
    budget: int | None = None
    """Soft tokens asked for by this part (OpenAI's `detail`), None for the call's."""
    name: str = "image"
    sampling_rate: int = SAMPLE_RATE
    """Of a sound given as samples that come without one."""
    options: VideoOptions = field(default_factory=VideoOptions)
    """Of a video."""


@dataclass(frozen=True)
class SoundTrack:
    """The source of a sound that belongs to the video before it."""


@dataclass
class Conversation:
    """Messages as plain data that a template may see, and their media in order."""

    messages: list[dict[str, Any]]
    media: list[MediaSlot] = field(default_factory=list)

    def of(self, kind: Kind) -> list[MediaSlot]:
        return [slot for slot in self.media if slot.kind == kind]


# ----------------------------------------------------------------------------------------------------------------------
# Messages


def normalize(messages: Any, images: Any = None, audio: Any = None, video: Any = None) -> Conversation:
    """Messages in any of the forms callers use, as one form.

    Args:
        messages: a string (one user turn), or a list of `{"role", "content"}`; content is a string or a list of parts
            in Hugging Face's (`{"type": "image", "image": …}`, and so for audio and video) or OpenAI's form
            (`image_url`, `input_audio`, `video_url`). A part with a video may have the fields of `VideoOptions`; its
            sound track becomes an audio part right behind it.
        images: pictures for image parts that carry none, in order; if there are no such parts, they go before the text
            of the last user turn.
        audio: the same for sounds, which go between the pictures and the text. A list holds several sounds, a tuple
            `(samples, rate)` is one.
        video: the same for videos, which go before the sounds. A tuple `(frames, times)` is one, and a dict with
            `video` and fields of `VideoOptions`.

    Raises:
        RequestError: a field that is missing, unknown or of the wrong type; more or fewer media than places.

    >>> normalize("hi").messages
    [{'role': 'user', 'content': 'hi'}]
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or isinstance(messages, bytes | bytearray):
        raise RequestError(f"messages: expected a string or a list of messages, found {type(messages).__name__}")
    if not 0 < len(messages) <= _MAX_MESSAGES:
        raise RequestError(f"messages: expected 1 to {_MAX_MESSAGES} messages, found {len(messages)}")
    result = Conversation([])
    calls: list[dict[str, Any]] = []  # of the model's last turn, not answered yet
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        plain = _message(message, where, result)
        if plain["role"] == "tool":
            _answer_call(plain, calls, where)
        elif plain["role"] in _MODEL:
            calls = list(plain.get("tool_calls", ()))
        result.messages.append(plain)
    _place(result, "audio", "audio", as_sounds(audio))  # first, so that the others come before it
    _place(result, "video", "video", as_videos(video))
    _place(result, "image", "images", as_list(images))
    _read_videos(result)
    return result


def _message(message: Any, where: str, media: Conversation) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RequestError(f"{where}: expected a dict with role and content, found {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise RequestError(f"{where}: role: expected one of {', '.join(_ROLES)}, found {str(role)[:40]!r}")
    more = _FIELDS.get(role, ())
    for key, value in message.items():
        if key not in ("role", "content", *more) and value is not None and value != []:
            raise RequestError(f"{where}: {str(key)[:40]}: unknown field of a message with role {role!r}")
    if "content" not in message and not (role in _MODEL and message.get("tool_calls")):
        raise RequestError(f"{where}: content is missing")
    plain = {"role": role, "content": _content(message.get("content"), role, f"{where}: content", media)}
    for key in more:
        if message.get(key) is not None:
            plain[key] = _field(key, message[key], f"{where}: {key}")
    reasoning = [plain[key] for key in _REASONING if key in plain]
    if reasoning:  # templates read one name or another
        plain = {"thinking": reasoning[0], **plain, "reasoning_content": reasoning[0]}
    return plain


_FIELDS: dict[str, tuple[str, ...]] = {
    "assistant": (*_REASONING, "tool_calls", "tool_responses"),
    "model": (*_REASONING, "tool_calls", "tool_responses"),
    "tool": ("name", "tool_call_id"),
}


def _field(key: str, value: Any, where: str) -> Any:
    if key == "tool_calls":
        return read_calls(value, where)
    return read_responses(value, where) if key == "tool_responses" else str(check_text(value, where))


def _content(content: Any, role: str, where: str, media: Conversation) -> Any:
    if isinstance(content, str):
        return str(check_text(content, where))
    if isinstance(content, Sequence) and not isinstance(content, bytes | bytearray):
        return [_part(part, f"{where}[{index}]", media) for index, part in enumerate(content)]
    if isinstance(content, Mapping) and role == "tool":
        return plain_data(content, where)
    if content is None and role in _MODEL:
        return ""
    raise RequestError(f"{where}: expected a string or a list of parts, found {type(content).__name__}")


def _answer_call(message: dict[str, Any], calls: list[dict[str, Any]], where: str) -> None:
    """Give a tool's message the name of the function that it answers, and take that call off the list."""
    wanted, name = message.get("tool_call_id"), message.get("name")
    fits = [
        call
        for call in calls
        if (wanted is None or call.get("id") == wanted) and (name is None or call["function"]["name"] == name)
    ]
    if fits:
        calls.remove(fits[0])
        message["name"] = fits[0]["function"]["name"]
    elif wanted is not None and any("id" in call for call in calls):
        raise RequestError(f"{where}: tool_call_id: {wanted[:40]!r} is no call of {name or 'a tool'} that waits here")
    elif name is None:
        raise RequestError(f"{where}: there is no tool call that it could answer, and it has no name")


def _part(part: Any, where: str, media: Conversation) -> dict[str, Any]:
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        raise RequestError(f"{where}: expected a dict with a type, found {type(part).__name__}")
    kind = part.get("type")
    if kind in _TEXTS:
        _refuse_unknown(part, where, ("type", "text"))
        return {"type": "text", "text": str(check_text(part.get("text"), f"{where}: text"))}
    if kind == "image":
        _refuse_unknown(part, where, ("type", "detail", *_IMAGE_KEYS))
        media.media.append(MediaSlot("image", _source(part, where, _IMAGE_KEYS), _detail(part, where), where))
        return {"type": "image"}
    if kind in _IMAGE_URLS:
        _refuse_unknown(part, where, ("type", "image_url", "detail"))
        inner = part.get("image_url")
        detail = _detail(part, where)
        if isinstance(inner, Mapping):
            _refuse_unknown(inner, f"{where}: image_url", ("url", "detail"))
            detail = _detail(inner, where) or detail
            inner = inner.get("url")
        media.media.append(MediaSlot("image", check_text(inner, f"{where}: image_url"), detail, where))
        return {"type": "image"}
    if kind in _AUDIOS:
        media.media.append(_audio_slot(part, where))
        return {"type": "audio"}
    if kind in _VIDEOS:
        media.media.append(_video_slot(part, where))
        return {"type": "video"}
    raise RequestError(f"{where}: type: expected 'text', 'image', 'audio' or 'video', found {str(kind)[:40]!r}")


def _audio_slot(part: Mapping[str, Any], where: str) -> MediaSlot:
    """Hugging Face's `audio`, OpenAI's `input_audio` (base64 in `data`) and `audio_url`."""
    kind = part["type"]
    if kind == "audio":
        _refuse_unknown(part, where, ("type", "sampling_rate", *_AUDIO_KEYS))
        rate = part.get("sampling_rate")
        return MediaSlot("audio", _source(part, where, _AUDIO_KEYS), None, where, SAMPLE_RATE if rate is None else rate)
    _refuse_unknown(part, where, ("type", kind))
    inner = part.get(kind)
    if kind == "audio_url":
        if isinstance(inner, Mapping):
            _refuse_unknown(inner, f"{where}: {kind}", ("url",))
            inner = inner.get("url")
        return MediaSlot("audio", check_text(inner, f"{where}: {kind}"), None, where)
    if not isinstance(inner, Mapping):
        raise RequestError(f"{where}: {kind}: expected an object with data and format, found {type(inner).__name__}")
    _refuse_unknown(inner, f"{where}: {kind}", ("data", "format"))
    data = check_text(inner.get("data"), f"{where}: {kind}: data")
    return MediaSlot(
        "audio", data if data[:5] == "data:" else decode_base64(data, f"{where}: {kind}: data"), None, where
    )


def _video_slot(part: Mapping[str, Any], where: str) -> MediaSlot:
    """Hugging Face's `video`, and `video_url` as OpenAI would write it."""
    options = VideoOptions(**{key: part[key] for key in FIELDS if part.get(key) is not None})
    if part["type"] == "video":
        _refuse_unknown(part, where, ("type", *_VIDEO_KEYS, *FIELDS))
        return MediaSlot("video", _source(part, where, _VIDEO_KEYS), None, where, options=options)
    _refuse_unknown(part, where, ("type", "video_url", *FIELDS))
    inner = part.get("video_url")
    if isinstance(inner, Mapping):
        _refuse_unknown(inner, f"{where}: video_url", ("url",))
        inner = inner.get("url")
    return MediaSlot("video", check_text(inner, f"{where}: video_url"), None, where, options=options)


def _source(part: Mapping[str, Any], where: str, keys: tuple[str, ...]) -> Any:
    """What a part carries, None for nothing."""
    given = [key for key in keys if part.get(key) is not None]
    if len(given) > 1:
        raise RequestError(f"{where}: {' and '.join(given)} are both given, one is expected")
    if given == ["base64"]:
        return decode_base64(check_text(part["base64"], f"{where}: base64"), f"{where}: base64")
    return part[given[0]] if given else None


def _refuse_unknown(part: Mapping[str, Any], where: str, known: tuple[str, ...]) -> None:
    for key, value in part.items():
        if key not in known and value is not None:
            raise RequestError(f"{where}: {str(key)[:40]}: unknown field (known: {', '.join(known)})")


def _detail(part: Mapping[str, Any], where: str) -> int | None:
    detail = part.get("detail")
    if detail is not None and (not isinstance(detail, str) or detail not in _DETAIL):
        raise RequestError(f"{where}: detail: expected 'low', 'high' or 'auto', found {str(detail)[:40]!r}")
    return _DETAIL[detail]


def as_list(images: Any) -> list[Any]:
    """What is given as `images=`: none, one, or a list."""
    if images is None:
        return []
    return list(images) if isinstance(images, list | tuple) else [images]


def as_sounds(audio: Any) -> list[Any]:
    """What is given as `audio=`; a list of numbers, or a tuple of samples and their rate, is one sound."""
    numbers = isinstance(audio, list) and bool(audio) and all(isinstance(item, Real) for item in audio)
    pair = isinstance(audio, tuple) and len(audio) == 2 and isinstance(audio[1], Real)
    return [audio] if numbers or pair else as_list(audio)


def as_videos(video: Any) -> list[Any]:
    """What is given as `video=`; a tuple of frames and their times is one."""
    return [video] if is_pair(video) else as_list(video)


def _place(conversation: Conversation, kind: Kind, argument: str, given: list[Any]) -> None:
    """Put the media of `images=` or `audio=` where they belong."""
    slots, what = conversation.media, _KINDS[kind]
    for index, source in enumerate(given):
        if source is None:
            raise RequestError(f"{argument}[{index}]: expected a {what}, found None")
    open_slots = [index for index, slot in enumerate(slots) if slot.kind == kind and slot.source is None]
    if open_slots or not given:
        if len(open_slots) != len(given):
            raise RequestError(
                f"{argument}: {len(open_slots)} {kind} parts carry no {what}, {len(given)} were given for them"
            )
        for order, (index, source) in enumerate(zip(open_slots, given, strict=True)):
            slots[index] = replace(slots[index], source=source, name=f"{argument}[{order}]")
        return
    users = [index for index, message in enumerate(conversation.messages) if message["role"] == "user"]
    if not users:
        raise RequestError(f"{argument}: there is no user turn to put them into")
    turn = conversation.messages[users[-1]]
    content = turn["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    later = sum(
        part["type"] != "text"
        for message in conversation.messages[users[-1] :]
        if isinstance(message["content"], list)
        for part in message["content"]
    )
    at = len(slots) - later
    turn["content"] = [*({"type": kind} for _ in given), *parts]
    slots[at:at] = [MediaSlot(kind, source, None, f"{argument}[{index}]") for index, source in enumerate(given)]


def _read_videos(conversation: Conversation) -> None:
    """Take the options out of the sources, and give every sound track that is wanted its place behind the frames."""
    slots, conversation.media = iter(conversation.media), []
    for message in conversation.messages:
        if not isinstance(message["content"], list):
            continue
        parts: list[dict[str, Any]] = []
        for part in message["content"]:
            parts.append(part)
            if part["type"] == "text":
                continue
            slot = next(slots)
            if slot.kind == "video":
                source, options = read_request(slot.source, slot.options, slot.name)
                slot = replace(slot, source=source, options=options)
            conversation.media.append(slot)
            if slot.kind == "video" and slot.options.sound:
                parts.append({"type": "audio"})
                conversation.media.append(MediaSlot("audio", SoundTrack(), None, slot.name))
        message["content"] = parts


# ----------------------------------------------------------------------------------------------------------------------
# Rendering


@dataclass(frozen=True)
class Rendered:
    """What the template makes of a conversation."""

    text: str
    mark: str
    """The shield's, which is still in it."""
    tokenizer: Tokenizer
    where: str
    """The template's file, for messages."""

    def ids(self, times: Sequence[Sequence[str]] = (), video: int | None = None) -> list[int]:
        """Token ids with one soft token at the place of every picture, sound and frame.

        Args:
            times: `mm:ss` of every frame of every video.
            video: the soft token of videos. None leaves one for each video, as the template writes it.

        Raises:
            ModelFileError: the template writes nothing, or more or fewer places for videos than there are.
        """
        text = self.text
        if video is not None:
            text = _write_times(text, self.tokenizer.token(video), times, self.where)
        ids = self.tokenizer.encode_marked(text, self.mark)
        if not ids:
            raise ModelFileError(f"{self.where}: the chat template writes nothing for these messages")
        return ids


def render(
    conversation: Conversation,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    *,
    thinking: bool = False,
    tools: list[dict[str, Any]] | None = None,
) -> Rendered:
    """Render a conversation.

    Args:
        conversation: from :func:`normalize`.
        template: the checkpoint's.
        tokenizer: the checkpoint's.
        thinking: let the model think before it answers.
        tools: JSON schemas of the functions that the model may call, from :func:`gemma4.prompt.declare`.

    Raises:
        RequestError: the template refuses the conversation.
        ModelFileError: the template fails.
    """
    messages = _forgotten(conversation.messages) if markers.CHANNEL_END in template.source else conversation.messages
    shield = Shield(tokenizer, template.source, messages, tools)
    variables: dict[str, Any] = {
        **tokenizer.special_tokens,
        "messages": shield.apply(messages),
        "tools": shield.apply(tools) if tools else None,
        "documents": None,
        "add_generation_prompt": True,
        "enable_thinking": thinking,
    }
    rendered = template.render(variables, shield.mark)
    rendered = rendered.replace(f"\\u{ord(shield.mark):04x}", shield.mark)  # as a template's JSON may write it
    return Rendered(rendered, shield.mark, tokenizer, template.where)


def _write_times(rendered: str, token: str, times: Sequence[Sequence[str]], where: str) -> str:
    """`00:00 <soft> 00:01 <soft>` for every video, as in the reference: the times are part of the text around them."""
    pieces = rendered.split(token)
    if len(pieces) != len(times) + 1:
        raise ModelFileError(f"{where}: the chat template has {len(pieces) - 1} places for {len(times)} videos")
    written = [" ".join(f"{label} {token}" for label in labels) for labels in times]
    return "".join(text for pair in zip(pieces, [*written, ""], strict=True) for text in pair)


def _forgotten(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages without the thoughts that answers may carry in their text.

    The family's templates drop them themselves, but could not find their markers in shielded text.
    """
    return [
        {**message, "content": _without_thoughts(message["content"])} if message["role"] in _MODEL else message
        for message in messages
    ]


def _without_thoughts(content: Any) -> Any:
    if isinstance(content, list):
        return [{**part, "text": _without_thoughts(part["text"])} if "text" in part else part for part in content]
    return "".join(part.split(markers.CHANNEL)[0] for part in content.split(markers.CHANNEL_END))


# ----------------------------------------------------------------------------------------------------------------------
# Placeholders


def expand(
    ids: Sequence[int], media: Sequence[tuple[Kind, int]], tokens: Mapping[Kind, MediaTokens | None], where: str
) -> tuple[NDArray[np.int32], list[int]]:
    """Give every picture, frame and sound its soft tokens: each single soft token becomes open + n soft + close.

    Args:
        ids: from :meth:`Rendered.ids`.
        media: kind and soft tokens of each, in order; a frame is of kind `"video"`.
        tokens: the ids of every kind, None where the model lacks them.
        where: the template's file, for messages.

    Returns:
        (T,) int32 ids, and the position of the first soft token of each medium.

    Raises:
        RequestError: media of a kind that the model lacks.
        ModelFileError: the template writes more or fewer places than there are.
    """
    left: dict[int, tuple[MediaTokens, list[int]]] = {}  # soft token -> places in `media`, the next one last
    for kind, known in tokens.items():
        own = [index for index, (its, _) in enumerate(media) if its == kind]
        if known is not None:
            left[known.soft] = known, own[::-1]
            places = sum(index == known.soft for index in ids)
            if places != len(own):
                raise ModelFileError(f"{where}: the chat template has {places} places for {len(own)} {SEVERAL[kind]}")
        elif own:
            raise RequestError(f"{len(own)} {SEVERAL[kind]} were given, but this model has no tokens for them")
    starts = [0] * len(media)
    result: list[int] = []
    for index in ids:
        if index not in left:
            result.append(index)
            continue
        known, waiting = left[index]
        medium = waiting.pop()
        starts[medium] = len(result) + 1
        result += [known.open, *([known.soft] * media[medium][1]), known.close]
    return np.array(result, dtype=np.int32), starts
