"""Where the files of a checkpoint may lie.

Knows: folders, links, the layout of the hub's cache. Must not know: what a file is for.

A checkpoint comes from strangers: a link in it that led out of its folder would make any file of the user's a prompt,
or show it in a message. Every file is opened here, its folder being whatever the user named, link or not.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from .errors import ModelFileError

__all__ = ["open_inside", "target_inside"]


def target_inside(path: Path) -> Path:
    """What a file of a checkpoint is, with all links followed.

    A link may lead to another file of the folder, or, in a hub cache (`models--…/snapshots/…`), to a blob of the same
    repository.

    Raises:
        ModelFileError: there is no such file, or the link leads elsewhere.
    """
    try:
        home = path.parent.resolve()
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        problem = "a link that leads to no file" if path.is_symlink() else "does not exist"
        raise ModelFileError(f"{path}: {problem}") from None
    if target.is_relative_to(home):
        return target
    cache = home.parent.parent
    if home.parent.name == "snapshots" and cache.name.startswith("models--") and target.parent == cache / "blobs":
        return target
    raise ModelFileError(f"{path}: a link that leads out of the checkpoint's directory")


def open_inside(path: Path) -> BinaryIO:
    """A file of a checkpoint, open for reading. Raises ModelFileError as above, or if it is no regular file."""
    target = target_inside(path)
    try:
        # Not blocking: a pipe has nothing to wait for here. No link: it was none when it was looked at.
        file = os.fdopen(os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except IsADirectoryError:
        raise ModelFileError(f"{path}: is not a regular file") from None
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ModelFileError(f"{path}: is not a regular file")
    return file
