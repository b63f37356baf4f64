"""Writes tiny quantized checkpoints with the reference's own classes, and with compressed-tensors.

Knows: transformers' quantized layers, compressed-tensors. Must not know: the engine under test.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Gemma4ForConditionalGeneration
from transformers.integrations.gemma_quant import QuantizedEmbedding, QuantizedLinear
from transformers.quantizers.quantizer_gemma import GemmaQuantizer
from transformers.utils.quantization_config import GemmaQuantizationConfig

from .audio_variants import AUDIO_VARIANTS
from .checkpoints import build_model, write_surroundings
from .prompts import text_ids
from .variants import E2B, Variant

# Widths that fill no byte, no vector and no block; ears of odd sizes too.
ODD = replace(
    AUDIO_VARIANTS["audio-odd"],
    name="odd",
    seed=21,
    text={**E2B.text, "hidden_size": 75, "hidden_size_per_layer_input": 13, "intermediate_size": 101},
)
# As the published mobile files: encoders in 8 bits, later MLPs and both tables of tokens in 2, the rest in 4.
MOBILE = {
    r"vision_tower|audio_tower|embed_vision|embed_audio": 8,
    r"layers\.[6-9]\.mlp": 2,
    r"lm_head|embed_tokens$": 2,
}
# Every kind of matrix in some other number of bits than MOBILE has it in. No two patterns find the same module: the
# reference takes the first that does, and sorts them when it writes them.
_SOME = "q_proj|ffw_layer_1|linear_start|output_proj"
MIXED = {
    rf"(vision|audio)_tower.*({_SOME})": 2,
    rf"(vision|audio)_tower(?!.*({_SOME}))": 4,
    r"language_model.layers\.[0-4]\.mlp|embed_tokens_per_layer": 2,
    r"language_model.*(q|k|o)_proj|lm_head|per_layer_projection": 8,
}


def _levels(values: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Integer levels of (rows, cols) floats, and the scale of each row, (rows, 1)."""
    top = 2 ** (bits - 1)
    scale = values.abs().amax(1, keepdim=True) / top
    return (values / scale).round().clamp(-top, top - 1).to(torch.int64), scale


def pack_bytes(levels: torch.Tensor, bits: int) -> torch.Tensor:
    """(rows, cols) levels as the reference unpacks them: the first in the lowest bits; a last byte may not be full."""
    if bits == 8:
        return levels.to(torch.int8)
    per, top = 8 // bits, 2 ** (bits - 1)
    padded = torch.nn.functional.pad(levels + top, (0, -levels.shape[1] % per))
    shifts = bits * torch.arange(per)
    return (padded.unflatten(1, (-1, per)) << shifts).sum(-1).to(torch.uint8)


def _extremes(model: Gemma4ForConditionalGeneration, run: Callable[[], Any]) -> dict[str, tuple[float, float]]:
    """The largest magnitudes that each linear reads and writes."""
    seen: dict[str, tuple[float, float]] = {}

    def hook(name: str) -> Callable[..., None]:
        def note(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen[name] = (float(inputs[0].abs().max()), float(output.abs().max()))

        return note

    linears = [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    handles = [module.register_forward_hook(hook(name)) for name, module in linears]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return seen


def _calibrated(model: Gemma4ForConditionalGeneration, variant: Variant) -> dict[str, tuple[float, float]]:
    """Magnitudes over a text, a picture of noise and a sound of noise."""
    rng = np.random.default_rng(variant.seed)
    side = variant.vision["pooling_kernel_size"] * 2
    patches = torch.from_numpy(rng.random((1, side * side, 3 * variant.vision["patch_size"] ** 2), dtype=np.float32))
    places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), -1).reshape(1, -1, 2)
    bins = variant.audio["subsampling_conv_channels"][0] // 4 * 4 if variant.audio else 0
    mel = torch.from_numpy(rng.normal(0, 1, (1, 96, bins)).astype(np.float32))

    def run() -> None:
        model(input_ids=torch.from_numpy(text_ids(variant, 60).astype(np.int64))[None])
        model.model.get_image_features(pixel_values=patches, image_position_ids=places)
        if variant.audio:
            model.model.get_audio_features(mel, torch.ones(1, 96, dtype=torch.bool))

    return _extremes(model, run)


