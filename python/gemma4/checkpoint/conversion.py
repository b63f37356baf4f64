"""From a published checkpoint to GGUF files that this package and llama.cpp read alike.

Knows: what llama.cpp expects of a file. Must not know: the container's bytes, the arithmetic of a format, how a model
computes. Which tensor is stored how is the `recipe`.

Tensors pass through one after the other, in slices of rows, so a model of any size converts in the memory of a few
slices.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core, cpu, gguf
from ..config import ParsedConfig, parse_config
from ..errors import ModelFileError, RequestError
from ..gguf import ENCODER, TYPES, PlannedTensor, owners, rotary_divisors, write_gguf
from ..jsonfile import read_json
from ..progress import progress_bar
from ..tokens import MAX_TOKENIZER_BYTES
from . import quantized
from .directory import DirectoryCheckpoint
from .opening import resolve
from .recipe import DTYPES, Source, check_dtype, chosen, encoded, is_exact, renamed

__all__ = ["DTYPES", "Conversion", "convert"]

_MOST_MERGES = 1 << 20


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote."""

    path: Path
    mmproj: Path | None
    tensors: dict[str, str] = field(repr=False)
    """llama.cpp's name of every tensor, and the format that it is stored in."""
    exact: tuple[str, ...] = field(repr=False)
    """Those of them that were quantized without a loss: every weight, rounded to the checkpoint's format, is the
    checkpoint's. All large matrices of a checkpoint that was trained for `q4_0` are."""
    notes: tuple[str, ...]
    """What a reader of the files should know: tensors left out, and what llama.cpp cannot express."""

    @property
    def formats(self) -> tuple[Counter[str], Counter[str]]:
        """How many tensors of each format are in the one file and in the other."""
        parts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        for name, dtype in self.tensors.items():
            parts[ENCODER.fullmatch(name) is not None][dtype] += 1
        return parts


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    dtype: str = "q4_0",
    mmproj: str | os.PathLike[str] | None = None,
    num_threads: int | None = None,
    progress: bool | None = None,
) -> Conversion:
    """Write a checkpoint as GGUF, for this package and for llama.cpp.

    Args:
        source: a directory with safetensors, `"demo"`, or a hub id.
        out: the file to write; it appears under this name once it is complete.
        dtype: format of the large matrices, one of `DTYPES`; see the recipe.
        mmproj: a second file for the vision and audio encoders; None leaves them out.
        num_threads: as :meth:`Model.from_pretrained` takes it.
        progress: a progress bar on stderr; None shows one on a terminal and in a notebook.

    Raises:
        ModelFileError: the checkpoint is malformed, or holds what GGUF cannot express.
        RequestError: an argument is wrong.

    >>> import gemma4, pathlib, tempfile
    >>> done = gemma4.convert("demo", pathlib.Path(tempfile.mkdtemp(), "demo.gguf"), dtype="q8_0")
    >>> done.tensors["token_embd.weight"], done.tensors["blk.0.ffn_up.weight"]
    ('Q8_0', 'Q8_0')
    """
    kind = check_dtype(dtype).upper()
    paths = [_check_path(out, "out"), None if mmproj is None else _check_path(mmproj, "mmproj")]
    directory = DirectoryCheckpoint(resolve(source))
    checkpoint = _Checkpoint(directory, kind, cpu.check_threads(num_threads))
    given: dict[str, Any] = {} if progress is None else {"disable": not progress}
    with progress_bar(desc="converting", unit="B", unit_scale=True, **given) as bar:
        plans = [checkpoint.plan(encoders=False), checkpoint.plan(encoders=True) if paths[1] else []]
        bar.reset(total=sum(tensor.nbytes for plan in plans for tensor in plan))
        metadata = [text_metadata(directory, checkpoint.parsed, kind)]
        if paths[1]:
            metadata.append(encoder_metadata(directory, checkpoint.parsed, kind))
        for path, keys, plan in zip(paths, metadata, plans, strict=False):
            if path is not None:
                write_gguf(path, keys, plan, bar.update)
    if paths[1] is None and checkpoint.has_encoders:
        checkpoint.notes.append("the encoders are left out; mmproj= writes them to a second file")
    stored = {tensor.name: tensor.dtype for plan in plans for tensor in plan}
    assert paths[0] is not None
    exact = tuple(name for name in stored if name in checkpoint.exact)
    return Conversion(paths[0], paths[1], stored, exact, tuple(checkpoint.notes))


