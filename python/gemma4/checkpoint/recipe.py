"""Which format each tensor of a checkpoint is stored in, and getting it there slice by slice.

Knows: llama.cpp's names of tensors, formats. Must not know: files, the container, how a model computes.

The **recipe** for a quantized `dtype`; every choice is per tensor, and `Conversion.tensors` lists them:

- norms, scales, biases, the router of experts, positions, convolutions and the patch embedding: F32. They are small,
  and every token passes through them.
- token embeddings (which are also the output matrix) and per-layer embeddings: Q6_K, or Q8_0 for `q6_k` and `q8_0`. The
  output matrix decides the logits. For `q4_0`, those that lie on a lattice of Q4_0 are stored as it.
- projections of per-layer embeddings: Q8_0. They are 1 % of the size, and what they do is added in every layer.
- keys of layers whose values are their keys: Q8_0. An error counts twice there.
- matrices of the vision and audio encoders: Q8_0. They are small beside the decoder, and 8 bits are what their fast
  path computes in; ask for `bf16` or `f16` to keep them exact.
- every other matrix: `dtype`.

**Lattices.** A checkpoint that was trained for Q4_0 (published as `...-qat-q4_0-unquantized`) holds, in 16 or 32 bits,
scale times level for every 32 weights. Where a Q4_0 block exists whose values, rounded to the checkpoint's format, are
those that stand there, that block is stored; Q8_0, which the recipe gives some matrices, holds the same lattice. Of
several scales that would do, the one nearest to the largest weight divided by its level is taken, which is the one that
llama.cpp computes. `Conversion.exact` lists the matrices that were quantized without a loss.

A row that is not a multiple of a format's block (256 for the K formats, 32 for the others) is stored in the next format
that fits: Q6_K and Q5_K as Q8_0, Q4_K as Q4_0, and what does not fit 32 in 16 bits.

What the recipe does to the logits of a checkpoint, beside the same format for every matrix, is measured by
`python benchmarks/check_llama_cpp.py --recipe MODEL`. On the bundled checkpoint at q4_0 the error of the logits (root
mean square, relative) is 0.166 with it and 0.213 without; on random checkpoints with the mechanisms of E2B and of
26B-A4B it is 0.37 instead of 0.47 and 0.63 instead of 0.66.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..config import ParsedConfig
from ..errors import ModelFileError, RequestError
from ..gguf import ENCODER, TEXT_PREFIX, TYPES, llama_name

__all__ = [
    "DTYPES", "Source", "check_dtype", "chosen", "encoded", "is_exact", "quantize_store", "renamed",
    "stored_as",
]  # fmt: skip

DTYPES = ("f32", "bf16", "f16", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0")
_QUANTIZED = frozenset(name for name, kind in TYPES.items() if kind.block_elems > 1)
_SMALLER_BLOCK = {"Q6_K": "Q8_0", "Q5_K": "Q8_0", "Q4_K": "Q4_0"}
_FIRST_ROWS = 8  # that say of almost every tensor that it is on no lattice
_SLICE = 1 << 22  # elements that one thread converts at a time
_F16_MOST = 65_504.0

_ALWAYS_F32 = re.compile(
    r".*(_norm|\.norm|ln[12])\.weight|.*\.ffn_gate_inp\.weight|v\.(patch|position)_embd\.weight"
    r"|a\.(conv1d\.\d+|input_projection|blk\.\d+\.conv_dw)\.weight"
)
_EMBEDDINGS = re.compile(r"(token_embd|output|per_layer_token_embd)\.weight")
_PLE_PROJECTIONS = re.compile(r"per_layer_model_proj\.weight|blk\.\d+\.(inp_gate|proj)\.weight")
_KEYS = re.compile(r"blk\.(\d+)\.attn_k\.weight")


def quantize_store(
    store: _core.TensorStore,
    parsed: ParsedConfig,
    dtype: str,
    num_threads: int,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Give the matrices of a loaded checkpoint another format, by the recipe, in memory.

    The table of per-layer embeddings stays in its file: it is larger than the rest, and is read a row at a time. The
    encoders change only where their matrices become Q8_0 or were: from all other formats they compute in f32 alike.

    Args:
        store: as `loading.open_tensors` returns it; changed in place.
        dtype: one of `DTYPES`.
        progress: called with the number of bytes of every tensor that is done.
    """
    kind = check_dtype(dtype).upper()
    with ThreadPoolExecutor(num_threads) as pool:
        for name in store.names():
            theirs = renamed(name, parsed.text_prefix)
            if theirs is None or theirs.startswith("per_layer_token_embd"):
                continue
            tensor = Source(store, name)
            wanted = chosen(tensor, theirs, kind, parsed)
            kept = wanted == tensor.dtype or (ENCODER.match(theirs) and not {wanted, tensor.dtype} & _QUANTIZED)
            if len(tensor.shape) > 1 and not kept:
                parts = list(encoded(tensor, wanted, pool, num_threads))
                store.replace(name, wanted, np.concatenate([part.reshape(-1).view(np.uint8) for part in parts]))
            if progress is not None:
                progress(tensor.nbytes)


