"""What was computed before, so that it is not computed again: answers, and what large files hold.

Knows: a folder, JSON, what makes an answer the answer that it is. Must not know: metrics, pytest.

Each answer is a small file of its own, written beside and renamed: any number of processes may share the folder. What
cannot be read is computed anew, with a warning. Nothing here ever fails because the folder does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..checkpoint import files_of
from ..digests import file_digest
from ..notices import warn
from ..replacing import write_whole
from ..version import __version__

__all__ = ["AnswerCache", "digest", "fingerprint"]

_LIMIT = 1 << 24  # bytes of an answer's file


def digest(value: Any) -> str:
    """Of anything that JSON can write: two values that differ have different ones."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


class AnswerCache:
    """Answers and digests of files under a folder; with None for the folder nothing is kept.

    >>> import tempfile
    >>> cache = AnswerCache(tempfile.mkdtemp())
    >>> cache.put("answers", "0a", {"found": []}); cache.get("answers", "0a")
    {'found': []}
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else Path(folder).absolute()
        self._warned = False

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """What was put there; None where nothing was, or where it is damaged, which is warned of."""
        path = self._path(kind, key)
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                data = file.read(_LIMIT + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            warn(f"{path}: {error.strerror or error}; it is computed anew")
            return None
        try:
            value = json.loads(data)
            if len(data) <= _LIMIT and value["key"] == key and isinstance(value["value"], dict):
                found: dict[str, Any] = value["value"]
                return found
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        self.damaged(kind, key)
        return None

    def damaged(self, kind: str, key: str) -> None:
        """Warn of an entry that does not say what it should."""
        warn(f"{self._path(kind, key)}: a damaged cache file; it is computed anew")

    def put(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Keep a value; a folder that cannot be written to is warned of once."""
        path = self._path(kind, key)
        if path is None:
            return
        text = json.dumps({"key": key, "value": value}, ensure_ascii=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        except OSError as error:
            if not self._warned:
                warn(f"{path.parent}: {error.strerror or error}; answers are not kept for the next run")
            self._warned = True

    def of_file(self, kind: str, path: Path, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """What `make` says of a file, asked again only when the file is another one: by size, times and inode."""
        stat = path.stat()
        now = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        key = digest([kind, str(path.absolute())])
        kept = self.get("files", key)
        if kept is not None and kept.get("stat") == now and isinstance(kept.get("holds"), dict):
            holds: dict[str, Any] = kept["holds"]
            return holds
        made = make(path)
        self.put("files", key, {"path": str(path), "stat": now, "holds": made})
        return made

    def _path(self, kind: str, key: str) -> Path | None:
        return None if self.folder is None else self.folder / kind / key[:2] / f"{key}.json"


def fingerprint(arguments: Mapping[str, Any], cache: AnswerCache) -> str:
    """Says which model answers, by the bytes of all of its files and by what it is loaded with; loads nothing.

    Args:
        arguments: of :meth:`gemma4.Model.from_pretrained`.
        cache: knows the digests of files that were read before.

    Raises:
        ModelFileError, RequestError: there is no such model.
    """
    files = files_of(arguments["source"], arguments.get("revision"), arguments.get("mmproj"))
    adapter = arguments.get("adapter")
    adapters = adapter if isinstance(adapter, Mapping) else {} if adapter is None else {"": adapter}
    parts: list[Any] = [_contents(files, cache)]
    parts += [[name, _contents(files_of(where), cache)] for name, where in sorted(adapters.items())]
    # Threads, what is kept and a drafter change no answer.
    settings = {name: arguments.get(name) for name in ("dtype", "resize", "kv_cache", "max_context")}
    return digest([__version__, settings, parts])


def _contents(files: Iterable[Path], cache: AnswerCache) -> list[Any]:
    return [[path.name, cache.of_file("bytes", path, _bytes_digest)["digest"]] for path in sorted(files)]


def _bytes_digest(path: Path) -> dict[str, Any]:
    return {"digest": file_digest(path)}