def _check_path(path: Any, name: str) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise RequestError(f"{name}: expected a path, found {type(path).__name__}")
    checked = Path(path)
    if checked.suffix != ".gguf" or not checked.parent.is_dir() or checked.is_dir():
        raise RequestError(
            f"{name}: expected a file name ending in .gguf in an existing directory, found {str(path)!r}"
        )
    return checked


def text_metadata(directory: DirectoryCheckpoint, parsed: ParsedConfig, kind: str) -> dict[str, Any]:
    """Keys of the file with the language model.

    Args:
        directory: the checkpoint.
        parsed: its config.
        kind: the format of most matrices, a name in `gguf.TYPES`.

    Raises:
        ModelFileError: the checkpoint asks for what llama.cpp's `gemma4` architecture cannot express.
    """
    text, source = parsed.core.text, str(directory.path / "config.json")
    metadata = gguf.general_keys(directory.path.name, kind, gguf.ARCHITECTURE) | gguf.decoder_keys(text, source)
    path = directory.path / "tokenizer.json"
    tokenizer = read_json(path, MAX_TOKENIZER_BYTES, _MOST_MERGES)
    names = directory.tokenizer_config().values
    metadata |= gguf.tokenizer_metadata(tokenizer, names, text.vocab, str(path))
    if metadata.get("tokenizer.ggml.padding_token_id", text.pad_id) != text.pad_id:
        raise ModelFileError(f"{source}: pad_token_id: {text.pad_id} is not the tokenizer's")
    metadata["tokenizer.ggml.padding_token_id"] = text.pad_id
    template = directory.template()
    if template is not None:
        metadata["tokenizer.chat_template"] = template.text
    generation = directory.generation()
    return metadata | gguf.generation_keys(generation.values, parsed, generation.where)


def encoder_metadata(directory: DirectoryCheckpoint, parsed: ParsedConfig, kind: str) -> dict[str, Any]:
    """Keys of the file with the encoders; arguments and errors as :func:`text_metadata`."""
    budget = directory.processor("image_processor").values.get("max_soft_tokens")
    keys = gguf.encoder_keys(parsed, budget if type(budget) is int else None, str(directory.path / "config.json"))
    return gguf.general_keys(directory.path.name, kind, "clip") | keys


