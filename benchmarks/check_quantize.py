"""Do the files that `llama-quantize` writes mean here what they mean there?

    python benchmarks/check_quantize.py --llama LLAMA_CPP_SOURCE --build LLAMA_CPP_BUILD [--types IQ2_XS …] [MODEL…]

`--llama` and `--build` are those of `check_llama_cpp.py`; `--build` also has `llama-quantize`. MODEL is `e2b` or
`26b-a4b` (default: both): random weights with every row of the official length, in few layers, with few experts and a
small vocabulary. `llama-quantize` writes each type from the same file, with an importance matrix. gguf-py, llama.cpp's
Python package, then decodes every tensor, which must be what this engine decodes, to the bit; and both programs' logits
are compared with those of the decoded numbers in f32, for several texts: of each the relative error of the token in the
middle, since a token that rounding sends to another expert has other logits, and so have those that attend to it. This
engine is worse where its errors are the larger ones by more than three standard errors of the texts.
"""

from __future__ import annotations

import argparse
import collections
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import gemma4
import gguf
import gguf.quants
import numpy as np
from check_llama_cpp import Probe, relative
from gemma4 import _core
from gemma4.gguf import read_gguf
from gemma4.gguf.writer import PlannedTensor, write_gguf
from make_model import RandomModel
from numpy.typing import NDArray
from shapes import FAMILY, Family

# What `llama-quantize` is asked for; it mixes several types in most files.
REQUESTS = (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ3_XXS",
    "IQ3_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "MXFP4_MOE",
)  # fmt: skip
_TEXTS, _TOKENS = 8, 40


def family(name: str) -> Family:
    """The widths of a model, one round of its mechanisms, few experts."""
    full = FAMILY[name]
    experts = {"num_experts": 4, "top_k_experts": 2} if "num_experts" in full.text else {}
    readers = 2 if full.readers else 0
    return full._replace(text={**full.text, **experts}, layers=2 + readers, readers=readers, period=2)


def importance(path: Path, source: Path) -> None:
    """An importance matrix for every matrix of a file, in llama.cpp's older form: random weights of the columns."""
    rng = np.random.default_rng(0)
    matrices = [t for t in read_gguf(source).tensors.values() if len(t.shape) > 1]
    parts = [struct.pack("<i", len(matrices))]
    for tensor in matrices:
        name = tensor.name.encode()
        columns = tensor.shape[-1] * (tensor.shape[0] if len(tensor.shape) > 2 else 1)
        parts.append(struct.pack("<i", len(name)) + name + struct.pack("<ii", 1, columns))
        parts.append(rng.gamma(1, 1, columns).astype("<f4").tobytes())
    path.write_bytes(b"".join(parts))


def decode(source: Path, target: Path) -> dict[str, int]:
    """Write a file's tensors, as gguf-py decodes them, in f32. Returns how many matrices each type has.

    Raises:
        AssertionError: the engine decodes a tensor to other bits.
    """
    metadata = {k: np.int64(v) if type(v) is int else v for k, v in read_gguf(source).metadata.items()}
    types: collections.Counter[str] = collections.Counter()
    plans = []
    for tensor in gguf.GGUFReader(source).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        kind = tensor.tensor_type.name
        if kind not in ("F32", "F16", "BF16"):
            types[kind] += 1
            ours = _core.decode(kind, np.ascontiguousarray(tensor.data))
            assert np.array_equal(ours.view(np.uint32), values.view(np.uint32)), f"{tensor.name}: {kind}"
        plans.append(PlannedTensor(tensor.name, "F32", values.shape, lambda values=values: iter([values])))
    write_gguf(target, metadata, plans)
    return dict(types.most_common())


def middle_error(got: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    return float(np.median([relative(a, b) for a, b in zip(got, exact, strict=True)]))


def logits(path: Path, texts: NDArray[np.int32]) -> list[NDArray[np.float32]]:
    model = gemma4.Model.from_pretrained(path, kv_cache="f32")
    return [np.array(model.forward(ids)) for ids in texts]


def ratio(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float]:
    """The texts' mean of ln(ours / theirs), and its standard error."""
    logs = np.log(ours / theirs)
    return float(logs.mean()), float(logs.std(ddof=1) / np.sqrt(len(logs)))


def check(name: str, types: list[str], probe: Probe, build: Path, folder: Path) -> list[str]:
    """Print a line for each type; returns what is wrong."""
    source, weights, decoded = folder / "f32.gguf", folder / "imatrix", folder / "decoded.gguf"
    RandomModel(name, family=family(name)).write(source, "f32")
    importance(weights, source)
    texts = np.random.default_rng(1).integers(300, 1600, (_TEXTS, _TOKENS)).astype(np.int32)
    worse = []
    heads = f"{'asked for':<11}{'ours':>10}{'llama.cpp':>11}{'ratio':>14}"
    print(f"\n{name}\n{heads}  matrices of each type, equal to the bit")
    for kind in types:
        path = folder / f"{kind}.gguf"
        command = [build / "bin" / "llama-quantize", "--imatrix", weights, source, path, kind, "2"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"llama-quantize {kind}: {(done.stdout + done.stderr)[-400:]}")
        found = decode(path, decoded)
        exact = logits(decoded, texts)
        ours = np.array([middle_error(got, want) for got, want in zip(logits(path, texts), exact, strict=True)])
        there = [probe.logits(path, ids, 0)[0] for ids in texts]
        theirs = np.array([middle_error(got, want) for got, want in zip(there, exact, strict=True)])
        mean, spread = ratio(ours, theirs)
        counted = ", ".join(f"{count} {type_name}" for type_name, count in found.items())
        errors = f"{np.median(ours):>10.2e}{np.median(theirs):>11.2e}{np.exp(mean):>8.3f} ±{spread:.3f}"
        print(f"{kind:<11}{errors}  {counted}", flush=True)
        if not mean <= 3 * spread:
            worse.append(f"{name} {kind}: an error of {np.exp(mean):.3f} ±{spread:.3f} of llama.cpp's")
        path.unlink()
    return worse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", metavar="MODEL", nargs="*")
    parser.add_argument("--llama", type=Path, required=True)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--types", nargs="+", default=list(REQUESTS), choices=REQUESTS)
    args = parser.parse_args()
    worse = []
    for name in args.models or ("e2b", "26b-a4b"):
        with tempfile.TemporaryDirectory() as folder:
            probe = Probe(args.llama, args.build, Path(folder))
            worse += check(name, args.types, probe, args.build, Path(folder))
    sys.exit("\n".join(worse) or 0)


if __name__ == "__main__":
    main()
