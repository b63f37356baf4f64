"""Prompts that are no whole chat: a text taken as it is, with media at its placeholders; a chat whose last message goes
on.

Knows: where the soft tokens of what `Model.prepare` gives stand. Must not know: pixels, samples, answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from ..errors import RequestError
from ..prompt import PreparedInputs, as_list, as_sounds, as_videos
from ..tokens import check_text, markers

if TYPE_CHECKING:
    from ..model import Model

__all__ = ["Chat", "Prompt", "Written", "continued", "prepare_written", "with_more"]

_PLACES = {"<|image|>": "image", "<|audio|>": "audio", "<|video|>": "video"}
_PLACE = re.compile("(" + "|".join(map(re.escape, _PLACES)) + ")")

_FIRST_IDS: WeakKeyDictionary[Model, list[int]] = WeakKeyDictionary()
"""See `_first_ids`; found once for a model."""


@dataclass(frozen=True)
class Chat:
    """Messages, as :meth:`gemma4.Model.generate` takes them."""

    messages: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Written:
    """A text, and the media that stand at its placeholders."""

    text: str
    images: Any = None
    audio: Any = None
    videos: Any = None

    @staticmethod
    def each(text: Any, images: Any, audio: Any, videos: Any) -> list[Written]:
        """Of one text or several; then media are lists as long, of what goes with each."""
        if isinstance(text, str):
            return [Written(text, images, audio, videos)]
        if not isinstance(text, list | tuple) or not text:
            raise RequestError(f"text: expected a string or a list of strings, found {type(text).__name__}")
        given = {"images": images, "audio": audio, "videos": videos}
        for name, media in given.items():
            if media is not None and (not isinstance(media, list | tuple) or len(media) != len(text)):
                raise RequestError(f"{name}: expected a list of {len(text)}, one or several for each text")
        rows = zip(*([None] * len(text) if media is None else media for media in given.values()), strict=True)
        return [Written(check_text(one, "text"), *row) for one, row in zip(text, rows, strict=True)]


Prompt: TypeAlias = Chat | Written


def prepare_written(model: Model, prompt: Written, max_soft_tokens: int | None) -> PreparedInputs:
    """A text as token ids, with nothing around it but what the tokenizer itself adds.

    A user's text may hold no control token but the placeholders: what looks like one stays text, as everywhere.

    Raises:
        RequestError: more or fewer media than placeholders; an empty text.
    """
    pieces = _PLACE.split(check_text(prompt.text, "text"))
    wanted = [_PLACES[piece] for piece in pieces[1::2]]
    held = _media(prompt)
    for kind, sources in held.items():
        if len(sources) != wanted.count(kind):
            raise RequestError(f"text: {wanted.count(kind)} times <|{kind}|> for {len(sources)} of {kind}")
    parts = [{"type": kind, kind: held[kind].pop(0)} for kind in wanted]
    if not parts:
        return PreparedInputs(np.array(_encoded(model, prompt.text), np.int32))
    chat = model.prepare([{"role": "user", "content": parts}], max_soft_tokens=max_soft_tokens)
    return _moved(model, chat, pieces[0::2], wanted)


def _media(prompt: Written) -> dict[str, list[Any]]:
    return {"image": as_list(prompt.images), "audio": as_sounds(prompt.audio), "video": as_videos(prompt.videos)}


def _moved(model: Model, chat: PreparedInputs, texts: list[str], kinds: list[str]) -> PreparedInputs:
    """The media of a chat between other texts: `texts[0]`, the first of `kinds`, `texts[1]`, and so on."""
    sources = {"image": iter(chat.images), "audio": iter(chat.audio), "video": iter(chat.video)}
    moved: dict[str, list[Any]] = {kind: [] for kind in sources}
    ids: list[int] = []
    text = texts[0]

    def placed(medium: Any) -> Any:
        """Its markers and soft tokens behind the text that was waiting."""
        nonlocal text
        ids.extend(_encoded(model, text, begin=not ids))
        run = chat.input_ids[medium.start - 1 : medium.start + medium.count + 1]  # with the markers around it
        ids.extend(int(index) for index in run)
        text = ""
        return replace(medium, start=len(ids) - medium.count - 1)

    for kind, after in zip(kinds, texts[1:], strict=True):
        medium: Any = next(sources[kind])
        if kind == "video":
            frames: list[Any] = []
            for frame, seconds in zip(medium.frames, medium.times, strict=True):
                text += f"{' ' if frames else ''}{int(seconds) // 60:02d}:{int(seconds) % 60:02d} "
                frames.append(placed(frame))
            moved[kind].append(replace(medium, frames=tuple(frames)))
        else:
            moved[kind].append(placed(medium))
        text += after
    ids.extend(_encoded(model, text, begin=False))
    return PreparedInputs(np.array(ids, np.int32), *(tuple(moved[kind]) for kind in ("image", "audio", "video")))


def _encoded(model: Model, text: str, begin: bool = True) -> list[int]:
    """A text's ids; at the beginning with what the checkpoint's own tokenizer puts there, often nothing."""
    ids = model.tokenizer.encode(text)
    return [*_first_ids(model), *ids] if begin else ids


def _first_ids(model: Model) -> list[int]:
    """What the tokenizer file puts before every text: `<bos>` or nothing."""
    if model not in _FIRST_IDS:
        backend = model.tokenizer.backend  # takes seconds for a large vocabulary
        alone, whole = backend.encode("a", add_special_tokens=False).ids, backend.encode("a").ids
        _FIRST_IDS[model] = whole[: whole.index(alone[0])] if alone else []
    return _FIRST_IDS[model]


def continued(model: Model, messages: list[Any], **options: Any) -> PreparedInputs:
    """A chat up to the end of its last message, whose turn stays open.

    Raises:
        RequestError: the last message has no text to go on with, or the template changes it.
    """
    last = _last_text(messages)
    inputs = model.prepare(messages, **options)
    ids = inputs.input_ids
    closed = np.flatnonzero(ids == model.tokenizer.id_of(markers.TURN_END))
    if len(closed) and all(medium.start + medium.count < closed[-1] for medium in inputs.media):
        ends = [int(closed[-1])]
        while ends[-1] and model.tokenizer.decode(ids[ends[-1] - 1 : ends[-1]]).isspace():
            ends.append(ends[-1] - 1)  # templates put white space before the end of a turn, and trim
        for text, end in product((last, last.rstrip(), last.strip()), ends):
            tail = np.array(model.tokenizer.encode(text), np.int32)
            if np.array_equal(ids[max(0, end - len(tail)) : end], tail):
                return replace(inputs, input_ids=ids[:end])
    raise RequestError("continue_final_message: the last message cannot be found again behind the chat template")


def _last_text(messages: Sequence[Any]) -> str:
    content = messages[-1]["content"]
    if isinstance(content, list | tuple) and content:
        content = content[-1].get("text") if isinstance(content[-1], Mapping) else content[-1]
    if not isinstance(content, str) or not content.strip():
        raise RequestError("continue_final_message: the last message must end with a text")
    return content


def with_more(messages: Sequence[Any], said: str) -> list[Any]:
    """The chat with the answer at the end of its last message."""
    last = messages[-1]
    content = last["content"]
    if isinstance(content, str):
        return [*messages[:-1], {**last, "content": content + said}]
    end = content[-1]
    end = {**end, "text": end["text"] + said} if isinstance(end, Mapping) else end + said
    return [*messages[:-1], {**last, "content": [*content[:-1], end]}]