class _Checkpoint:
    """A source directory, and what becomes of its tensors."""

    def __init__(self, directory: DirectoryCheckpoint, kind: str, threads: int) -> None:
        data, where = directory.config()
        self.parsed = parse_config(data, where)
        if quantized.check(data, where):
            raise ModelFileError(
                f"{where}: quantization_config: a checkpoint that is quantized already cannot be written as GGUF; "
                "convert the one that it was made from"
            )
        self._kind = kind
        self._threads = threads
        self._store = directory.tensors()
        self.notes: list[str] = []
        self.exact: set[str] = set()  # llama.cpp's names, once they are written
        # Binding compares every name and shape with the config, so that what follows can rely on them. It also tells
        # the system that some tables will be read at random, hence a fresh mapping for reading all of them once.
        ignored = tuple(name for name in self._store.names() if self._part(name) == "unused")
        _core.Model(self.parsed.core, self._store, self.parsed.text_prefix, ignored, 1)
        self._store = directory.tensors()
        if ignored:
            plural = "s" if len(ignored) > 1 else ""
            self.notes.append(f"left out: {len(ignored)} tensor{plural} that no layer reads, such as {ignored[0]}")
        self._note_sharing()

    @property
    def has_encoders(self) -> bool:
        return any(self._part(name) == "encoders" for name in self._store.names())

    def _note_sharing(self) -> None:
        text = self.parsed.core.text
        count = owners(text.layers)
        pair = [layer.sliding for layer in text.layers[max(0, count - 2) : count]]
        if count < len(text.layers) and pair != [True, False]:
            self.notes.append(
                "llama.cpp cannot run this file: it lets layers read the keys of the last two layers that own some, "
                "which must be a sliding one and then a global one; this checkpoint has another order"
            )

    def _part(self, name: str) -> str:
        """`"text"`, `"encoders"` or `"unused"`: left over from training, or the output matrix where it is tied."""
        theirs = renamed(name, self.parsed.text_prefix)
        if theirs is None:
            return "unknown"  # binding refuses it
        if ENCODER.fullmatch(theirs):
            return "encoders"
        shared = re.fullmatch(r"blk\.(\d+)\.attn_(k|v|k_norm)\.weight", theirs)
        layers = self.parsed.core.text.layers
        if shared and int(shared[1]) < len(layers):
            layer = layers[int(shared[1])]
            if layer.kv_layer != int(shared[1]) or (layer.k_is_v and shared[2] == "v"):
                return "unused"
        return "unused" if theirs == "output.weight" and self.parsed.core.text.tied_embeddings else "text"

    def plan(self, *, encoders: bool) -> list[PlannedTensor]:
        """The tensors of one of the two files, in the checkpoint's order of names."""
        part = "encoders" if encoders else "text"
        tensors = [self._planned(name) for name in self._store.names() if self._part(name) == part]
        if encoders:
            return tensors
        divisors = rotary_divisors(self.parsed.core.text)
        return [PlannedTensor("rope_freqs.weight", "F32", divisors.shape, lambda: iter([divisors])), *tensors]

    def _planned(self, name: str) -> PlannedTensor:
        source = Source(self._store, name)
        theirs = renamed(name, self.parsed.text_prefix)
        assert theirs is not None  # binding has refused others
        arranged = _ARRANGED if self.parsed.core.pixels is None else _ARRANGED_SQUARES
        arrange = arranged.get(re.sub(r"blk\.\d+", "blk.N", theirs))
        if arrange is not None:
            values = arrange(source.decoded(0, source.rows).reshape(source.shape))
            return PlannedTensor(theirs, "F32", values.shape, lambda: iter([values]))
        kind = chosen(source, theirs, self._kind, self.parsed)
        in_blocks = TYPES[kind].block_elems > 1 and source.dtype in ("F32", "F16", "BF16")

        def pieces() -> Iterator[NDArray[Any]]:
            begin, exact = 0, in_blocks
            with ThreadPoolExecutor(self._threads) as pool:
                for rows in encoded(source, kind, pool, self._threads):
                    exact = exact and is_exact(source, begin, rows, kind)
                    source.drop(begin, begin + len(rows))
                    begin += len(rows)
                    yield rows
            if exact:
                self.exact.add(theirs)

        return PlannedTensor(theirs, kind, source.shape, pieces)


def _patches(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(hidden, row * column * channel) -> (hidden, channel, row, column)."""
    side = round((values.shape[1] // 3) ** 0.5)
    return np.ascontiguousarray(values.reshape(-1, side, side, 3).transpose(0, 3, 1, 2))


def _squares(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(…, row * column * channel) -> (…, channel * row * column)"""
    side = round((values.shape[-1] // 3) ** 0.5)
    squares = values.reshape(*values.shape[:-1], side, side, 3)
    return np.ascontiguousarray(np.moveaxis(squares, -1, -3)).reshape(values.shape)


# Tensors that llama.cpp has in another arrangement. All are small beside the decoder, and stored in F32.
_ARRANGED: Mapping[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "v.patch_embd.weight": _patches,
    "a.blk.N.conv_dw.weight": lambda values: values.reshape(len(values), -1),
    "a.blk.N.per_dim_scale.weight": lambda values: np.logaddexp(values, np.float32(0)),
}
_ARRANGED_SQUARES: Mapping[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "v.patch_embd.weight": _squares,
    "v.patch_norm.1.weight": _squares,
    "v.patch_norm.1.bias": _squares,
    "v.position_embd.weight": lambda values: np.ascontiguousarray(values.transpose(1, 0, 2)),
}
