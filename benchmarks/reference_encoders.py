"""Times of transformers' own encoders in float32 at the official shapes, with random weights. Prints one line of JSON.

    python benchmarks/reference_encoders.py E2B --threads 2 --budgets 70 280 --audio 30 --repeats 1

Knows: transformers. Must not know: this package's engine. Run by compare.py in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from shapes import FAMILY
from transformers import Gemma4AudioConfig, Gemma4VisionConfig
from transformers.models.gemma4.modeling_gemma4 import Gemma4AudioModel, Gemma4VisionModel

CELLS = {70: (7, 10), 140: (10, 14), 280: (14, 20), 560: (20, 28), 1120: (28, 40)}
_PATCHES = 3  # of a side of a cell
_FRAME = 0.01  # seconds


def times(work: Callable[[], Any], repeats: int) -> list[float]:
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        with torch.inference_mode():
            work()
        taken.append(time.perf_counter() - started)
    return taken


def pictures(shape: dict[str, Any], budgets: list[int], repeats: int) -> dict[int, list[float]]:
    """Patches without padding, through the encoder and its pooling."""
    model = Gemma4VisionModel(Gemma4VisionConfig(**shape)).eval()
    out = {}
    for budget in budgets:
        rows, columns = (side * _PATCHES for side in CELLS[budget])
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        positions = torch.stack([x, y], -1).reshape(1, -1, 2)
        pixels = torch.rand(1, rows * columns, 768)

        def work(pixels: torch.Tensor = pixels, positions: torch.Tensor = positions) -> Any:
            return model(pixel_values=pixels, pixel_position_ids=positions)

        if not out:
            times(work, 1)
        out[budget] = times(work, repeats)
    return out


def sound(shape: dict[str, Any], seconds: float, repeats: int) -> list[float]:
    """Mel frames through the encoder; making the frames is not timed."""
    model = Gemma4AudioModel(Gemma4AudioConfig(**shape)).eval()
    frames = round(seconds / _FRAME)
    mel, mask = torch.randn(1, frames, 128), torch.ones(1, frames, dtype=torch.bool)
    work = lambda: model(mel, mask)  # noqa: E731
    times(work, 1)
    return times(work, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=FAMILY)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budgets", type=int, nargs="*", default=[])
    parser.add_argument("--audio", type=float, default=0.0, help="seconds")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    family = FAMILY[args.model]
    result: dict[str, Any] = {"images": pictures(family.vision, args.budgets, args.repeats) if args.budgets else {}}
    if args.audio and family.audio:
        result["audio"] = sound(family.audio, args.audio, args.repeats)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
