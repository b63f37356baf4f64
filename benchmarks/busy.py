"""How the demo model fares beside processes that never wait: with the default threads against one.

A call on one thread and one on all, in turn, so that both see the same machine; medians, and what lies around them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
from PIL import Image

BUSY = "while True: pass"


def spread(samples: list[float]) -> dict[str, float]:
    low, middle, high = (float(np.percentile(samples, q)) * 1e3 for q in (25, 50, 75))
    return {"median_ms": round(middle, 2), "p25_ms": round(low, 2), "p75_ms": round(high, 2)}


def compare(models: dict[str, Any], call: Callable[[Any], Any], repeats: int) -> dict[str, Any]:
    samples: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(repeats + 1):
        for name, model in models.items():
            begin = time.perf_counter()
            call(model)
            if turn > 0:  # the first one warms up
                samples[name].append(time.perf_counter() - begin)
    result: dict[str, Any] = {name: spread(of) for name, of in samples.items()}
    one, default = (np.median(samples[name]) for name in ("one", "default"))
    return {**result, "default_by_one": round(float(default / one), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=2, help="processes that never wait")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--most", type=float, help="fail where the default takes more than so many times as long")
    args = parser.parse_args()

    models = {
        "one": gemma4.Model.from_pretrained("demo", num_threads=1),
        "default": gemma4.Model.from_pretrained("demo"),
    }
    image = Image.open(Path(__file__).parent.parent / "examples/shapes.png").convert("RGB")
    ids = np.asarray([2, 30, 31, 32], np.int32)
    calls: dict[str, Callable[[Any], Any]] = {
        "64 tokens": lambda m: m.generate(
            ids, max_new_tokens=64, temperature=0, ignore_eos=True, repetition_guard=False
        ),
        "detect": lambda m: m.detect(image),
    }
    with ExitStack() as stack:
        for _ in range(args.busy):
            process = subprocess.Popen([sys.executable, "-c", BUSY])
            stack.callback(process.kill)
        results = {name: compare(models, call, args.repeats) for name, call in calls.items()}
    print(json.dumps({"threads": models["default"].num_threads, "busy": args.busy, **results}, indent=1))
    if args.most is not None and any(one["default_by_one"] > args.most for one in results.values()):
        sys.exit(f"the default threads take more than {args.most} times as long as one")


if __name__ == "__main__":
    main()
