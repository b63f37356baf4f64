"""Pictures that show nothing of the demo model's world: blank, noisy, and such as a camera might take.

What a photograph has and a drawing has not is made from its statistics: detail at every scale, things that cover each
other, soft edges, shades, light that falls on round things. Knows NumPy and Pillow only.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def make_nothing(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A picture without any shape that has a name here."""
    chance = rng.random()
    if chance < 0.15:
        return Image.new("RGB", (width, height), _tone(rng))
    if chance < 0.35:
        return _noise(rng, width, height)
    if chance < 0.55:
        image = _leaves(rng, width, height)
    elif chance < 0.85:
        image = _solids(rng, width, height)
    else:
        image = Image.fromarray(_clouds(rng, width, height))
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 2.5)) * min(width, height) / 300))
    pixels = np.asarray(image, np.float32) + rng.standard_normal((height, width, 1), np.float32) * rng.uniform(0, 9)
    if rng.random() < 0.35:
        pixels = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _tone(rng: np.random.Generator) -> tuple[int, int, int]:
    """Any colour, the extremes and grays more often than others."""
    chance = rng.random()
    if chance < 0.3:
        level = int(rng.choice([0, 255, 128, 200, 40]))
        return level, level, level
    if chance < 0.5:
        level = int(rng.integers(256))
        return level, level, level
    red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
    return red, green, blue


