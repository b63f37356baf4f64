"""Pictures and videos whose resizing by the reference is kept in data/pictures, and how results are compared with it.

Knows: NumPy, Pillow. Must not know: the package, torchvision. All follows from integer arithmetic and from two crops of
photographs, so that the pictures are the same wherever the tests run.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

DATA = Path(__file__).parent / "data" / "pictures"
BUDGETS = (70, 140, 280, 560, 1120)
Pixels = NDArray[np.uint8]
_SAMPLE = 20  # pixels on a side of what is kept of a result


@dataclass(frozen=True)
class Case:
    """One picture, or the frames of a video, and what they are prepared for."""

    make: Callable[[], list[Image.Image]]
    budget: int
    unified: bool = False
    patch: int = 16
    pool: int = 3
    video: bool = False


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> Pixels:
    """(height, width, channels) of independent bytes: the worst that a filter can meet."""
    x = np.arange(height * width * channels, dtype=np.uint64) + np.uint64(seed << 40)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return (x >> np.uint64(56)).astype(np.uint8).reshape(height, width, channels)


def gradient(height: int, width: int) -> Pixels:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * y // height, 255 * x // width, (x + y) % 256], axis=-1).astype(np.uint8)


def blocks(height: int, width: int, side: int) -> Pixels:
    """Black and white squares, as of letters."""
    bits = noise(-(-height // side), -(-width // side), 7, 1) & 1
    black = (bits * np.uint8(255)).repeat(side, 0).repeat(side, 1)[:height, :width]
    return black.repeat(3, 2)


def scene(height: int, width: int, seed: int = 0) -> Pixels:
    """A gradient with a little noise and sharp edges."""
    pixels = gradient(height, width) // 2 + noise(height, width, seed) // 8
    pixels[height // 4 : height // 2 + 1, width // 3 : width // 2 + 1] = (250, 10, 90)
    pixels[height // 2 :, : width // 5] //= 3
    return pixels


def _photo(name: str) -> Image.Image:
    return Image.open(DATA / f"{name}.png").convert("RGB")


def _with_alpha(mode: str) -> Image.Image:
    image = Image.fromarray(scene(90, 130)).convert(mode)
    image.putalpha(Image.fromarray(noise(90, 130, 3, 1)[:, :, 0]))
    return image


def _palette(transparent: bool) -> Image.Image:
    image = Image.fromarray(noise(70, 110, 5, 1)[:, :, 0] // 16)
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(noise(1, 16, 6).tobytes())
    if transparent:
        image.info["transparency"] = 3
    return image


def turned(orientation: int) -> Image.Image:
    """A file that says which way up it is, as the reference opens files: upright. Its processor turns none itself."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(scene(75, 140, orientation)).save(file, "PNG", exif=exif)
    return Image.open(file)


def _one(pixels: Callable[[], Pixels | Image.Image]) -> Callable[[], list[Image.Image]]:
    def make() -> list[Image.Image]:
        made = pixels()
        return [made if isinstance(made, Image.Image) else Image.fromarray(made)]

    return make


def _cases() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for budget in BUDGETS:
        cases[f"noise-{budget}"] = Case(_one(lambda: noise(480, 640)), budget)
        cases[f"astronaut-{budget}"] = Case(_one(lambda: _photo("astronaut")), budget)
        cases[f"unified-{budget}"] = Case(_one(lambda: _photo("cat")), budget, unified=True)
    for h, w in (
        (1, 1), (1, 2), (3, 5), (2, 90), (30, 1600), (900, 3), (1, 1000), (997, 2), (48, 48), (333, 777), (1201, 801),
        (384, 384), (384, 410), (410, 384), (383, 385), (64, 4000), (2600, 3500),
    ):  # fmt: skip
        cases[f"scene-{h}x{w}"] = Case(_one(lambda h=h, w=w: scene(h, w)), 70)
    for side in (1, 2, 5):
        cases[f"blocks-{side}"] = Case(_one(lambda side=side: blocks(300, 500, side)), 280)
    cases["checkerboard"] = Case(_one(lambda: ((np.indices((700, 700, 3)).sum(0) & 1) * 255).astype(np.uint8)), 140)
    cases["white"] = Case(_one(lambda: np.full((61, 83, 3), 255, np.uint8)), 70)
    for mode in ("L", "1", "CMYK", "YCbCr", "HSV"):
        cases[f"mode-{mode}"] = Case(_one(lambda mode=mode: Image.fromarray(scene(90, 130)).convert(mode)), 70)
    cases["mode-RGBA"] = Case(_one(lambda: _with_alpha("RGB")), 70)
    cases["mode-LA"] = Case(_one(lambda: _with_alpha("L")), 70)
    cases["mode-P"] = Case(_one(lambda: _palette(False)), 70)
    cases["mode-P-transparent"] = Case(_one(lambda: _palette(True)), 70)
    for orientation in range(2, 9):
        cases[f"exif-{orientation}"] = Case(_one(lambda o=orientation: turned(o)), 70)
    for patch, pool in ((14, 4), (16, 2), (4, 2), (3, 3), (7, 1)):
        for unified in (False, True):
            name = f"patch-{patch}-{pool}{'-unified' if unified else ''}"
            cases[name] = Case(_one(lambda: scene(120, 200)), 280, unified, patch, pool)
    for h, w, count, budget in ((44, 62, 3, 70), (360, 640, 2, 70), (720, 1280, 2, 140), (100, 100, 5, 280)):
        for unified in (False, True):
            frames = lambda h=h, w=w, count=count: [Image.fromarray(scene(h, w, k)) for k in range(count)]  # noqa: E731
            name = f"video-{h}x{w}{'-unified' if unified else ''}"
            cases[name] = Case(frames, budget, unified, video=True)
    return cases


CASES = _cases()


def upright(image: Image.Image) -> Image.Image:
    """As the reference's `load_image` opens a file."""
    return ImageOps.exif_transpose(image)


# -- what is kept of a result ------------------------------------------------------------------------------------------


def digest(pixels: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def sample(pixels: Pixels) -> Pixels:
    """(at most 20, at most 20, 3) of the pixels, spread over all of them with the corners."""
    rows, columns = (np.linspace(0, n - 1, min(n, _SAMPLE)).astype(int) for n in pixels.shape[:2])
    return pixels[rows][:, columns]


def sums(pixels: Pixels) -> NDArray[np.uint32]:
    """(height,) of each row."""
    return pixels.sum((1, 2), dtype=np.uint32)


def difference(pixels: Pixels, kept: Pixels, rows: NDArray[np.uint32]) -> str:
    """How far a result is from the one that was kept, in words."""
    apart = np.abs(sample(pixels).astype(int) - kept)
    changed = np.flatnonzero(sums(pixels) != rows)
    return (
        f"{len(changed)} of {len(rows)} rows have another sum, first {changed[:3].tolist()}; of {apart.size} bytes "
        f"that were kept {np.count_nonzero(apart)} differ, by {apart.max()} at most"
    )
