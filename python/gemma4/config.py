"""config.json of a checkpoint, turned into the engine's `ModelConfig`.

Knows: the field names and defaults of the published checkpoints. Must not know: tensors, tokens, names of models.
Every field that is read is checked for type and range; every other field is ignored and never acted upon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import _core
from .errors import ModelFileError
from .jsonfile import type_name

__all__ = ["Eyes", "MediaTokens", "ParsedConfig", "parse_config"]

_TEXT_DEFAULTS = {
    "vocab_size": 262_144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "sliding_window": 512,
    "vocab_size_per_layer_input": 262_144,
}
_GLOBAL_HEAD_DIM = 512
_PATTERN = 6  # without `layer_types`, every sixth layer is global
_ROPE_DEFAULTS: dict[str, dict[str, Any]] = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
_SLIDING, _FULL = "sliding_attention", "full_attention"
_LATER = {
    "gemma4_assistant": "a drafter, which this version cannot use yet",
    "gemma4_unified_assistant": "a drafter, which this version cannot use yet",
}
_KINDS = ("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text")
# Where a unified model's text_config differs: other defaults, and fields that its type does not have.
_UNIFIED_DEFAULTS = {
    "max_position_embeddings": 262_144,
    "sliding_window": 1024,
    "use_bidirectional_attention": "vision",
}
_UNIFIED_ABSENT = {"hidden_size_per_layer_input": 0, "enable_moe_block": False}
_EYES = ("model.vision_tower.", "model.vision_embedder.", "model.embed_vision.")
_EARS = ("model.audio_tower.", "model.embed_audio.")
_MAX_SIZE = 1 << 20  # channels of a width; larger than any model by two orders
_MAX_LAYERS = 1024


@dataclass(frozen=True)
class MediaTokens:
    """Ids that open, stand for and close the soft tokens of one medium."""

    open: int
    soft: int
    close: int


@dataclass(frozen=True)
class Eyes:
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
    eyes: Eyes | None
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
    top = _Section(data, source, "")
    kind = top.text("model_type", None)
    if kind in _LATER:
        raise top.error("model_type", f"{kind!r} is {_LATER[kind]}")
    if kind not in _KINDS:
        raise top.error("model_type", f"expected one of {', '.join(map(repr, _KINDS))}, found {kind!r}")
    text_only, unified = kind.endswith("_text"), kind.startswith("gemma4_unified")
    text = top if text_only else top.section("text_config")
    if text is None:
        raise top.error("text_config", "expected an object, found nothing")
    if unified:
        text = _Section({**_UNIFIED_DEFAULTS, **text.data, **_UNIFIED_ABSENT}, source, text.path)
    vision = None if text_only else top.section("vision_config")
    audio = None if text_only else top.section("audio_config")

    core = _core.ModelConfig()
    core.text = _text_config(text)
    # The reference's forward pass of the two kinds differs here.
    core.text.whole_images = unified and core.text.bidirectional_images
    core.text.tied_embeddings = top.boolean("tie_word_embeddings", True)
    if not text_only:
        core.text.placeholders = _placeholders(top, core.text.vocab)
    if vision is not None:
        core.vision, core.pixels = (None, _pixel_config(vision)) if unified else (_vision_config(vision), None)
    if audio is not None:
        core.audio, core.samples = (None, _sample_config(audio)) if unified else (_audio_config(audio), None)
    core.validate()
    return ParsedConfig(
        core=core,
        eyes=None if vision is None else _eyes(vision, core),
        image=None if vision is None else _image_tokens(top, core.text.vocab),
        audio=None if audio is None else _audio_tokens(top, core.text.vocab),
        video=None if vision is None else _video_tokens(top, core.text.vocab),
        text_prefix="model." if text_only else "model.language_model.",
        eos_ids=read_eos(data, source) or read_eos(text.data, source),
        unused=(() if vision is not None else _EYES) + (() if audio is not None else _EARS),
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


def _placeholders(top: _Section, vocab: int) -> list[int]:
    """Ids that soft tokens replace; one that stands alone is embedded as padding."""
    defaults = {"image_token_id": 258_880, "audio_token_id": 258_881, "video_token_id": 258_884}
    ids = [
        top.integer(field, default, 0, (1 << 31) - 1)
        for field, default in defaults.items()
        if field not in top.data or top.given(field)
    ]
    return [token for token in ids if token < vocab]


def _image_tokens(top: _Section, vocab: int) -> MediaTokens | None:
    defaults = {"boi_token_id": 255_999, "image_token_id": 258_880, "eoi_token_id": 258_882}
    return _media_tokens(top, vocab, "image_token_id", defaults)


def _audio_tokens(top: _Section, vocab: int) -> MediaTokens | None:
    close = "eoa_token_id" if top.given("eoa_token_id") else "eoa_token_index"  # both are found in published files
    defaults = {"boa_token_id": 256_000, "audio_token_id": 258_881, close: 258_883}
    return _media_tokens(top, vocab, "audio_token_id", defaults)


def _video_tokens(top: _Section, vocab: int) -> MediaTokens | None:
    if "video_token_id" in top.data and not top.given("video_token_id"):
        return None
    defaults = {"boi_token_id": 255_999, "video_token_id": 258_884, "eoi_token_id": 258_882}
    return _media_tokens(top, vocab, "video_token_id", defaults)


def _media_tokens(top: _Section, vocab: int, name: str, defaults: Mapping[str, int]) -> MediaTokens | None:
    """The ids in the fields of `defaults`: opening, soft, closing. None where the vocabulary lacks them: such a model
    still reads text."""
    ids = [top.integer(field, default, 0, (1 << 31) - 1) for field, default in defaults.items()]
    if len(set(ids)) != len(ids):
        raise top.error(name, f"{', '.join(defaults)} must differ, found {ids}")
    return MediaTokens(*ids) if max(ids) < vocab else None


def _text_config(text: _Section) -> _core.TextConfig:
    def size(name: str, low: int, high: int) -> int:
        return text.integer(name, _TEXT_DEFAULTS[name], low, high)

    text.require("hidden_activation", "gelu_pytorch_tanh", "gelu_pytorch_tanh")
    if text.boolean("attention_bias", False):
        raise text.error("attention_bias", "biases in attention are not supported")
    bidirectional = text.data.get("use_bidirectional_attention")
    if bidirectional not in (None, "vision"):
        raise text.error(
            "use_bidirectional_attention", f"only null and 'vision' are supported, found {bidirectional!r}"
        )

    config = _core.TextConfig()
    config.vocab = size("vocab_size", 1, 1 << 24)
    config.hidden = size("hidden_size", 1, _MAX_SIZE)
    config.heads = size("num_attention_heads", 1, 4096)
    config.window = size("sliding_window", 1, (1 << 31) - 1)
    config.context = size("max_position_embeddings", 1, (1 << 31) - 1)
    config.norm_eps = text.real("rms_norm_eps", 1e-6, 0.0, 1.0)
    cap = text.data.get("final_logit_softcapping")
    config.logit_cap = 0.0 if cap is None else text.real("final_logit_softcapping", None, 1e-6, 1e9)
    config.bidirectional_images = bidirectional == "vision"
    config.ple_dim = text.integer("hidden_size_per_layer_input", 256, 0, _MAX_SIZE)
    config.ple_vocab = size("vocab_size_per_layer_input", config.vocab, 1 << 24) if config.ple_dim else 0
    pad = text.data.get("pad_token_id", 0)
    config.pad_id = 0 if pad is None and not config.ple_dim else text.integer("pad_token_id", 0, 0, config.vocab - 1)
    if text.boolean("enable_moe_block", False):
        config.experts = text.integer("num_experts", None, 1, 1 << 16)
        config.experts_used = text.integer("top_k_experts", None, 1, config.experts)
        config.expert_ffn = text.integer("moe_intermediate_size", None, 1, _MAX_SIZE)
    config.layers = _layers(text, config)
    return config


def _layers(text: _Section, config: _core.TextConfig) -> list[_core.LayerSpec]:
    count = text.integer("num_hidden_layers", _TEXT_DEFAULTS["num_hidden_layers"], 1, _MAX_LAYERS)
    types = _layer_types(text, count)
    shapes = _head_shapes(text, types, config.heads)
    readers = text.integer("num_kv_shared_layers", 0, 0, count)
    sources = _kv_sources(text, types, readers)
    ffn = text.integer("intermediate_size", _TEXT_DEFAULTS["intermediate_size"], 1, _MAX_SIZE)
    wide = text.boolean("use_double_wide_mlp", False)
    k_is_v = text.boolean("attention_k_eq_v", False)
    rope = {kind: _rope(text, kind) for kind in dict.fromkeys(types)}

    layers = []
    for index, kind in enumerate(types):
        layer = _core.LayerSpec()
        layer.sliding = kind == _SLIDING
        layer.k_is_v = k_is_v and not layer.sliding
        layer.moe = config.experts > 0
        layer.kv_layer = sources[index]
        layer.head_dim, layer.kv_heads = shapes[index]
        layer.ffn = ffn * (2 if wide and index >= count - readers else 1)
        layer.rope_theta, fraction, layer.rope_factor = rope[kind]
        layer.rope_pairs = int(fraction * layer.head_dim // 2)
        layers.append(layer)
    return layers


def _layer_types(text: _Section, count: int) -> list[str]:
    types = text.data.get("layer_types")
    if types is None:
        types = [_FULL if (index + 1) % _PATTERN == 0 else _SLIDING for index in range(count)]
    if not isinstance(types, list):
        raise text.error("layer_types", f"expected an array, found {type_name(types)}")
    if len(types) != count:
        raise text.error("layer_types", f"expected {count} entries (num_hidden_layers), found {len(types)}")
    for index, kind in enumerate(types):
        if kind not in (_SLIDING, _FULL):
            raise text.error(f"layer_types[{index}]", f"expected {_SLIDING!r} or {_FULL!r}, found {str(kind)[:40]!r}")
    return [*types[:-1], _FULL]  # the last layer is global whatever the file says, as in the reference


def _head_shapes(text: _Section, types: list[str], heads: int) -> list[tuple[int, int]]:
    """(head_dim, kv_heads) of every layer, from either style of config."""
    base = {name: text.integer(name, _TEXT_DEFAULTS[name], 1, 65_536) for name in ("head_dim", "num_key_value_heads")}
    overrides = text.data.get("per_layer_config")
    if overrides is None:
        layer = {"head_dim": text.integer("global_head_dim", _GLOBAL_HEAD_DIM, 1, 65_536)}
        if text.boolean("attention_k_eq_v", False) and text.data.get("num_global_key_value_heads") is not None:
            layer["num_key_value_heads"] = text.integer("num_global_key_value_heads", None, 1, 65_536)
        overrides = {str(index): layer for index, kind in enumerate(types) if kind == _FULL}
    by_layer = _overrides(text, overrides, len(types))

    shapes = []
    for index, kind in enumerate(types):
        shape = {**base, **by_layer.get(index, {})}
        if shape["head_dim"] % 2:
            raise text.error("head_dim", f"must be even for the rotation, layer {index} has {shape['head_dim']}")
        if heads % shape["num_key_value_heads"]:
            raise text.error(
                "num_key_value_heads",
                f"{heads} attention heads are not a multiple of the {shape['num_key_value_heads']} of layer {index}",
            )
        shapes.append((shape["head_dim"], shape["num_key_value_heads"]))
        if shapes[types.index(kind)] != shapes[-1]:
            raise text.error("per_layer_config", f"layers {types.index(kind)} and {index} are both {kind} but differ")
    return shapes


def _overrides(text: _Section, value: Any, count: int) -> dict[int, dict[str, int]]:
    """`per_layer_config`: layer index -> fields that differ there. Only the head shape may differ between layers."""
    if not isinstance(value, dict):
        raise text.error("per_layer_config", f"expected an object, found {type_name(value)}")
    result: dict[int, dict[str, int]] = {}
    for key, fields in value.items():
        where = f"per_layer_config.{key[:20]}"
        if not (key.isascii() and key.isdigit() and len(key) < 8 and int(key) < count) or int(key) in result:
            raise text.error(where, f"expected a layer index from 0 to {count - 1}, once each")
        if not isinstance(fields, dict):
            raise text.error(where, f"expected an object, found {type_name(fields)}")
        section = _Section(fields, text.source, text.path + where + ".")
        for name, wanted in fields.items():
            neutral = wanted in ([], None) if name == "skip" else name in text.data and wanted == text.data[name]
            if name not in ("head_dim", "num_key_value_heads") and not neutral:
                raise section.error(name[:60], "cannot differ between layers")
        names = ("head_dim", "num_key_value_heads")
        result[int(key)] = {name: section.integer(name, None, 1, 65_536) for name in names if name in fields}
    return result


def _kv_sources(text: _Section, types: list[str], readers: int) -> list[int]:
    """Whose keys and values each layer reads: its own, or those of the last owner of its type."""
    owners = len(types) - readers
    last = {kind: index for index, kind in enumerate(types[:owners])}
    missing = set(types[owners:]) - set(last)
    if readers and missing:
        raise text.error("num_kv_shared_layers", f"no layer before {owners} owns keys of type {sorted(missing)[0]}")
    return [index if index < owners else last[kind] for index, kind in enumerate(types)]


def _rope(text: _Section, kind: str) -> tuple[float, float, float]:
    """(theta, fraction of the head that rotates, divisor of the positions)."""
    field, table = _rope_table(text)
    if table is None:
        table = _ROPE_DEFAULTS
    rope = _Section(table, text.source, f"{text.path}{field}.").section(kind)
    if rope is None:
        raise text.error(f"{field}.{kind}", "expected an object, found nothing")
    style = _rope_style(rope, "default")
    if style not in ("default", "linear", "proportional"):
        raise rope.error(
            "rope_type", f"only 'default', 'linear' and 'proportional' are supported, found {style[:40]!r}"
        )
    theta = rope.real("rope_theta", None, 1e-3, 1e30)
    if style == "default":
        return theta, 1.0, 1.0
    if style == "linear":
        if rope.real("partial_rotary_factor", 1.0, 0.0, 1.0) != 1.0:
            raise rope.error("partial_rotary_factor", "is not supported with 'linear'")
        return theta, 1.0, rope.real("factor", None, 1e-6, 1e6)
    return theta, rope.real("partial_rotary_factor", 1.0, 0.0, 1.0), rope.real("factor", 1.0, 1e-6, 1e6)


def _rope_table(section: _Section) -> tuple[str, dict[str, Any] | None]:
    """The field with the rotations, and what it holds. The older name overrides the newer one, as in the reference."""
    for field in ("rope_scaling", "rope_parameters"):
        table = section.data.get(field)
        if table is None:
            continue
        if not isinstance(table, dict):
            raise section.error(field, f"expected an object, found {type_name(table)}")
        return field, table
    return "rope_parameters", None


def _rope_style(rope: _Section, default: str) -> str:
    """`rope_type`, which older files call `type`."""
    return rope.text("rope_type" if rope.given("rope_type") else "type", default)


def _vision_config(vision: _Section) -> _core.VisionConfig:
    vision.require("hidden_activation", "gelu_pytorch_tanh", "gelu_pytorch_tanh")
    if vision.data.get("attention_bias") not in (None, False):
        raise vision.error("attention_bias", "biases in attention are not supported")
    config = _core.VisionConfig()
    config.hidden = vision.integer("hidden_size", 768, 1, _MAX_SIZE)
    config.ffn = vision.integer("intermediate_size", 3072, 1, _MAX_SIZE)
    config.layers = vision.integer("num_hidden_layers", 16, 1, _MAX_LAYERS)
    config.heads = vision.integer("num_attention_heads", 12, 1, 4096)
    config.kv_heads = vision.integer("num_key_value_heads", 12, 1, config.heads)
    config.head_dim = vision.integer("head_dim", 64, 4, 65_536)
    config.patch = _patch(vision)
    config.pool = _pool(vision)
    config.positions = vision.integer("position_embedding_size", 10_240, 1, 1 << 24)
    config.norm_eps = vision.real("rms_norm_eps", 1e-6, 0.0, 1.0)
    config.clipped = vision.boolean("use_clipped_linears", False)
    config.standardize = vision.boolean("standardize", False)
    if config.heads % config.kv_heads:
        raise vision.error("num_key_value_heads", f"{config.heads} heads are not a multiple of {config.kv_heads}")
    if config.head_dim % 4:
        raise vision.error("head_dim", f"must be a multiple of 4 for the rotation by x and y, found {config.head_dim}")
    field, table = _rope_table(vision)
    rope = _Section(table or {}, vision.source, f"{vision.path}{field}.")
    if _rope_style(rope, "axial") not in ("axial", "default"):  # older files say default and mean axial
        raise rope.error("rope_type", f"only 'axial' is supported, found {_rope_style(rope, '')[:40]!r}")
    theta = rope if rope.given("rope_theta") else vision
    config.rope_theta = theta.real("rope_theta", 100.0, 1e-3, 1e30)
    return config


def _audio_config(audio: _Section) -> _core.AudioConfig:
    audio.require("hidden_act", "silu", "silu")
    # What masked positions get in the reference; here they are not looked at, which is the same if exp() makes it 0.
    audio.real("attention_invalid_logits_value", -1e9, -1e38, -1e4)
    channels = audio.data.get("subsampling_conv_channels", [128, 32])
    sizes = isinstance(channels, list) and [n for n in channels if type(n) is int and 4 <= n <= 4096]
    if not sizes or len(sizes) != 2 or sizes != channels:
        raise audio.error("subsampling_conv_channels", f"expected two sizes of 4 to 4096, found {str(channels)[:40]}")
    config = _core.AudioConfig()
    config.hidden = audio.integer("hidden_size", 1024, 2, _MAX_SIZE)
    config.layers = audio.integer("num_hidden_layers", 12, 1, _MAX_LAYERS)
    config.heads = audio.integer("num_attention_heads", 8, 1, 4096)
    if config.hidden % config.heads or config.hidden % 2:
        raise audio.error("hidden_size", f"must be even and a multiple of the {config.heads} heads")
    config.channels1, config.channels2 = sizes
    config.mel_bins = sizes[0] // 4 * 4  # what fits the matrix after the convolutions
    config.conv_kernel = audio.integer("conv_kernel_size", 5, 1, 256)
    config.chunk = audio.integer("attention_chunk_size", 12, 1, 4096)
    config.left = audio.integer("attention_context_left", 13, 2, 4096)
    config.right = audio.integer("attention_context_right", 0, 0, 4096)
    config.out = audio.integer("output_proj_dims", 1536, 1, _MAX_SIZE)
    config.norm_eps = audio.real("rms_norm_eps", 1e-6, 0.0, 1.0)
    config.residual_weight = audio.real("residual_weight", 0.5, -1e6, 1e6)
    config.logit_cap = audio.real("attention_logit_cap", 50.0, 1e-6, 1e9)
    config.gradient_clip = audio.real("gradient_clipping", 1e10, 1e-6, 3.4e38)
    config.clipped = audio.boolean("use_clipped_linears", True)
    return config


def _patch(vision: _Section) -> int:
    return vision.integer("patch_size", 16, 1, 256)


def _pool(vision: _Section) -> int:
    return vision.integer("pooling_kernel_size", 3, 1, 64)


def _eyes(vision: _Section, core: _core.ModelConfig) -> Eyes:
    patch, pool = _patch(vision), _pool(vision)
    if core.pixels is not None:
        return Eyes(patch, pool, core.pixels.positions * patch * pool)
    assert core.vision is not None
    return Eyes(patch, pool, core.vision.positions * patch)


def _pixel_config(vision: _Section) -> _core.PixelConfig:
    config = _core.PixelConfig()
    config.side = _patch(vision) * _pool(vision)
    config.width = vision.integer("mm_embed_dim", 3840, 1, _MAX_SIZE)
    config.positions = vision.integer("mm_posemb_size", 1120, 1, 1 << 24)
    config.norm_eps = vision.real("rms_norm_eps", 1e-6, 0.0, 1.0)
    for name, default, expected in (
        ("model_patch_size", config.side, config.side),
        ("output_proj_dims", 3840, config.width),
    ):
        if vision.integer(name, default, 1, _MAX_SIZE) != expected:
            raise vision.error(name, f"expected {expected}, found {vision.data.get(name, default)}")
    return config


def _sample_config(audio: _Section) -> _core.SampleConfig:
    config = _core.SampleConfig()
    # One number with four names, of which the first is what the published files say.
    names = ("audio_embed_dim", "audio_samples_per_token", "hidden_size", "output_proj_dims")
    sizes = {name: audio.integer(name, None, 1, 65_536) for name in names if name in audio.data}
    for name, size in sizes.items():
        if size != next(iter(sizes.values())):
            raise audio.error(name, f"expected {next(iter(sizes.values()))} as {next(iter(sizes))}, found {size}")
    config.frame = next(iter(sizes.values()), 640)
    config.norm_eps = audio.real("rms_norm_eps", 1e-6, 0.0, 1.0)
    return config


class _Section:
    """One JSON object of the file, whose fields are read with their type and range."""

    def __init__(self, data: Mapping[str, Any], source: str, path: str) -> None:
        self.data = data
        self.source = source
        self.path = path  # "" or "text_config."

    def given(self, name: str) -> bool:
        """False for a field that is null, as it is in checkpoints without what it is for."""
        return self.data.get(name) is not None

    def error(self, name: str, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.source}: {self.path}{name}: {problem}")

    def section(self, name: str) -> _Section | None:
        value = self.data.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(name, f"expected an object, found {type_name(value)}")
        return _Section(value, self.source, f"{self.path}{name}.")

    def integer(self, name: str, default: int | None, low: int, high: int) -> int:
        value = self.data.get(name, default) if default is not None else self.data.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, f"expected an integer, found {self._found(name)}")
        if not low <= value <= high:
            raise self.error(name, f"expected {low} to {high}, found {value!s:.40}")
        return value

    def real(self, name: str, default: float | None, low: float, high: float) -> float:
        value = self.data.get(name, default) if default is not None else self.data.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, f"expected a number, found {self._found(name)}")
        if not low <= value <= high:  # NaN is not
            raise self.error(name, f"expected {low:g} to {high:g}, found {value!s:.40}")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        """Null stands for the default: a mechanism that a checkpoint does not speak of."""
        value = self.data[name] if self.given(name) else default
        if not isinstance(value, bool):
            raise self.error(name, f"expected true or false, found {type_name(value)}")
        return value

    def text(self, name: str, default: str | None) -> str:
        value = self.data.get(name, default)
        if not isinstance(value, str):
            raise self.error(name, f"expected a string, found {self._found(name)}")
        return value

    def require(self, name: str, default: str, *allowed: str) -> None:
        value = self.data.get(name, default)
        if value not in allowed:
            raise self.error(name, f"only {' or '.join(map(repr, allowed))} is supported, found {str(value)[:40]!r}")

    def _found(self, name: str) -> str:
        return type_name(self.data[name]) if name in self.data else "nothing"
