"""Media from wherever they are: encoded ones as an open file or bytes, others as an array.

Knows: paths, `data:` URLs, bytes, streams, arrays. Must not know: what is in them.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import MediaError, RequestError

__all__ = ["MAX_FILE_BYTES", "decode_base64", "open_source", "read_source", "read_stream", "to_array"]

MAX_FILE_BYTES = 256 << 20
"""Of a file that is read into memory."""


def open_source(source: Any, name: str, kind: str, stack: ExitStack) -> tuple[BinaryIO, str] | None:
    """A seekable file, and what to call it in messages; None for what is neither a path, nor bytes, nor a file.

    Args:
        source: what the caller gave.
        name: of the argument.
        kind: an example of its MIME type, for messages.
        stack: closes what is opened here; a file of the caller's stays open.

    Raises:
        MediaError: no such file, not a regular one, or a broken `data:` URL.
        RequestError: a URL, or a file in text mode.
    """
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if isinstance(text, bytes):
            text = os.fsdecode(text)
        if text[:5].lower() == "data:":
            head, comma, body = text.partition(",")
            if not comma or not head.lower().endswith(";base64"):
                raise MediaError(f"{name}: expected a data URL of the form data:{kind};base64,…")
            return io.BytesIO(decode_base64(body, name)), f"{name} (data URL)"
        if "://" in text[:12]:
            raise RequestError(f"{name}: URLs are not fetched; download {text[:80]!r} and give the file or its bytes")
        return _open_path(Path(text), name, stack)
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), f"{name} ({len(source)} bytes)"
    if callable(getattr(source, "read", None)):
        return _seekable(source, name), name
    return None


def read_source(source: Any, name: str, kind: str) -> tuple[bytes, str] | None:
    """All bytes of :func:`open_source`'s file, and what to call it; None for what is no file."""
    with ExitStack() as stack:
        opened = open_source(source, name, kind, stack)
        if opened is None:
            return None
        file, where = opened
        try:
            return read_stream(file, where), where
        except OSError as error:
            if callable(getattr(source, "read", None)):
                raise  # the caller's own file, the caller's own error
            raise MediaError(f"{name}: {where[:200]}: {error.strerror or error}") from None


def read_stream(file: Any, name: str) -> bytes:
    """What is left of a file, to a bound. Raises MediaError beyond it, RequestError for a file in text mode."""
    data = file.read(MAX_FILE_BYTES + 1)
    if not isinstance(data, bytes):
        raise RequestError(f"{name}: a file must be opened in binary mode")
    if len(data) > MAX_FILE_BYTES:
        raise MediaError(f"{name}: more than {MAX_FILE_BYTES >> 20} MB")
    return data


def decode_base64(text: str, name: str) -> bytes:
    """Raises MediaError naming `name` where the text is not base64."""
    if len(text) > MAX_FILE_BYTES * 4 // 3 + 4:
        raise MediaError(f"{name}: more than {MAX_FILE_BYTES >> 20} MB")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise MediaError(f"{name}: not valid base64") from None


def to_array(source: Any) -> NDArray[Any]:
    """NumPy, or anything with `__array__` or DLPack, in place where it can be; raises whatever the source raises."""
    if not hasattr(source, "__array__") and hasattr(source, "__dlpack__"):
        return np.from_dlpack(source)
    return np.asarray(source)


def _open_path(path: Path, name: str, stack: ExitStack) -> tuple[BinaryIO, str]:
    try:
        path = path.expanduser()
        if not path.is_file():
            problem = "is not a regular file" if path.exists() else "no such file"
            raise MediaError(f"{name}: {str(path)[:200]}: {problem}")
        return stack.enter_context(path.open("rb")), str(path)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{name}: {str(path)[:200]}: {getattr(error, 'strerror', None) or error}") from None


def _seekable(file: Any, name: str) -> Any:
    """A file that may not be sought in is read into memory, to a bound."""
    if not isinstance(file.read(0), bytes):
        raise RequestError(f"{name}: a file must be opened in binary mode")
    if callable(getattr(file, "seekable", None)) and file.seekable():
        return file
    return io.BytesIO(read_stream(file, name))
