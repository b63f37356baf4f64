"""Messages and media to what the engine reads: token ids, and pixels with the position of their soft tokens.

Knows: the checkpoint's tokenizer, template and picture sizes. Must not know: the engine, sampling, answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import chat, media
from .config import ParsedConfig
from .errors import ContextLengthError, MediaError, ModelFileError, RequestError
from .jsonfile import MAX_CONFIG_BYTES, read_bytes, read_json
from .template import ChatTemplate
from .tokenizer import Tokenizer

__all__ = ["PreparedImage", "PreparedInputs", "Processor"]

_TEMPLATE = "chat_template.jinja"


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
class PreparedInputs:
    """A prompt ready for the engine, from `Model.prepare`."""

    input_ids: NDArray[np.int32]
    """(T,) with every picture's placeholders in place."""
    images: tuple[PreparedImage, ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)

    def __repr__(self) -> str:
        return f"<gemma4.PreparedInputs of {len(self)} tokens and {len(self.images)} pictures>"


class Processor:
    """Prepares the inputs of one checkpoint. Safe to use from many threads."""

    def __init__(self, directory: Path, config: ParsedConfig, tokenizer: Tokenizer | None) -> None:
        """Load what a checkpoint says about prompts and pictures.

        Raises:
            ModelFileError: the chat template or the picture settings are malformed, or do not fit the config.
        """
        self._config = config
        self._tokenizer = tokenizer
        self._directory = directory
        self.template = _load_template(directory, tokenizer)
        self.default_budget = _load_budget(directory, config)

    def prepare(
        self, messages: Any, images: Any, *, thinking: bool, max_soft_tokens: Any, context: int
    ) -> PreparedInputs:
        """Token ids and pixels for messages; see `Model.prepare`."""
        budget = self.budget(max_soft_tokens)
        conversation = chat.normalize(messages, images)
        if conversation.images and self._config.core.vision is None:
            raise RequestError(f"{conversation.images[0].name}: this model has no eyes: it cannot take pictures")
        tokenizer, template = self._text_parts()
        ids = chat.render_ids(conversation, template, tokenizer, thinking=thinking)
        if len(ids) >= context:
            raise ContextLengthError(f"the prompt has {len(ids)} tokens, the context holds {context}")
        pictures, counts, room = [], [], context - len(ids)
        for slot in conversation.images:
            pixels, size = self.load(slot.source, slot.budget or budget, slot.name)
            pictures.append((pixels, size))
            counts.append(self.count(pixels))
            room -= counts[-1] + 1
            if room <= 0:  # before the next picture is decoded
                raise ContextLengthError(
                    f"the prompt has more than {context - room} tokens with the first {len(counts)} of "
                    f"{len(conversation.images)} pictures, the context holds {context}"
                )
        if counts and self._config.image is None:
            raise ModelFileError(f"{self._directory}/config.json: image_token_id: outside the vocabulary")
        expanded, starts = chat.expand(ids, counts, self._config.image)
        prepared = zip(pictures, starts, counts, strict=True)
        return PreparedInputs(expanded, tuple(PreparedImage(p, s, n, size) for (p, size), s, n in prepared))

    def load(self, source: Any, budget: int, name: str) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """A picture resized for the encoder, and the (width, height) that it had."""
        vision = self._config.core.vision
        if vision is None:
            raise RequestError(f"{name}: this model has no eyes: it cannot take pictures")
        pixels = media.load_image(source, name)
        height, width = pixels.shape[:2]
        try:
            target = media.target_size(height, width, budget, vision.patch, vision.pool)
        except MediaError as error:
            raise MediaError(f"{name}: {error}") from None
        if max(target) // vision.patch > vision.positions:
            raise MediaError(
                f"{name}: at {budget} soft tokens a picture of {width} x {height} has {max(target) // vision.patch} "
                f"patches on a side, this model knows {vision.positions} positions; take a smaller max_soft_tokens"
            )
        return media.resize(pixels, target), (width, height)

    def count(self, pixels: NDArray[np.uint8]) -> int:
        """Soft tokens of a resized picture."""
        vision = self._config.core.vision
        assert vision is not None
        cell = vision.patch * vision.pool
        return int(pixels.shape[0] // cell) * int(pixels.shape[1] // cell)

    def budget(self, max_soft_tokens: Any) -> int:
        return self.default_budget if max_soft_tokens is None else media.check_budget(max_soft_tokens)

    def _text_parts(self) -> tuple[Tokenizer, ChatTemplate]:
        if self._tokenizer is None:
            raise ModelFileError(f"{self._directory}: no tokenizer.json; without it only token ids can be given")
        if self.template is None:
            raise ModelFileError(f"{self._directory}: no chat template; without it only token ids can be given")
        return self._tokenizer, self.template


def _load_template(directory: Path, tokenizer: Tokenizer | None) -> ChatTemplate | None:
    path = directory / _TEMPLATE
    if path.is_file():
        try:
            return ChatTemplate(read_bytes(path, MAX_CONFIG_BYTES).decode("utf-8"), str(path))
        except UnicodeDecodeError:
            raise ModelFileError(f"{path}: not UTF-8") from None
    value = None if tokenizer is None else tokenizer.config.get("chat_template")
    where = f"{directory / 'tokenizer_config.json'}: chat_template"
    if isinstance(value, list):  # named templates
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    if value is None:
        return None
    if not isinstance(value, str):
        raise ModelFileError(f"{where}: expected a string, found {type(value).__name__}")
    return ChatTemplate(value, where)


def _load_budget(directory: Path, config: ParsedConfig) -> int:
    """The picture budget of the checkpoint's processor, after checking that its sizes are the encoder's."""
    vision = config.core.vision
    settings: Mapping[str, Any] = {}
    where = directory / "processor_config.json"
    if where.is_file():
        settings = read_json(where).get("image_processor") or {}
    if not settings:
        where = directory / "preprocessor_config.json"
        settings = read_json(where) if where.is_file() else {}
    if vision is None or not settings:
        return media.DEFAULT_BUDGET
    if not isinstance(settings, Mapping):
        raise ModelFileError(f"{where}: image_processor: expected an object")
    for name, expected in (("patch_size", vision.patch), ("pooling_kernel_size", vision.pool)):
        if settings.get(name, expected) != expected:
            raise ModelFileError(f"{where}: {name}: config.json says {expected}, found {str(settings[name])[:40]}")
    try:
        return media.check_budget(settings.get("max_soft_tokens", media.DEFAULT_BUDGET))
    except RequestError as error:
        raise ModelFileError(f"{where}: {error}") from None