def stored_as(name: str, shape: tuple[int, ...], source: str, kind: str, parsed: ParsedConfig) -> str:
    """The format of a tensor by the recipe.

    Args:
        name: llama.cpp's name.
        shape: as NumPy has it.
        source: the format in the checkpoint.
        kind: the format that is asked for.
    """
    if len(shape) == 1 or _ALWAYS_F32.fullmatch(name):
        return "F32"
    half = source if source in ("BF16", "F16") else "F16"
    wanted = kind
    if kind in _QUANTIZED:
        keys = _KEYS.fullmatch(name)
        if ENCODER.fullmatch(name):
            wanted = "Q8_0"
        elif _EMBEDDINGS.fullmatch(name):
            wanted = "Q8_0" if kind in ("Q8_0", "Q6_K") else "Q6_K"
        elif _PLE_PROJECTIONS.fullmatch(name) or (keys and parsed.core.text.layers[int(keys[1])].k_is_v):
            wanted = "Q8_0"
    while shape[-1] % TYPES[wanted].block_elems:
        wanted = _SMALLER_BLOCK.get(wanted, half)
    return wanted


def chosen(source: Source, name: str, kind: str, parsed: ParsedConfig) -> str:
    """The format of a tensor by the recipe, and by what is in it; `name` and `kind` as in :func:`stored_as`."""
    wanted = stored_as(name, source.shape, source.dtype, kind, parsed)
    fits = kind == "Q4_0" and _EMBEDDINGS.fullmatch(name) and source.cols % TYPES[kind].block_elems == 0
    return kind if fits and _on_lattice(source, kind) else wanted


def check_dtype(dtype: Any, *others: str) -> str:
    """An argument that is one of `DTYPES`, or of `others`. Raises RequestError for anything else."""
    known = (*others, *DTYPES)
    if not isinstance(dtype, str) or dtype not in known:
        found = repr(dtype[:40]) if isinstance(dtype, str) else type(dtype).__name__
        raise RequestError(f"dtype: expected one of {', '.join(known)}, found {found}")
    return dtype


def renamed(name: str, text_prefix: str) -> str | None:
    """llama.cpp's name, also of a text-only checkpoint whose names lack `language_model.`."""
    if text_prefix != TEXT_PREFIX and name.startswith(text_prefix):
        name = TEXT_PREFIX + name.removeprefix(text_prefix)
    return llama_name(name)


class Source:
    """A tensor of the checkpoint as rows, decoded slice by slice."""

    def __init__(self, store: _core.TensorStore, name: str) -> None:
        self._store = store
        self.name = name
        self.dtype = store.dtype(name)
        self.shape = tuple(store.shape(name))
        self.cols = self.shape[-1]
        self.rows = int(np.prod(self.shape[:-1], dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.rows * self.cols // TYPES[self.dtype].block_elems * TYPES[self.dtype].block_bytes

    def slices(self) -> Iterator[tuple[int, int]]:
        step = max(1, _SLICE // self.cols)
        for begin in range(0, self.rows, step):
            yield begin, min(begin + step, self.rows)

    def raw(self, begin: int, end: int) -> NDArray[Any]:
        """The bytes of rows, (rows, bytes of a row)."""
        array = self._store.array(self.name)
        return array.reshape(self.rows, -1)[begin:end].view(np.uint8)

    def decoded(self, begin: int, end: int) -> NDArray[np.float32]:
        return _core.decode(self.dtype, self.raw(begin, end))

    def drop(self, begin: int, end: int) -> None:
        """These rows are not needed in memory any more."""
        self._store.drop(self.name, begin, end)


def encoded(source: Source, kind: str, pool: ThreadPoolExecutor, width: int) -> Iterator[NDArray[Any]]:
    """The rows of a tensor in another format, in order; `width` slices are in memory at a time."""

    def work(span: tuple[int, int]) -> NDArray[Any]:
        rows = source.raw(*span).copy() if source.dtype == kind else encode(source.decoded(*span), kind, source.name)
        source.drop(*span)
        return rows

    spans = source.slices()
    while group := list(islice(spans, width)):
        yield from pool.map(work, group)


def is_exact(source: Source, begin: int, rows: NDArray[Any], kind: str) -> bool:
    """Whether rows from `begin` on in the format `kind`, rounded to the checkpoint's, are the checkpoint's."""
    values = _core.decode(kind, rows)
    if source.dtype != "F32":
        values = _core.decode(source.dtype, _core.encode(source.dtype, values).reshape(len(rows), -1))
    return np.array_equal(values, source.decoded(begin, begin + len(rows)))


def _on_lattice(source: Source, kind: str) -> bool:
    """Whether a tensor in 16 or 32 bits can be stored in `kind` without a loss."""
    if source.dtype in _QUANTIZED:
        return False
    for begin, end in ((0, min(source.rows, _FIRST_ROWS)), *source.slices()):
        if not is_exact(source, begin, encode(source.decoded(begin, end), kind, source.name), kind):
            return False
        source.drop(begin, end)
    return True


def encode(values: NDArray[np.float32], kind: str, name: str) -> NDArray[Any]:
    """Rows of float32 in a format. Raises ModelFileError for a value that F16 cannot hold."""
    if kind == "F16" and (abs(values) > _F16_MOST).any():
        raise ModelFileError(f"tensor {name}: a value does not fit F16; ask for bf16 or f32")
    return values if kind == "F32" else _core.encode(kind, values)
