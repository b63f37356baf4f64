"""What the tests ask: token ids, pictures, and prompts that hold both. All of it follows from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .tiny_tokenizer import FIRST_PLAIN, IDS
from .variants import Variant


def text_ids(variant: Variant, length: int, seed: int = 0) -> NDArray[np.int32]:
    """Ordinary tokens after `<bos>`."""
    ids = np.random.default_rng(seed).integers(FIRST_PLAIN, variant.vocab, length).astype(np.int32)
    ids[0] = IDS["<bos>"]
    return ids


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """A colour gradient, a few rectangles and noise: smooth parts, edges and detail for the resize."""
    rng = np.random.default_rng([seed, height, width])
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    pixels = np.stack([y / height, x / width, (x + y) / (height + width)], axis=-1) * 200
    for _ in range(4):
        top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
        pixels[top : top + height // 3 + 1, left : left + width // 3 + 1] = rng.integers(0, 256, 3)
    pixels += rng.normal(0, 20, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Prompt:
    """Token ids with placeholders expanded, and the pictures that belong to them."""

    ids: NDArray[np.int32]
    images: tuple[Image.Image, ...]
    budget: int
    runs: tuple[tuple[int, int], ...]
    """[begin, end) of each picture's soft tokens."""


def image_prompt(variant: Variant, images: Sequence[Image.Image], counts: Sequence[int], budget: int = 70) -> Prompt:
    """Text, then each picture followed by text; some lengths are odd so that no run starts at a round position."""
    parts: list[NDArray[np.int32]] = [text_ids(variant, 19, seed=11)]
    runs = []
    for i, count in enumerate(counts):
        begin = sum(map(len, parts)) + 1
        runs.append((begin, begin + count))
        parts.append(np.array([IDS["<|image>"], *[IDS["<|image|>"]] * count, IDS["<image|>"]], dtype=np.int32))
        parts.append(text_ids(variant, 14 + 27 * i, seed=20 + i)[1:])
    return Prompt(np.concatenate(parts), tuple(images), budget, tuple(runs))


def messages(images: Sequence[Image.Image], text: str = "what is in the picture") -> list[dict[str, Any]]:
    """One user turn: pictures with words before, between and after them."""
    content: list[dict[str, Any]] = [{"type": "text", "text": "look "}]
    for image in images:
        content += [{"type": "image", "image": image}, {"type": "text", "text": " and "}]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]
