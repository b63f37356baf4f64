"""Encoded media from wherever they are, as an open file.

Knows: paths, `data:` URLs, bytes, streams. Must not know: what is in them.
"""

from __future__ import annotations

import io
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from .errors import MediaError, RequestError
from .media import _read_stream, decode_base64

__all__ = ["open_source"]


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
    return io.BytesIO(_read_stream(file, name))
