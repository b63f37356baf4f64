"""The reference: transformers' Gemma 4 in float32 with eager attention, and what its image processors make of pictures.

Knows: transformers. Must not know: the engine under test.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate
from transformers import DynamicCache, Gemma4ForConditionalGeneration
from transformers.models.gemma4.image_processing_pil_gemma4 import (
    Gemma4ImageProcessorPil,
    get_aspect_ratio_preserving_size,
)

from .tiny_tokenizer import IDS

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]


def _hadamard(n: int) -> torch.Tensor:
    """(n, n) orthonormal and symmetric; n is a power of two."""
    h = torch.ones(1, 1)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h / n**0.5


def _quantized(x: torch.Tensor, extreme_level: float, low: int, high: int) -> torch.Tensor:
    """What a cache of levels in [low, high] keeps of heads (..., head_dim).

    The head is padded to a multiple of 32 and rotated by blocks of the largest power of two in it; 64 values share a
    scale, rounded to bf16, which makes the largest of them `extreme_level`.
    """
    head_dim, row = x.shape[-1], -(-x.shape[-1] // 32) * 32
    rotation = _hadamard(row & -row)
    blocks = torch.nn.functional.pad(x, (0, row - head_dim)).unflatten(-1, (-1, len(rotation)))
    kept = []
    for group in (blocks @ rotation).flatten(-2).split(64, -1):
        extreme = group.gather(-1, group.abs().argmax(-1, keepdim=True))
        scale = ((extreme.abs() if extreme_level > 0 else extreme) / extreme_level).to(torch.bfloat16).float()
        kept.append(torch.where(scale == 0, 0, (group / scale).round().clamp(low, high) * scale))
    blocks = torch.cat(kept, -1).unflatten(-1, (-1, len(rotation)))
    return (blocks @ rotation).flatten(-2)[..., :head_dim]


ROUNDINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "bf16": lambda x: x.to(torch.bfloat16).float(),
    "q8_0": lambda x: _quantized(x, 127, -127, 127),
    "q4_0": lambda x: _quantized(x, -8.4, -8, 7),
}


class RoundedCache(DynamicCache):
    """A cache whose keys and values are rounded when they are written; the arithmetic stays float32."""

    def __init__(self, rounding: Callable[[torch.Tensor], torch.Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rounding = rounding

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):  # type: ignore[no-untyped-def]
        rounded = (self._rounding(t) for t in (key_states, value_states))
        return super().update(*rounded, layer_idx, *args, **kwargs)


@contextmanager
def _double_precision() -> Iterator[None]:
    """Within it, the places where the reference asks for float32 (norms, softmax, rotations) give float64."""
    softmax = torch.nn.functional.softmax

    def wide_softmax(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return softmax(x, dim=dim, dtype=torch.float64)

    with (
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
        mock.patch.object(torch.nn.functional, "softmax", wide_softmax),
    ):
        yield


class TorchImageProcessor(Gemma4ImageProcessorPil):
    """What `Gemma4ImageProcessor` gives, which wants torchvision to be installed: pictures are resized by the function
    of torch that torchvision calls. `test_resizing.py` compares the engine with the class, `test_resize_is_torchs`
    with that function."""

    def aspect_ratio_preserving_resize(
        self, image: NDArray[np.uint8], patch_size: int, max_patches: int, pooling_kernel_size: int, resample: Any
    ) -> NDArray[np.uint8]:
        size = get_aspect_ratio_preserving_size(*image.shape[-2:], patch_size, max_patches, pooling_kernel_size)
        if image.shape[-2:] == size:
            return image
        return interpolate(torch.from_numpy(image.copy())[None], size=size, mode="bicubic", antialias=True)[0].numpy()


class Reference:
    """One checkpoint in the reference implementation."""

    def __init__(self, directory: Path) -> None:
        # Weights are read in the checkpoint's dtype and widened: the reference sees the same rounded numbers.
        model = Gemma4ForConditionalGeneration.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
        )
        self.model = model.eval()
        vision = model.config.vision_config
        sizes = {"patch_size": vision.patch_size, "pooling_kernel_size": vision.pooling_kernel_size}
        self.processor: Gemma4ImageProcessorPil = TorchImageProcessor(**sizes)
        self.pillow = Gemma4ImageProcessorPil(**sizes)

    def inputs(self, ids: Ids, images: Sequence[Image.Image] = (), budget: int = 280) -> dict[str, torch.Tensor]:
        """What `forward` and `generate` take for a prompt whose placeholders are already expanded."""
        row = torch.from_numpy(np.asarray(ids, dtype=np.int64))[None]
        inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
        if images:
            inputs["mm_token_type_ids"] = (row == IDS["<|image|>"]).long()
            inputs.update(self.pixels(images, budget))
        return inputs

    def pixels(self, images: Sequence[Image.Image], budget: int) -> dict[str, torch.Tensor]:
        """Flattened, padded patches and their positions."""
        done = self.processor(images=list(images), max_soft_tokens=budget, return_tensors="pt")
        return {"pixel_values": done["pixel_values"], "image_position_ids": done["image_position_ids"]}

    def soft_token_count(self, image: Image.Image, budget: int) -> int:
        return int(self.processor(images=image, max_soft_tokens=budget)["num_soft_tokens_per_image"][0])

    @torch.no_grad()
    def logits(self, ids: Ids, images: Sequence[Image.Image] = (), budget: int = 280) -> Floats:
        """(T, vocab)"""
        return self.model(**self.inputs(ids, images, budget)).logits[0].numpy()

    @torch.no_grad()
    def exact_logits(self, ids: Ids, images: Sequence[Image.Image] = (), budget: int = 280) -> NDArray[np.float64]:
        """(T, vocab) in float64 throughout: what remains when rounding does not matter."""
        model = copy.deepcopy(self.model).double()
        inputs = self.inputs(ids, images, budget)
        if images:
            inputs["pixel_values"] = inputs["pixel_values"].double()
        with _double_precision():
            return model(**inputs).logits[0].numpy()

    @torch.no_grad()
    def logits_with_rounded_cache(self, ids: Ids, kv_cache: str) -> Floats:
        """(T, vocab), with keys and values rounded as a cache of that format (see ROUNDINGS) rounds them."""
        cache = RoundedCache(ROUNDINGS[kv_cache], config=self.model.config.get_text_config())
        return self.model(**self.inputs(ids), past_key_values=cache, use_cache=True).logits[0].numpy()

    @torch.no_grad()
    def soft_tokens(self, image: Image.Image, budget: int, padded: bool = True) -> Floats:
        """(n, text hidden). Without padding the encoder sees the picture's own patches alone."""
        pixels = self.pixels([image], budget)
        if not padded:
            real = (pixels["image_position_ids"][0] != -1).all(-1)
            pixels = {name: tensor[:, real] for name, tensor in pixels.items()}
        return self.model.model.get_image_features(**pixels).pooler_output[0].numpy()

    @torch.no_grad()
    def greedy(self, ids: Ids, steps: int, images: Sequence[Image.Image] = (), budget: int = 280) -> list[int]:
        """`steps` tokens; ends of turn do not end it."""
        inputs = self.inputs(ids, images, budget)
        out = self.model.generate(**inputs, max_new_tokens=steps, do_sample=False, eos_token_id=None, pad_token_id=0)
        return [int(token) for token in out[0, len(ids) :]]