def _noise(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise of any strength and grain."""
    grain = int(rng.choice([1, 1, 1, 2, 3, 5, 9, 17]))
    shape = (-(-height // grain), -(-width // grain), 3 if rng.random() < 0.6 else 1)
    if rng.random() < 0.5:
        values = rng.random(shape, np.float32) * 255
    else:
        values = rng.standard_normal(shape, np.float32) * rng.uniform(15, 120) + np.array(_tone(rng), np.float32)
    pixels = np.broadcast_to(np.clip(values, 0, 255), (*shape[:2], 3)).astype(np.uint8)
    how = Image.Resampling.NEAREST if rng.random() < 0.5 else Image.Resampling.BICUBIC
    return Image.fromarray(pixels).resize((width, height), how)


def _clouds(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: noise whose strength falls with its frequency, in related colours."""
    size = 192
    slope = rng.uniform(0.8, 2.2)
    stretch = math.exp(rng.uniform(-1, 1))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None] * stretch, np.fft.rfftfreq(size)[None] / stretch) + 1 / size
    layers = []
    for _ in range(3):
        spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / frequency**slope
        layer = np.fft.irfft2(spectrum, (size, size))
        layers.append((layer - layer.mean()) / (layer.std() + 1e-9))
    mixed = np.stack(layers, axis=-1) @ (rng.normal(0, 0.35, (3, 3)) + np.array([[1.0], [0.25], [0.1]]))
    values = np.array(_tone(rng)) * 0.5 + 64 + mixed * rng.uniform(12, 60)
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _leaves(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Irregular things of all sizes that cover each other, each with its own shade and grain."""
    image = Image.fromarray(_clouds(rng, width, height))
    colors = np.asarray(Image.fromarray(_clouds(rng, 16, 16))).reshape(-1, 3)
    count = int(math.exp(rng.uniform(math.log(6), math.log(120))))
    grain = _clouds(rng, width, height).astype(np.float32) - 128
    diagonal = math.hypot(width, height)
    for size in sorted(rng.pareto(1.5, count) + 1, reverse=True):
        extent = min(0.45, 0.02 * size) * diagonal
        outline = _irregular(rng, extent) + rng.uniform(0, 1, 2) * (width, height)
        left, top = np.maximum(0, np.floor(outline.min(axis=0))).astype(int)
        right, bottom = np.minimum((width, height), np.ceil(outline.max(axis=0))).astype(int)
        if right - left < 2 or bottom - top < 2:
            continue
        mask = Image.new("L", (int(right - left), int(bottom - top)))
        ImageDraw.Draw(mask).polygon([tuple(point) for point in outline - (left, top)], fill=255)
        if rng.random() < 0.5:
            mask = mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.005, 0.15) * extent)))
        color = colors[rng.integers(len(colors))] + rng.normal(0, 18, 3)
        ramp = np.linspace(-1, 1, bottom - top)[:, None] * rng.normal(0, 22)
        ramp = ramp + np.linspace(-1, 1, right - left)[None] * rng.normal(0, 22)
        leaf = color + ramp[..., None] + grain[top:bottom, left:right] * rng.uniform(0, 0.6)
        image.paste(Image.fromarray(np.clip(leaf, 0, 255).astype(np.uint8)), (int(left), int(top)), mask)
    return image


def _solids(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Coins, balls, boxes, ears: round or pointed things under one light. What has a name here is of one colour."""
    canvas = _clouds(rng, width, height).astype(np.float32)
    grain = _clouds(rng, width, height).astype(np.float32) - 128
    count = int(math.exp(rng.uniform(0, math.log(24))))
    largest = min(width, height) * rng.uniform(0.3, 1.2) / math.sqrt(count)
    light = rng.normal(0, 1, 2)
    light *= rng.uniform(0.25, 0.6) / np.hypot(*light)
    colors = [np.clip(np.array(_tone(rng), np.float32), 60, 200) for _ in range(int(rng.integers(1, 4)))]
    kind, soft = rng.choice(["round", "round", "boxy", "pointed"]), rng.uniform(0.01, 0.12)
    for _ in range(count):
        half = max(6.0, largest * rng.uniform(0.5, 1.0) / 2)
        center = rng.uniform(0, 1, 2) * (width, height)
        left, top = np.maximum(0, np.floor(center - 1.3 * half)).astype(int)
        right, bottom = np.minimum((width, height), np.ceil(center + 1.3 * half)).astype(int)
        x = ((np.arange(left, right) - center[0]) / half).astype(np.float32)[None] * rng.uniform(1.0, 1.3)
        y = ((np.arange(top, bottom) - center[1]) / half).astype(np.float32)[:, None] * rng.uniform(1.0, 1.3)
        distance = _distance(kind, x, y)  # from the middle; 1 at the edge
        dome = np.sqrt(np.maximum(0, 1 - np.minimum(distance, 1) ** 2))
        shade = light[0] * x + light[1] * y + rng.uniform(0.1, 0.5) * (dome - 0.6)
        shade = shade + rng.uniform(0, 0.25) * np.cos(distance * rng.uniform(3, 25))  # a rim, or a pattern of rings
        color = colors[rng.integers(len(colors))]
        thing = color + (0.6 * color + rng.uniform(20, 70)) * shade[..., None]  # on black things light is gray
        thing = thing + grain[top:bottom, left:right] * rng.uniform(0.3, 0.9)
        cover = np.clip((1 - distance) / soft + 0.5, 0, 1)[..., None]
        under = canvas[top:bottom, left:right]
        shadow = np.clip((1.25 - distance) / 0.3, 0, 1)[..., None] * (rng.uniform(0, 0.6))
        canvas[top:bottom, left:right] = under * (1 - shadow) * (1 - cover) + thing * cover
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


def _distance(kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(rows, columns) how far from its middle a place of such a thing is, as a share of the way to the edge."""
    if kind == "pointed":
        return np.maximum(2 * np.abs(x) - y, y * np.ones_like(x))
    power = 2.0 if kind == "round" else 5.0
    return (np.abs(x) ** power + np.abs(y) ** power) ** (1 / power)


def _irregular(rng: np.random.Generator, extent: float) -> np.ndarray:
    """(n, 2) an outline around the origin that is no circle, square, triangle or star."""
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    radius = np.ones(48)
    for wave in range(1, 7):
        radius = radius + rng.normal(0, 0.35 / wave) * np.cos(wave * angles + rng.uniform(0, 6.3))
    radius = np.maximum(0.15, radius)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None]
    points = points * (1, rng.uniform(0.2, 0.75))  # long, as most things are
    turn = rng.uniform(0, 2 * math.pi)
    return points @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]) * extent / 2
