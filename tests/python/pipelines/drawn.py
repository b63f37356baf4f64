"""Pictures for whole runs: as many as wanted, each another one, small enough to be searched quickly."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = ("red", "blue", "green", "orange")


def draw(seed: int) -> Image.Image:
    """White, with up to four circles and squares."""
    chance = random.Random(seed)
    picture = Image.new("RGB", (chance.randint(200, 400), chance.randint(200, 400)), "white")
    pen = ImageDraw.Draw(picture)
    for _ in range(chance.randint(0, 4)):
        x, y, side = chance.randint(0, 120), chance.randint(0, 120), chance.randint(40, 80)
        shape = pen.ellipse if chance.random() < 0.5 else pen.rectangle
        shape((x, y, x + side, y + side), fill=chance.choice(COLOURS))
    return picture


def draw_all(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Pictures in a folder, which is made, called by their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04d}.png" for number in range(first, first + count)]
    for number, path in enumerate(paths, start=first):
        draw(number).save(path)
    return paths
