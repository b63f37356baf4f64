"""What callers may give as a picture, a sound or a video, for type checkers; what is given is checked where it is
opened.

Knows: types. Must not know: how any of them is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["Image", "Images", "Resize", "Sound", "Sounds", "Video", "Videos"]


class SupportsArray(Protocol):
    """NumPy's arrays and whatever becomes one."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


class SupportsDLPack(Protocol):
    """Tensors of other libraries."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...


class SupportsRead(Protocol):
    """A file that is open for reading bytes."""

    def read(self, size: int = ..., /) -> bytes: ...


# Strings, so that nothing is imported for them.
Encoded: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | SupportsRead"
Image: TypeAlias = "Encoded | PIL.Image.Image | SupportsArray | SupportsDLPack"
Sound: TypeAlias = "Encoded | SupportsArray | SupportsDLPack | Sequence[float] | tuple[Any, float] | Mapping[str, Any]"
Video: TypeAlias = "Encoded | Iterable[Image] | tuple[Iterable[Image], Sequence[float]] | Mapping[str, Any]"
Images: TypeAlias = "Image | Sequence[Image]"
Sounds: TypeAlias = "Sound | Sequence[Sound]"
Videos: TypeAlias = "Video | Sequence[Video]"
Resize: TypeAlias = Literal["torchvision", "pillow"]
"""Whose arithmetic resizes pictures."""
