"""config.json of a checkpoint, turned into the engine's `ModelConfig`.

Knows: the field names and defaults of the published checkpoints. Must not know: tensors, tokens, names of models.
Every field that is read is checked for type and range; every other field is ignored and never acted upon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import _core
from ..errors import ModelFileError
from ..jsonfile import type_name
from .encoders import audio_config, patch, pixel_config, pool, sample_config, vision_config
from .section import Section
from .text import text_config

__all__ = ["UNIFIED_DEFAULTS", "MediaTokens", "ParsedConfig", "PatchGrid", "parse_config"]

_DRAFTERS = ("gemma4_assistant", "gemma4_unified_assistant")
_KINDS = ("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text")
# Where a unified model's text_config differs: other defaults, and fields that its type does not have.
UNIFIED_DEFAULTS = {
    "max_position_embeddings": 262_144,
    "sliding_window": 1024,
    "use_bidirectional_attention": "vision",
}
_UNIFIED_ABSENT = {"hidden_size_per_layer_input": 0, "enable_moe_block": False}
_VISION = ("model.vision_tower.", "model.vision_embedder.", "model.embed_vision.")
_AUDIO = ("model.audio_tower.", "model.embed_audio.")


@dataclass(frozen=True)
class MediaTokens:
    """Ids that open, stand for and close the soft tokens of one medium."""

    open: int
    soft: int
    close: int


@dataclass(frozen=True)
class PatchGrid:
    """The grid that a picture is cut into."""

    patch: int
    """Pixels on a side of a patch."""
    pool: int
    """Patches on a side of a soft token."""
    reach: int
    """Pixels on a side of a picture at most: as far as the model knows positions."""


@dataclass(frozen=True)
class ParsedConfig:
    """What config.json says, for the engine and for the layers above it."""

    core: _core.ModelConfig
    grid: PatchGrid | None
    image: MediaTokens | None
    audio: MediaTokens | None
    video: MediaTokens | None
    """Of a frame: opened and closed as a picture is."""
    text_prefix: str
    """Where the text tensors are: `"model.language_model."`, or `"model."` in a text-only checkpoint."""
    eos_ids: tuple[int, ...]
    unused: tuple[str, ...]
    """What the names of tensors begin with that belong to encoders which the config leaves out."""


def parse_config(data: Mapping[str, Any], source: str = "config.json") -> ParsedConfig:
    """Check a config and turn it into sizes and layer specifications.

    Args:
        data: the JSON object.
        source: the file's name, for messages.

    Raises:
        ModelFileError: a field is missing, has the wrong type, is out of range, or asks for what is not supported.
    """
    top = Section(data, source, "")
    kind = top.text("model_type", None)
    if kind in _DRAFTERS:
        raise top.error("model_type", f"{kind!r} is a drafter; give it as drafter= beside the model it belongs to")
    if kind not in _KINDS:
        raise top.error("model_type", f"expected one of {', '.join(map(repr, _KINDS))}, found {kind!r}")
    text_only, unified = kind.endswith("_text"), kind.startswith("gemma4_unified")
    text = top if text_only else top.section("text_config")
    if text is None:
        raise top.error("text_config", "expected an object, found nothing")
    if unified:
        text = Section({**UNIFIED_DEFAULTS, **text.data, **_UNIFIED_ABSENT}, source, text.path)
    vision = None if text_only else top.section("vision_config")
    audio = None if text_only else top.section("audio_config")

    core = _core.ModelConfig()
    core.text = text_config(text)
    # The reference's forward pass of the two kinds differs here.
    core.text.whole_images = unified and core.text.bidirectional_images
    core.text.tied_embeddings = top.boolean("tie_word_embeddings", True)
    if not text_only:
        core.text.placeholders = _placeholders(top, core.text.vocab)
    if vision is not None:
        core.vision, core.pixels = (None, pixel_config(vision)) if unified else (vision_config(vision), None)
    if audio is not None:
        core.audio, core.samples = (None, sample_config(audio)) if unified else (audio_config(audio), None)
    try:
        core.validate()
    except ModelFileError as error:  # of the engine, which knows no files
        raise ModelFileError(f"{source}: {str(error).removeprefix('config: ')}") from None
    return ParsedConfig(
        core=core,
        grid=None if vision is None else _grid(vision, core),
        image=None if vision is None else _image_tokens(top, core.text.vocab),
        audio=None if audio is None else _audio_tokens(top, core.text.vocab),
        video=None if vision is None else _video_tokens(top, core.text.vocab),
        text_prefix="model." if text_only else "model.language_model.",
        eos_ids=read_eos(data, source) or read_eos(text.data, source),
        unused=(() if vision is not None else _VISION) + (() if audio is not None else _AUDIO),
    )


def read_eos(data: Mapping[str, Any], source: str) -> tuple[int, ...]:
    """The ids in `eos_token_id`: one integer, a list of them, or none."""
    value = data.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for item in ids:
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < 1 << 31:
            raise ModelFileError(
                f"{source}: eos_token_id: expected token ids, found {type_name(item)} {str(item)[:40]}"
            )
    return tuple(ids)


def _placeholders(top: Section, vocab: int) -> list[int]:
    """Ids that soft tokens replace; one that stands alone is embedded as padding."""
    defaults = {"image_token_id": 258_880, "audio_token_id": 258_881, "video_token_id": 258_884}
    ids = [
        top.integer(field, default, 0, (1 << 31) - 1)
        for field, default in defaults.items()
        if field not in top.data or top.given(field)
    ]
    return [token for token in ids if token < vocab]


def _image_tokens(top: Section, vocab: int) -> MediaTokens | None:
    defaults = {"boi_token_id": 255_999, "image_token_id": 258_880, "eoi_token_id": 258_882}
    return _media_tokens(top, vocab, "image_token_id", defaults)


def _audio_tokens(top: Section, vocab: int) -> MediaTokens | None:
    close = "eoa_token_id" if top.given("eoa_token_id") else "eoa_token_index"  # both are found in published files
    defaults = {"boa_token_id": 256_000, "audio_token_id": 258_881, close: 258_883}
    return _media_tokens(top, vocab, "audio_token_id", defaults)


def _video_tokens(top: Section, vocab: int) -> MediaTokens | None:
    if "video_token_id" in top.data and not top.given("video_token_id"):
        return None
    defaults = {"boi_token_id": 255_999, "video_token_id": 258_884, "eoi_token_id": 258_882}
    return _media_tokens(top, vocab, "video_token_id", defaults)


def _media_tokens(top: Section, vocab: int, name: str, defaults: Mapping[str, int]) -> MediaTokens | None:
    """The ids in the fields of `defaults`: opening, soft, closing. None where the vocabulary lacks them: such a model
    still reads text."""
    ids = [top.integer(field, default, 0, (1 << 31) - 1) for field, default in defaults.items()]
    if len(set(ids)) != len(ids):
        raise top.error(name, f"{', '.join(defaults)} must differ, found {ids}")
    return MediaTokens(*ids) if max(ids) < vocab else None


def _grid(vision: Section, core: _core.ModelConfig) -> PatchGrid:
    pixels, patches = patch(vision), pool(vision)
    if core.pixels is not None:
        return PatchGrid(pixels, patches, core.pixels.positions * pixels * patches)
    assert core.vision is not None
    return PatchGrid(pixels, patches, core.vision.positions * pixels)
