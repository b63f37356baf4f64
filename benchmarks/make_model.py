"""Random weights at an official shape, written straight to GGUF: a file that is as long and as slow as the real one.

    python benchmarks/make_model.py e2b OUT.gguf [--dtype q4_0] [--mmproj ENCODERS.gguf]
    python benchmarks/make_model.py 31b OUT.gguf --layers 6

Neither torch nor the real weights are needed. Values are normal, with the variances under which every layer does
something and no logit is infinite; they are encoded once into a pool of blocks for each format and spread, from which
the blocks of a tensor are drawn. So 3 GB take about half a minute. The files load in this package and in llama.cpp.

`--mix recipe` (default) stores each tensor as `gemma4.convert` does, `--mix llama.cpp` as `llama-quantize` does.
`--layers N` keeps widths and pattern, `--tiny` keeps the pattern and shrinks the widths, for tests.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from gemma4 import _core
from gemma4.checkpoint import DirectoryCheckpoint
from gemma4.checkpoint.conversion import encoder_metadata, text_metadata
from gemma4.checkpoint.recipe import DTYPES, stored_as
from gemma4.config import ParsedConfig, parse_config
from gemma4.gguf import TYPES
from gemma4.gguf.metadata import owners, rotary_divisors
from gemma4.gguf.writer import PlannedTensor, write_gguf
from numpy.typing import NDArray
from random_tokenizer import control_ids, write_tokenizer
from shapes import FAMILY, TINY_VOCAB, VOCAB, Family, Shape, config, encoder_tensors, text_tensors, tiny, with_layers

MIXES = ("recipe", "llama.cpp")
_POOL = 1 << 19  # elements encoded for one format and spread
_PIECE = 1 << 24  # elements of a tensor that are in memory at a time
_FLOAT_RUN = 32  # elements of a float format that are drawn together
_SPARE_BYTES = 1 << 28  # left free on the disk

# -- values ------------------------------------------------------------------------------------------------------------

_POST_NORM = re.compile(r".*\.(post_attention_norm|post_ffw_norm(_[12])?|post_norm|(attn|ffn)_post_norm(_1)?)\.weight")
_HEAD_NORM = re.compile(r".*\.attn_[qk]_norm\.weight")
Draw = Callable[[np.random.Generator, Shape], NDArray[np.float64]]


def _normal(mean: float, deviation: float) -> Draw:
    return lambda rng, shape: rng.normal(mean, deviation, shape)


def _uniform(low: float, high: float) -> Draw:
    return lambda rng, shape: rng.uniform(low, high, shape)


def _vector(name: str, shape: Shape) -> Draw:
    """Vectors: norms, scales, bounds. The branches of a layer add a third of the residual stream each."""
    by_end: dict[str, Draw] = {
        "layer_output_scale.weight": _uniform(0.9, 1.1),
        "ffn_down_exps.scale": _uniform(0.4, 1.8),
        "ffn_gate_inp.scale": lambda rng, s: rng.normal(1.5, 0.4, s) * math.sqrt(s[0]),
        "_min": _uniform(-4.0, -3.0),
        "_max": _uniform(3.0, 4.0),
        "std_bias": _normal(0.0, 1.0),
        "std_scale": _uniform(0.05, 0.3),
        "per_dim_scale.weight": lambda rng, s: np.logaddexp(rng.normal(0.0, 1.0, s), 0.0),  # kept after softplus
        ".bias": _normal(0.0, 0.1),
        "output_norm.weight": _normal(20.0, 5.0),  # with the embedding's spread: logits of some ten units
    }
    for end, draw in by_end.items():
        if name.endswith(end):
            return draw
    if _HEAD_NORM.fullmatch(name):
        return lambda rng, s: rng.normal(1.0, 0.25, s) * 1.2 * s[0] ** -0.25  # attention logits of a few units
    return _normal(0.3, 0.1) if _POST_NORM.fullmatch(name) else _normal(1.0, 0.25)


def spread(name: str, shape: Shape) -> float:
    """Standard deviation of a matrix: what comes out has the variance of what goes in."""
    if name == "token_embd.weight":
        return 0.5 * shape[1] ** -0.5
    if name == "per_layer_token_embd.weight":
        return 0.3
    if name == "v.position_embd.weight":
        return 0.5
    fan_in = math.prod(shape[1:]) if name.startswith(("v.patch", "a.conv")) else shape[-1]
    return float(fan_in**-0.5)


@lru_cache(maxsize=64)
def _pool(dtype: str, spread: float) -> NDArray[np.void]:
    """Encoded blocks of normal values; a float format has runs instead of blocks."""
    rng = np.random.default_rng([_POOL, TYPES[dtype].id])
    values = rng.standard_normal(_POOL, np.float32) * np.float32(spread)
    encoded = values if dtype == "F32" else _core.encode(dtype, values[None])
    size = TYPES[dtype].block_bytes * (1 if TYPES[dtype].block_elems > 1 else _FLOAT_RUN)
    return np.ascontiguousarray(encoded).view(np.uint8).reshape(-1).view(f"V{size}")


def _blocks(dtype: str, spread: float, count: int, rng: np.random.Generator) -> Iterator[NDArray[Any]]:
    """The bytes of `count` elements, piece by piece."""
    pool = _pool(dtype, spread)
    run = max(TYPES[dtype].block_elems, 1) if TYPES[dtype].block_elems > 1 else _FLOAT_RUN
    left = -(-count // run)
    spare = (left * run - count) * TYPES[dtype].block_bytes  # of a float tensor that is no whole number of runs
    while left:
        piece = min(left, _PIECE // run)
        left -= piece
        drawn = pool.take(rng.integers(0, len(pool), piece, np.int32)).view(np.uint8)
        yield drawn if left or not spare else drawn[:-spare]


def _planned(name: str, shape: Shape, dtype: str, seed: int) -> PlannedTensor:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if len(shape) == 1:
        return PlannedTensor(name, "F32", shape, lambda: iter([_vector(name, shape)(rng, shape).astype(np.float32)]))
    return PlannedTensor(name, dtype, shape, lambda: _blocks(dtype, spread(name, shape), math.prod(shape), rng))


# -- formats -----------------------------------------------------------------------------------------------------------

_NEXT_SMALLER = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0"}


def llama_cpp_format(name: str, shape: Shape, kind: str, parsed: ParsedConfig) -> str:
    """The format that `llama-quantize` of 0.3.36 gives a matrix; `q4_k` and `q5_k` mean its Q4_K_M and Q5_K_M."""
    kept = r".*(_norm|ffn_gate_inp)\.weight|v\..*|a\..*|mm\..*|per_layer_model_proj\.weight"
    if len(shape) == 1 or re.fullmatch(kept, name) or kind in ("F32", "BF16", "F16"):
        return stored_as(name, shape, "BF16", kind if kind in ("F32", "F16") else "BF16", parsed)
    layers = len(parsed.core.text.layers)
    wanted = kind
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        wanted = "Q8_0" if kind == "Q8_0" else "Q6_K"
    elif kind in ("Q4_K", "Q5_K"):
        value = re.fullmatch(r"blk\.(\d+)\.attn_v\.weight", name)
        down = re.fullmatch(r"blk\.(\d+)\.ffn_down(_exps)?\.weight", name)
        if value:
            sized = [i for i in range(owners(parsed.core.text.layers)) if not parsed.core.text.layers[i].k_is_v]
            wanted = "Q6_K" if _more_bits(sized.index(int(value[1])), len(sized)) else kind
        elif down:
            wanted = "Q6_K" if _more_bits(int(down[1]), layers) else kind
    return wanted if shape[-1] % TYPES[wanted].block_elems == 0 else _NEXT_SMALLER.get(wanted, "F16")


def _more_bits(index: int, count: int) -> bool:
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2


# -- files -------------------------------------------------------------------------------------------------------------


class RandomModel:
    """A shape with a tokenizer, ready to be written."""

    def __init__(
        self, name: str, layers: int | None = None, small: bool = False, seed: int = 0, family: Family | None = None
    ) -> None:
        """Args: `family` is a shape in place of the one that the name has, with the vocabulary of a small one."""
        self.vocab = TINY_VOCAB if small or family else VOCAB
        family = family or (tiny(name) if small else FAMILY[name])
        family = with_layers(family, layers) if layers else family
        self.config = config(family, self.vocab, control_ids(self.vocab))
        self.parsed = parse_config(self.config)
        self.name = f"gemma4-{name}-random" + (f"-{layers}-layers" if layers else "") + ("-tiny" if small else "")
        self._seed = seed

    def text(self, dtype: str, mix: str = "recipe") -> list[PlannedTensor]:
        """The tensors of the decoder's file."""
        divisors = rotary_divisors(self.parsed.core.text)
        rope = PlannedTensor("rope_freqs.weight", "F32", divisors.shape, lambda: iter([divisors]))
        shapes = text_tensors(self.parsed.core.text)
        return [rope, *(_planned(n, s, self._format(n, s, dtype, mix), self._seed) for n, s in shapes)]

    def encoders(self, dtype: str) -> list[PlannedTensor]:
        """The tensors of the encoders' file."""
        kind = dtype.upper()
        source = kind if kind in ("F32", "F16") else "BF16"
        shapes = encoder_tensors(self.parsed.core)
        return [_planned(n, s, stored_as(n, s, source, kind, self.parsed), self._seed) for n, s in shapes]

    def _format(self, name: str, shape: Shape, dtype: str, mix: str) -> str:
        if mix == "llama.cpp":
            return llama_cpp_format(name, shape, dtype.upper(), self.parsed)
        return stored_as(name, shape, "BF16", dtype.upper(), self.parsed)

    def write(
        self, out: Path, dtype: str = "q4_0", mix: str = "recipe", mmproj: Path | None = None,
        mmproj_dtype: str = "bf16",
        progress: Callable[[int], object] | None = None,
    ) -> None:  # fmt: skip
        """Write one file or two; each appears under its name when it is complete.

        Raises:
            OSError: there is not enough room on the disk.
        """
        self._write(out, self.text(dtype, mix), text_metadata, dtype, progress)
        if mmproj is not None:
            self.write_encoders(mmproj, mmproj_dtype, progress)

    def write_encoders(self, out: Path, dtype: str, progress: Callable[[int], object] | None = None) -> None:
        """Write the encoders' file; OSError as for `write`."""
        self._write(out, self.encoders(dtype), encoder_metadata, dtype, progress)

    def _write(
        self, out: Path, plan: list[PlannedTensor], metadata: Callable[..., dict[str, Any]], dtype: str,
        progress: Callable[[int], object] | None,
    ) -> None:  # fmt: skip
        check_room(out, sum(tensor.nbytes for tensor in plan))
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary, self.name)
            directory.mkdir()
            (directory / "config.json").write_text(json.dumps(self.config))
            write_tokenizer(directory, self.vocab)
            write_gguf(out, metadata(DirectoryCheckpoint(directory), self.parsed, dtype.upper()), plan, progress)


