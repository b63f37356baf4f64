"""What a user names as a model: the bundled one, a directory, GGUF files, a repository of the hub.

Knows: spellings, local files. Must not know: what is in a file beyond its first bytes, how a repository is asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from .. import gguf
from ..errors import ModelFileError, RequestError
from . import hub

__all__ = ["Place", "anchored", "files_of", "find"]

_BUNDLED = "demo"
_MAGIC = b"GGUF"
# How a file with encoders begins, behind the magic, the version and two counts: its first key is its architecture.
_ENCODERS = b"general.architecture\x08\0\0\0\x04\0\0\0\0\0\0\0clip"
_SAYING = (".json", ".jinja", ".safetensors")  # files of a directory that are read
_DEPTH = 2  # folders below the one that is named, as repositories have them


@dataclass(frozen=True)
class Place:
    """Files on this machine."""

    path: Path
    """Absolute: the directory of a checkpoint with safetensors, or a GGUF file, whose further parts lie beside it."""
    gguf: bool
    encoders: Path | None = None
    """The GGUF file with the encoders of a GGUF file, named by the user or chosen from a repository."""
    beside: tuple[Path, ...] = ()
    """Files with encoders that lie near a local GGUF file; those that fit it are known when it is open."""


def anchored(source: Any) -> Any:
    """A local name made absolute, so that it means the same after `chdir` and in another process; any other as it is.
    Of a mapping, its values.

    >>> anchored("demo"), anchored("google/gemma-4-E2B-it")
    ('demo', 'google/gemma-4-E2B-it')
    """
    if isinstance(source, Mapping):
        return {name: anchored(value) for name, value in source.items()}
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    if not isinstance(name, str):
        return source  # find() refuses it
    local = _local(name)
    if local is None or name == _BUNDLED:
        return source
    path, tag = local
    return f"{path}:{tag}" if tag else str(path)


def find(source: Any, revision: str | None = None, mmproj: Any = None) -> Place:
    """The files that a name stands for; see :meth:`gemma4.Model.from_pretrained` for what can be written.

    Raises:
        ModelFileError: there is no such thing, or it cannot be had; the message says what there is.
        RequestError: an argument has the wrong type or does not go with the source, or several files could be meant.
    """
    if not isinstance(source, str | os.PathLike):
        raise RequestError(f"source: expected a string or a path, found {type(source).__name__}")
    name = os.fspath(source)
    if not isinstance(name, str) or not name or "\0" in name:
        raise RequestError("source: expected a name, found an empty one, one of bytes, or one with a NUL in it")
    if mmproj is not None and mmproj is not False and not isinstance(mmproj, str | os.PathLike):
        raise RequestError(f"mmproj: expected a path, or False for none, found {type(mmproj).__name__}")
    local = _local(name)
    if local is None:
        here = name.endswith(".gguf") and Path(name).expanduser().parent.is_dir()
        wanted = hub.parse(name) if isinstance(source, str) and not here else None
        if wanted is None:
            raise ModelFileError(f"{name}: {_whats_there(Path(name).expanduser())}")
        return _from_hub(wanted, revision, mmproj)
    if revision is not None:
        raise RequestError("revision: only a hub id has revisions")
    path, tag = local
    if tag is None and not _is_gguf(path):
        if mmproj:
            raise RequestError("mmproj: only a GGUF file has its encoders apart")
        return Place(path, gguf=False)
    return _local_gguf(path, tag, mmproj)


def _local(name: str) -> tuple[Path, str | None] | None:
    """A path that exists, made absolute, and the tag behind a folder; None if it is not a local name."""
    if name == _BUNDLED:
        return Path(str(resources.files("gemma4").joinpath("demo_model"))), None
    path = Path(name).expanduser().absolute()
    if path.exists():
        return path, None
    folder, colon, tag = name.rpartition(":")
    if colon and folder and tag and Path(folder).expanduser().is_dir():
        return Path(folder).expanduser().absolute(), tag
    return None


def _is_gguf(path: Path) -> bool:
    if path.is_dir():
        return not any(path.glob("*.safetensors")) and any(True for _ in _ggufs(path))
    if path.suffix == ".gguf" or _head(path).startswith(_MAGIC):  # Ollama's files have no suffix
        return True
    raise ModelFileError(f"{path}: expected a directory with config.json and safetensors, or a GGUF file, found a file")


def _head(path: Path) -> bytes:
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(256)
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from error


def _ggufs(folder: Path) -> Iterator[str]:
    """The GGUF files of a folder and of those in it, relative."""
    for at, folders, files in os.walk(folder):
        relative = Path(at).relative_to(folder)
        if len(relative.parts) == _DEPTH:
            folders.clear()
        yield from ((relative / file).as_posix() for file in files if file.lower().endswith(".gguf"))


def _local_gguf(path: Path, tag: str | None, mmproj: Any) -> Place:
    folder, model = path.parent, path.name
    names = [file.name for file in folder.glob("*.gguf")]
    if path.is_dir():
        folder, names = path, list(_ggufs(path))
        model = gguf.choose_model(names, tag, str(path))
    if mmproj:
        named = Path(os.fspath(mmproj)).expanduser().absolute()
        beside = folder / os.fspath(mmproj)
        return Place(folder / model, True, beside if beside.exists() and not named.exists() else named)
    if mmproj is False:
        return Place(folder / model, True)
    near = gguf.nearest_encoders(model, names)
    own = Path(model).parent
    # Also those that are encoders by their first bytes, whatever they are called, in the model's own folder.
    others = [name for name in names if Path(name).parent == own and name != model and name not in near]
    near += [name for name in others if _ENCODERS in _head(folder / name)]
    return Place(folder / model, True, beside=tuple(folder / name for name in sorted(near)))


def _from_hub(wanted: hub.HubName, revision: str | None, mmproj: Any) -> Place:
    local = Path(os.fspath(mmproj)).expanduser().absolute() if mmproj else None
    if local is not None and local.exists():
        place = hub.fetch(wanted, revision, False)
        if place.path.is_dir():
            raise RequestError("mmproj: only a GGUF file has its encoders apart")
        return Place(place.path, True, local)
    place = hub.fetch(wanted, revision, os.fspath(mmproj) if mmproj else mmproj)
    return Place(place.path, place.path.is_file(), place.encoders)


def _whats_there(path: Path) -> str:
    """Why a name stands for nothing, and what lies where it points to."""
    folder = path.parent
    if path.suffix == ".gguf" and folder.is_dir():
        return f"does not exist; {folder} holds {gguf.shortened(file.name for file in folder.glob('*.gguf'))}"
    return "no such directory or file, and not a hub id of the form owner/name"


def files_of(source: Any, revision: str | None = None, mmproj: Any = None) -> list[Path]:
    """Every file that may say what a model is; arguments and errors as :func:`find`. Nothing is opened.

    >>> sorted(path.suffix for path in files_of("demo") if "token" not in path.name)
    ['.jinja', '.json', '.json', '.json', '.safetensors']
    """
    place = find(source, revision, mmproj)
    if not place.gguf:
        return [path for path in place.path.iterdir() if path.is_file() and path.suffix in _SAYING]
    parts = [place.path.with_name(name) for name in gguf.parts_of(place.path.name)]
    encoders = place.beside if place.encoders is None else (place.encoders,)
    return [path for path in (*parts, *encoders) if path.is_file()]
