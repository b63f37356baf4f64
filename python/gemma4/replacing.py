"""How a file takes its name: it is written beside it, and renamed when it is complete.

Knows: files, folders, links. Must not know: what is in them.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["beside", "replacing", "write_whole"]


@contextmanager
def beside(path: str | os.PathLike[str], *, sync: bool = False, alone: bool = False) -> Iterator[Path]:
    """A place beside `path`. The file or folder that is made there takes its name when the block ends.

    On any error `path` stays as it was, and nothing is left behind. A link stays a link: what it leads to is replaced.

    Args:
        path: in a folder that is there.
        sync: what takes the name is there even after the power fails.
        alone: no other process writes to `path` meanwhile, so that what one that was killed has left is cleared away.

    Raises:
        OSError: it cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise OSError(errno.EINVAL, "Neither a file nor a folder", str(path))  # a device is never replaced
    unique = "part" if alone else f"{os.urandom(4).hex()}.tmp"
    made, old = (target.with_name(f".{target.name[:40]}.{unique}{end}") for end in ("", ".old"))
    if alone:
        _remove(made)
    try:
        yield made
        if sync:
            _to_disk(made)
        if made.is_dir() and target.is_dir():  # a folder is not renamed over another
            _remove(old)
            os.replace(target, old)
        os.replace(made, target)
    finally:
        if old.exists() and not target.exists():
            os.replace(old, target)
        for rest in (made, old):
            _remove(rest)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file, open for writing, which takes the place of `path` as :func:`beside` says."""
    with beside(path) as made, open(made, "xb") as file:
        yield file


def write_whole(path: str | os.PathLike[str], data: bytes | str) -> None:
    """A file of these bytes, or of this text in UTF-8, in place of `path` as :func:`beside` says.

    What UTF-8 cannot hold (names of files may have any bytes) is written as JSON escapes it.
    """
    with replacing(path) as file:
        file.write(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)


def _to_disk(made: Path) -> None:
    files = [made] if made.is_file() else [file for file in made.rglob("*") if file.is_file()]
    for file in files:
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