def check_room(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free + (path.stat().st_size if path.exists() else 0)
    if free < size + _SPARE_BYTES:
        raise OSError(f"{path.parent}: {path.name} needs {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")


def main(arguments: list[str] | None = None) -> None:
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=FAMILY)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="q4_0")
    parser.add_argument("--mix", choices=MIXES, default="recipe")
    parser.add_argument("--mmproj", type=Path, help="the encoders, in a file of their own")
    parser.add_argument("--mmproj-dtype", choices=("bf16", "f16", "f32", "q8_0"), default="bf16")
    parser.add_argument("--layers", type=int, help="only the first layers")
    parser.add_argument("--tiny", action="store_true", help="toy widths")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    try:
        model = RandomModel(args.model, args.layers, args.tiny, args.seed)
        planned = model.text(args.dtype, args.mix) + (model.encoders(args.mmproj_dtype) if args.mmproj else [])
        total = sum(tensor.nbytes for tensor in planned)
        with tqdm(total=total, unit="B", unit_scale=True, desc=model.name) as bar:
            model.write(args.out, args.dtype, args.mix, args.mmproj, args.mmproj_dtype, bar.update)
    except (OSError, ValueError) as error:
        sys.exit(f"make_model: {error}")
    for path in filter(None, (args.out, args.mmproj)):
        print(f"{path}  {path.stat().st_size / 1e6:,.1f} MB")


if __name__ == "__main__":
    main()
