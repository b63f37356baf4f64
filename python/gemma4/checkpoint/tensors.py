"""The tensors of an open checkpoint: as NumPy sees them, and in another format.

Knows: the engine's tensor store. Must not know: files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

from .. import _core
from ..config import ParsedConfig
from ..progress import progress_bar
from . import quantized
from .recipe import quantize_store

Source: TypeAlias = "str | os.PathLike[str]"
"""What a user names: see :meth:`gemma4.Model.from_pretrained`."""
Dtype: TypeAlias = Literal["auto", "f32", "bf16", "f16", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0"]
"""A format for the decoder's matrices."""

__all__ = ["Dtype", "Source", "Tensors", "give_dtype"]


class Tensors(Mapping[str, NDArray[Any]]):
    """The tensors of a checkpoint as read-only views on the mapped file: no copy, and valid as long as the view lives.

    F32 is float32, F16 is float16, BF16 is `ml_dtypes.bfloat16`. Block formats such as Q4_0 and packed quants
    (I4, I2), which NumPy cannot spell, are uint8: the bytes of each row. The scales of quants are tensors of their own.

    >>> import gemma4
    >>> tensors = gemma4.Model.from_pretrained("demo").tensors
    >>> tensors["model.language_model.norm.weight"].flags.writeable
    False
    """

    def __init__(self, store: _core.TensorStore) -> None:
        self._store = store
        self._names = store.names()
        self._known = frozenset(self._names)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._known:
            raise KeyError(name)
        array = self._store.array(name)
        if self._store.dtype(name) == "BF16":
            import ml_dtypes

            array = array.view(ml_dtypes.bfloat16)
        return array

    @property
    def parameters(self) -> int:
        """How many numbers there are in all tensors."""
        return sum(math.prod(self._store.shape(name)) for name in self._names)

    @property
    def formats(self) -> list[str]:
        """The formats that tensors are stored in, the one with the most bytes first."""
        sizes: dict[str, int] = {}
        for name in self._names:
            dtype = self._store.dtype(name)
            sizes[dtype] = sizes.get(dtype, 0) + self._store.array(name).nbytes
        return sorted(sizes, key=lambda dtype: -sizes[dtype])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __repr__(self) -> str:
        return f"<gemma4.Tensors of {len(self)} tensors>"


def give_dtype(store: _core.TensorStore, parsed: ParsedConfig, dtype: str, threads: int) -> None:
    """The matrices in another format, in memory; `"auto"` leaves them where and as they are."""
    if dtype == "auto":
        return
    quantized.refuse_other_dtype(store, dtype)
    total = sum(store.array(name).nbytes for name in store.names())
    with progress_bar(total=total, desc="converting", delay=1, leave=False, unit="B", unit_scale=True) as bar:
        quantize_store(store, parsed, dtype, threads, bar.update)
