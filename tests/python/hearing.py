"""Sounds, and the demo model with random ears or with none: every way of giving it sound, whatever it was taught."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import soundfile
from numpy.typing import NDArray

Samples = NDArray[np.float32]

DEMO = Path(gemma4.__file__).parent / "demo_model"
EARS = ("model.audio_tower.", "model.embed_audio.")
HIDDEN, CHANNELS, OUT, KERNEL, HEADS = 24, (128, 4), 20, 5, 2

CONFIG: dict[str, Any] = {
    "model_type": "gemma4_audio",
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "subsampling_conv_channels": list(CHANNELS),
    "conv_kernel_size": KERNEL,
    "output_proj_dims": OUT,
    "use_clipped_linears": True,
}


def tone(samples: int, rate: int = 16_000) -> Samples:
    """A chirp with a little noise."""
    t = np.arange(samples) / rate
    noise = np.random.default_rng(samples).normal(0, 0.01, samples)
    return (0.4 * np.sin(2 * np.pi * (200 + 300 * t) * t) + noise).astype(np.float32)


def encoded(samples: NDArray[Any], container: str = "WAV", subtype: str | None = "PCM_16", rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


def write_hearing_model(directory: Path, **config: Any) -> Path:
    """A copy of the demo model with random ears in the place of its own; fields of `config` go into `audio_config`."""
    ears = {**CONFIG, **config}
    settings = _copy(directory, ears)
    _write_tensors(directory / "model.safetensors", _tensors(settings["text_config"]["hidden_size"]))
    return directory


def write_deaf_model(directory: Path) -> Path:
    """A copy of the demo model without ears."""
    _copy(directory, None)
    _write_tensors(directory / "model.safetensors", {})
    return directory


def _copy(directory: Path, ears: dict[str, Any] | None) -> dict[str, Any]:
    """Copies all but the weights and returns the config, whose `audio_config` becomes `ears`."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in DEMO.iterdir():
        if file.suffix != ".safetensors":
            shutil.copyfile(file, directory / file.name)
    path = directory / "config.json"
    settings: dict[str, Any] = {**json.loads(path.read_text(encoding="utf-8")), "audio_config": ears}
    path.write_text(json.dumps(settings), encoding="utf-8")
    return settings


def _tensors(text_hidden: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(3)

    def normal(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) / math.sqrt(shape[-1])).astype(np.float32)

    def ones(n: int) -> NDArray[np.float32]:
        return rng.uniform(0.5, 1.5, n).astype(np.float32)

    made: dict[str, NDArray[np.float32]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        made[f"{name}.linear.weight"] = normal(rows, columns)
        for side in ("input", "output"):
            made[f"{name}.{side}_min"], made[f"{name}.{side}_max"] = np.float32([-1.5]), np.float32([1.5])
            made[f"{name}.{side}_min"].shape = made[f"{name}.{side}_max"].shape = ()

    conv, layer = "model.audio_tower.subsample_conv_projection.", "model.audio_tower.layers.0."
    made[conv + "layer0.conv.weight"], made[conv + "layer0.norm.weight"] = (
        normal(CHANNELS[0], 1, 3, 3),
        ones(CHANNELS[0]),
    )
    made[conv + "layer1.conv.weight"] = normal(CHANNELS[1], CHANNELS[0], 3, 3)
    made[conv + "layer1.norm.weight"] = ones(CHANNELS[1])
    made[conv + "input_proj_linear.weight"] = normal(HIDDEN, CHANNELS[0] // 4 * CHANNELS[1])
    for block in ("feed_forward1", "feed_forward2"):
        linear(layer + block + ".ffw_layer_1", 4 * HIDDEN, HIDDEN)
        linear(layer + block + ".ffw_layer_2", HIDDEN, 4 * HIDDEN)
        made[layer + block + ".pre_layer_norm.weight"] = ones(HIDDEN)
        made[layer + block + ".post_layer_norm.weight"] = ones(HIDDEN)
    for name in ("q_proj", "k_proj", "v_proj", "post"):
        linear(layer + "self_attn." + name, HIDDEN, HIDDEN)
    made[layer + "self_attn.relative_k_proj.weight"] = normal(HIDDEN, HIDDEN)
    made[layer + "self_attn.per_dim_scale"] = normal(HIDDEN // HEADS)
    linear(layer + "lconv1d.linear_start", 2 * HIDDEN, HIDDEN)
    linear(layer + "lconv1d.linear_end", HIDDEN, HIDDEN)
    made[layer + "lconv1d.depthwise_conv1d.weight"] = normal(HIDDEN, 1, KERNEL)
    for name in ("lconv1d.pre_layer_norm", "lconv1d.conv_norm", "norm_pre_attn", "norm_post_attn", "norm_out"):
        made[layer + name + ".weight"] = ones(HIDDEN)
    made["model.audio_tower.output_proj.weight"], made["model.audio_tower.output_proj.bias"] = (
        normal(OUT, HIDDEN),
        ones(OUT),
    )
    made["model.embed_audio.embedding_projection.weight"] = normal(text_hidden, OUT)
    return made


def _write_tensors(target: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    """The demo model's tensors with `tensors` as the only ones of ears."""
    data = (DEMO / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    old, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    header: dict[str, Any] = {}
    parts: list[bytes] = []
    at = 0

    def add(name: str, entry: dict[str, Any], content: bytes) -> None:
        nonlocal at
        header[name] = {**entry, "data_offsets": [at, at + len(content)]}
        parts.append(content)
        at += len(content)

    for name, array in tensors.items():  # first, so that they are aligned
        add(name, {"dtype": "F32", "shape": list(array.shape)}, array.tobytes())
    old.pop("__metadata__", None)
    for name, entry in sorted(old.items(), key=lambda item: item[1]["data_offsets"]):
        if not name.startswith(EARS):
            add(name, entry, body[slice(*entry["data_offsets"])])
    text = json.dumps(header).encode()
    target.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
