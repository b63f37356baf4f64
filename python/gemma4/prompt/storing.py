"""A conversation's messages as JSON and arrays, to be stored, and back.

Knows: where messages carry pictures and sounds. Must not know: files, what is computed of a conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..media import SAMPLE_RATE, load_audio, load_image
from .toolcalls import plain_data

__all__ = ["restored", "storable"]

_ARRAY = "array"  # stands in a part for what it carries: {"type": "image", "image": {"array": "image.0"}}


def storable(messages: list[Any]) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    """Messages as JSON, and the (height, width, 3) uint8 pictures and (n,) float32 sounds at 16 kHz that they carry, by
    name. Paths, addresses and what is written in base64 stay as they are.

    Raises:
        RequestError: a message holds what is neither; frames of a video that are no file.
    """
    arrays: dict[str, NDArray[Any]] = {}

    def stored(part: Any, where: str) -> Any:
        kind = part.get("type") if isinstance(part, Mapping) else None
        source = part.get(kind) if isinstance(part, Mapping) and isinstance(kind, str) else None
        if kind == "video" and source is not None:
            return plain_data({**part, "video": _named(source)}, where)
        if kind not in _LOADED or source is None or isinstance(source, str):
            return plain_data(part, where)
        name = f"{kind}.{len(arrays)}"
        arrays[name] = _LOADED[kind](part, where)
        rest = {key: value for key, value in part.items() if key != "sampling_rate"}
        return plain_data({**rest, kind: {_ARRAY: name}}, where)

    return _each_part(messages, stored), arrays


def restored(messages: list[Any], array: Callable[[str], NDArray[Any]]) -> list[Any]:
    """Messages from what :func:`storable` has made of them; `array` gives one by its name."""

    def read(part: Any, _: str) -> Any:
        kind = part.get("type") if isinstance(part, Mapping) else None
        held = part.get(kind) if isinstance(part, Mapping) and isinstance(kind, str) else None
        return {**part, kind: array(held[_ARRAY])} if isinstance(held, Mapping) and _ARRAY in held else part

    return _each_part(messages, read)


def _each_part(messages: list[Any], work: Callable[[Any, str], Any]) -> list[Any]:
    """Messages with something done to each of their parts."""
    made = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RequestError(f"messages[{index}]: expected a dict, found {type(message).__name__}")
        one, where = {}, f"messages[{index}]"
        for key, value in message.items():
            if key == "content" and isinstance(value, list):
                one[key] = [work(part, f"{where}.content[{at}]") for at, part in enumerate(value)]
            else:
                one[key] = plain_data(value, f"{where}.{key}")
        made.append(one)
    return made


def _named(video: Any) -> Any:
    """A video whose paths are strings, also one that is given with its options."""
    if isinstance(video, Mapping):
        return {key: _named(value) for key, value in video.items()}
    return str(video) if isinstance(video, Path) else video


def _image(part: Mapping[str, Any], where: str) -> NDArray[np.uint8]:
    return load_image(part["image"], where)


def _audio(part: Mapping[str, Any], where: str) -> NDArray[np.float32]:
    rate = part.get("sampling_rate")
    return load_audio(part["audio"], where, SAMPLE_RATE if rate is None else rate)


_LOADED: dict[Any, Callable[[Mapping[str, Any], str], NDArray[Any]]] = {"image": _image, "audio": _audio}
