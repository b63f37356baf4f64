"""Examples that are drawn ahead and stored, in shards with a seed each.

Knows: files and seeds. Must not know: what an example is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np


def shard_arguments(description: str, what: str, shards: int, count: int) -> argparse.ArgumentParser:
    """The options that every program which stores shards has; `count` examples of `what` in each."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", type=int, default=0, help="number of the first shard; also its seed")
    parser.add_argument("--shards", type=int, default=shards)
    parser.add_argument("--count", type=int, default=count, help=f"{what} in a shard")
    return parser


def write_shards(
    arguments: argparse.Namespace,
    name: str,
    seed: int,
    record: np.dtype,
    draw: Callable[[np.random.Generator], np.ndarray],
) -> None:
    """Write `name`NNN.npy for every shard: complete, or not there. Shards of another `seed` share no example."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    for shard in range(arguments.first, arguments.first + arguments.shards):
        rng = np.random.default_rng([seed, shard])
        path = arguments.out / f"{name}{shard:03d}.npy"
        partial = path.with_suffix(".part")
        records = np.lib.format.open_memmap(partial, "w+", record, (arguments.count,))
        for index in range(arguments.count):
            records[index] = draw(rng)
        records.flush()
        partial.rename(path)
        print(path, flush=True)
