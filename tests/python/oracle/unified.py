"""The published shape without encoders, scaled down, and the reference for it.

Knows: transformers' unified model, its feature extractor, and what its image processor does. That processor itself
needs torchvision; here torch repeats its steps (`test_resizing.py` compares with what the processor gives).
Must not know: the engine under test.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    Gemma4UnifiedAudioConfig,
    Gemma4UnifiedConfig,
    Gemma4UnifiedForConditionalGeneration,
    Gemma4UnifiedTextConfig,
    Gemma4UnifiedVisionConfig,
)
from transformers.models.gemma4_unified.feature_extraction_gemma4_unified import Gemma4UnifiedAudioFeatureExtractor
from transformers.models.gemma4_unified.processing_gemma4_unified import get_aspect_ratio_preserving_size

from .checkpoints import DTYPES, _initialise
from .reference import Floats, Ids, Reference
from .tiny_tokenizer import IDS, write_tokenizer
from .variants import DENSE, E2B, Variant


def _without_ple(variant: Variant) -> dict[str, Any]:
    """The decoder of another variant, less the fields that a unified config does not have."""
    absent = ("hidden_size_per_layer_input", "vocab_size_per_layer_input")
    return {name: value for name, value in variant.text.items() if name not in absent}


# As published in everything but width and depth: K = V in global layers, pictures both ways, frames of 640 samples.
UNIFIED = Variant(
    name="12b",
    seed=5,
    text={
        **_without_ple(DENSE),
        "vocab_size": 2003,
        "num_hidden_layers": 7,
        "layer_types": [*["sliding_attention"] * 3, "full_attention", *["sliding_attention"] * 2, "full_attention"],
    },
    vision={
        "patch_size": 4,
        "pooling_kernel_size": 2,
        "mm_embed_dim": 44,
        "output_proj_dims": 44,
        "mm_posemb_size": 1120,
    },
    audio={"audio_embed_dim": 640},
)

# What a config may say otherwise: pictures causal, shared keys, wide MLPs, other norms, odd frames.
OTHER = Variant(
    name="12b-other",
    seed=6,
    text={**_without_ple(E2B), "use_bidirectional_attention": None, "rms_norm_eps": 1e-4},
    vision={
        "patch_size": 3,
        "pooling_kernel_size": 3,
        "mm_embed_dim": 37,
        "output_proj_dims": 37,
        "mm_posemb_size": 1200,
        "rms_norm_eps": 1e-2,
    },
    audio={"audio_embed_dim": 37, "rms_norm_eps": 1e-2},
)
UNIFIED_VARIANTS = {variant.name: variant for variant in (UNIFIED, OTHER)}


def build_model(variant: Variant) -> Gemma4UnifiedForConditionalGeneration:
    """The reference model in float32 with seeded weights under which every mechanism changes the output."""
    config = Gemma4UnifiedConfig(
        text_config=Gemma4UnifiedTextConfig(**variant.text),
        vision_config=Gemma4UnifiedVisionConfig(**variant.vision),
        audio_config=Gemma4UnifiedAudioConfig(**(variant.audio or {})),
        boi_token_id=IDS["<|image>"],
        eoi_token_id=IDS["<image|>"],
        image_token_id=IDS["<|image|>"],
        video_token_id=IDS["<|video|>"],
        boa_token_id=IDS["<|audio>"],
        eoa_token_index=IDS["<audio|>"],
        audio_token_id=IDS["<|audio|>"],
    )
    model = Gemma4UnifiedForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(variant.seed)
    with torch.no_grad():
        for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
            if name.endswith(("inv_freq", "embed_scale")):
                continue
            _initialise(name, tensor, generator)
            if name.endswith(("bias", "pos_embedding")):
                tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
    return model


def write_unified(directory: Path, variant: Variant, dtype: str = "F32") -> Path:
    """A complete checkpoint with the reference's own `save_pretrained`, which gives the published tensor names."""
    directory.mkdir(parents=True, exist_ok=True)
    build_model(variant).to(DTYPES[dtype]).save_pretrained(directory)
    write_tokenizer(directory, variant.vocab)
    frame = (variant.audio or {})["audio_embed_dim"]
    processor = {
        "processor_class": "Gemma4UnifiedProcessor",
        "image_processor": {
            "image_processor_type": "Gemma4UnifiedImageProcessor",
            "patch_size": variant.vision["patch_size"],
            "pooling_kernel_size": variant.vision["pooling_kernel_size"],
            "max_soft_tokens": 280,
        },
        "feature_extractor": {
            "feature_extractor_type": "Gemma4UnifiedAudioFeatureExtractor",
            "audio_samples_per_token": frame,
            "feature_size": frame,
            "sampling_rate": 16_000,
        },
    }
    (directory / "processor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    generation = {"eos_token_id": [IDS["<eos>"], IDS["<turn|>"]], "bos_token_id": IDS["<bos>"], "pad_token_id": 0}
    (directory / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return directory


class UnifiedReference(Reference):
    """One checkpoint in the reference implementation, in float32 with eager attention."""

    def __init__(self, directory: Path) -> None:
        model = Gemma4UnifiedForConditionalGeneration.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager"
        )
        self.model = model.eval()
        audio = self.model.config.audio_config
        size = 640 if audio is None else audio.audio_embed_dim
        self.extractor = Gemma4UnifiedAudioFeatureExtractor(feature_size=size, audio_samples_per_token=size)

    def squares(self, image: Image.Image, budget: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, 3 * side²) from 0 to 1, and their (n, 2) places."""
        vision = self.model.config.vision_config
        patch, pool, side = vision.patch_size, vision.pooling_kernel_size, vision.model_patch_size
        size = get_aspect_ratio_preserving_size(image.height, image.width, patch, budget * pool**2, pool)
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
        if pixels.shape[-2:] != size:
            pixels = torch.nn.functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)
        rows, columns = size[0] // side, size[1] // side
        grid = pixels[0].reshape(3, rows, side, columns, side).permute(1, 3, 2, 4, 0).reshape(rows * columns, -1)
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(-1)
        return grid * (1 / 255), places

    def pixels(self, images: Sequence[Image.Image], budget: int) -> dict[str, torch.Tensor]:
        """Padded as the processor pads them."""
        values, places = [], []
        for image in images:
            grid, place = self.squares(image, budget)
            spare = (0, 0, 0, budget - len(grid))
            values.append(torch.nn.functional.pad(grid, spare))
            places.append(torch.nn.functional.pad(place, spare, value=-1))
        return {"pixel_values": torch.stack(values), "image_position_ids": torch.stack(places)}

    def soft_token_count(self, image: Image.Image, budget: int) -> int:
        return len(self.squares(image, budget)[1])

    @torch.no_grad()
    def audio_tokens(self, samples: Floats) -> Floats:
        """(n, text hidden)"""
        features = self.extractor([samples], return_tensors="pt")
        out = self.model.model.get_audio_features(
            features["input_features"], features["input_features_mask"], return_dict=True
        )
        return out.pooler_output[out.attention_mask].numpy()

    def media(
        self, ids: Ids, images: Sequence[Image.Image], sounds: Sequence[Floats], budget: int = 70
    ) -> dict[str, Any]:
        """What `forward` and `generate` take for a prompt whose placeholders are in place."""
        inputs = self.inputs(ids, images, budget)
        if sounds:
            inputs.update(self.extractor(list(sounds), return_tensors="pt"))
        return inputs

    @torch.no_grad()
    def media_logits(self, ids: Ids, images: Sequence[Image.Image], sounds: Sequence[Floats]) -> NDArray[np.float32]:
        """(T, vocab)"""
        return self.model(**self.media(ids, images, sounds)).logits[0].numpy()

    @torch.no_grad()
    def narrow_logits(self, ids: Ids, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """(T, vocab) with the masks that the reference makes for `generate` where the cache is static: pictures both
        ways on sliding layers alone, within the window. Its forward pass makes others."""
        inputs = self.media(ids, images, ())
        rows = torch.empty(1, len(ids), 0)
        masks = self.model.create_masks_for_generate(
            self.model.config, rows, inputs["attention_mask"], None, None, inputs["mm_token_type_ids"]
        )
        return self.model(**{**inputs, "attention_mask": masks}).logits[0].numpy()