def write_gemma_quantized(
    directory: Path, variant: Variant, bits: dict[str, int], tied: bool = False, calibrated: bool = True
) -> Path:
    """A checkpoint with `quant_method: "gemma"`.

    Args:
        bits: of the modules whose name a pattern finds; 4 for the others.
        tied: the head is the table of tokens, which the reference then leaves as it is, like the projection of sound.
        calibrated: products round what they read and write; but those of keys do not, and every seventh clips.
    """
    model = build_model(variant, tied)
    extremes = _calibrated(model, variant)
    values = {
        name: module.weight.detach().clone() for name, module in model.named_modules() if hasattr(module, "weight")
    }
    config = GemmaQuantizationConfig(
        num_bits=4,
        quantize_embeddings=True,
        module_quant_configs={pattern: {"num_bits": n} for pattern, n in bits.items()},
        modules_to_not_convert=["lm_head", "embed_tokens", "embed_audio.embedding_projection"] if tied else [],
    )
    GemmaQuantizer(config)._process_model_before_weight_loading(model)
    for index, (name, module) in enumerate(model.named_modules()):
        if isinstance(module, QuantizedEmbedding):
            levels, scale = _levels(values[name], module.num_bits)
            module.embedding_quantized.data, module.embedding_scale.data = pack_bytes(levels, module.num_bits), scale
        elif isinstance(module, QuantizedLinear):
            levels, scale = _levels(values[name], module.num_bits)
            module.weight.data, module.weight_scale.data = pack_bytes(levels, module.num_bits), scale
            if calibrated and not name.endswith("k_proj"):
                steps = [extreme / 127 * (0.7 if index % 7 == 0 else 1.1) for extreme in extremes.get(name, (0, 0))]
                module.input_activation_scale.fill_(steps[0])
                module.output_activation_scale.fill_(steps[1])
    model.config.quantization_config = config
    model.save_pretrained(directory)
    write_surroundings(directory, variant)
    return directory


# Widths of whole groups of 32: the encoders, tables and the head stay as they are.
GROUPED = replace(
    E2B,
    name="grouped",
    seed=22,
    text={**E2B.text, "hidden_size": 64, "hidden_size_per_layer_input": 32, "intermediate_size": 96},
)


def write_compressed(directory: Path, plain: Path, variant: Variant, group_size: int | None = 32) -> None:
    """A checkpoint as compressed-tensors packs it, 4 bits and symmetric, and the same with what it decompresses.

    Args:
        plain: where the decompressed values go, in F32: the products of levels and stored scales, not rounded again.
        group_size: elements that share a scale; None for a row of them.
    """
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor as Packed
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme

    strategy = "channel" if group_size is None else "group"
    weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy=strategy, group_size=group_size)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, format="pack-quantized")
    model = build_model(variant).to(torch.bfloat16)
    packed, opened = {}, {}
    linears = {name for name, m in model.model.language_model.named_modules() if isinstance(m, torch.nn.Linear)}
    for name, value in model.state_dict().items():
        module = name.removesuffix(".weight")
        if name == "lm_head.weight":
            continue
        if module.removeprefix("model.language_model.") not in linears:
            packed[name] = opened[name] = value.clone()
            continue
        groups = value.float().unflatten(1, (-1, group_size or value.shape[1]))
        scale = (groups.abs().amax(-1) / 7.5).to(torch.bfloat16)
        parts = Packed.compress({"weight": value, "weight_scale": scale}, scheme)
        packed.update({f"{module}.{part}": tensor.contiguous() for part, tensor in parts.items()})
        opened[name] = Packed.decompress({**parts, "weight_scale": scale.float()}, scheme)["weight"]
        assert opened[name].dtype == torch.float32
    described = QuantizationConfig(
        config_groups={"group_0": scheme}, format="pack-quantized", quantization_status="compressed", ignore=["lm_head"]
    ).model_dump(mode="json")
    for place, tensors, quantization in ((directory, packed, described), (plain, opened, None)):
        place.mkdir(parents=True, exist_ok=True)
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
        model.config.save_pretrained(place)
        if quantization is not None:
            config = json.loads((place / "config.json").read_text(encoding="utf-8"))
            config["quantization_config"] = quantization
            (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
        write_surroundings(place, variant)
