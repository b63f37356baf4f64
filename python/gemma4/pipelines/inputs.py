"""What a list of inputs holds, always in the same order: files, folders, patterns, frames of videos.

Knows: names of files. Must not know: what is asked about an item. Nothing is opened before its turn has come, and what
cannot be read is an item, too, with its error.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import Gemma4Error, MediaError
from ..media import VideoOptions, open_clip, read_request
from .items import SUFFIXES, Item, Wanted, clean, medium_of
from .rows import Lines, Table

__all__ = ["Inputs", "read_inputs"]

_NAMED = 3  # files in a message


class Source(Protocol):
    """Something that holds items."""

    @property
    def path(self) -> str:
        """The file."""
        ...

    def count(self) -> int:
        """How many."""
        ...

    def items(self) -> Iterator[Item]:
        """They themselves."""
        ...


@dataclass
class Inputs:
    """Everything that was named."""

    sources: list[Source] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""
    own_questions: bool = False
    """Whether items may have prompts and labels of their own."""

    def count(self) -> int:
        """Items in all. Raises RequestError where a table cannot be read."""
        return sum(source.count() for source in self.sources)

    def items(self) -> Iterator[Item]:
        """All of them."""
        for source in self.sources:
            yield from source.items()


def read_inputs(inputs: Sequence[str | os.PathLike[str]], wanted: Wanted) -> Inputs:
    """Look for what was named; nothing is read yet.

    Args:
        inputs: files, folders (with all that is in them), patterns such as `"shots/**/*.png"`, parquet and JSONL files.
        wanted: by the task.

    Raises:
        MediaError: there is no such file, or a folder or a pattern holds nothing that is wanted.
        RequestError: no rate of frames.
    """
    read_request("", VideoOptions(fps=wanted.fps), "video")
    found, seen = Inputs(), set[str]()
    twice = 0
    for one in inputs:
        for path in _named(os.fspath(one), wanted, found.notes):
            place = os.path.abspath(path)
            twice += place in seen
            if place not in seen:
                seen.add(place)
                found.sources.append(_source(path, wanted))
    found.own_questions = any(getattr(source, "own_questions", False) for source in found.sources)
    if twice:
        found.notes.append(f"named more than once, and taken once: {twice:,} files")
    return found


def _named(name: str, wanted: Wanted, notes: list[str]) -> Iterator[str]:
    """The files behind one name."""
    if os.path.isdir(name):
        return _in_folder(name, wanted, notes)
    if os.path.exists(name):
        return iter([name])
    if glob.has_magic(name):
        paths = sorted(path for path in glob.glob(name, recursive=True) if not os.path.isdir(path))
        if not paths:
            raise MediaError(f"{clean(name)}: no file is called so")
        return iter(paths)
    raise MediaError(f"{clean(name)} is missing")


def _in_folder(folder: str, wanted: Wanted, notes: list[str]) -> Iterator[str]:
    """All that is wanted, at any depth, in the order of their names; hidden files are not looked at. A folder that is
    reached on several ways, as by a link to one above it, is entered once."""
    entered, others, count = {_place(folder)}, [], 0
    for root, folders, files in os.walk(folder, followlinks=True):
        inside = []
        for name in sorted(folders):
            place = _place(os.path.join(root, name))
            if not name.startswith(".") and place not in entered:
                entered.add(place)
                inside.append(name)
        folders[:] = inside
        for name in sorted(files):
            path = os.path.join(root, name).removeprefix("./")
            if name.startswith("."):
                continue
            if os.path.splitext(name)[1].lower() in wanted.suffixes:
                count += 1
                yield path
            else:
                others.append(path)
    if not count:
        raise MediaError(
            f"{clean(folder)}: no files that end in {', '.join(wanted.suffixes)}; parquet and JSONL files are named "
            "themselves"
        )
    if others:
        named = ", ".join(clean(path) for path in others[:_NAMED]) + (", …" if len(others) > _NAMED else "")
        notes.append(f"left out of {clean(folder)}, as of another kind: {len(others):,} ({named})")


def _place(folder: str) -> tuple[int, int]:
    """Which folder it is, whatever it is called."""
    try:
        facts = os.stat(folder)
    except OSError:  # os.walk will pass it over
        return 0, 0
    return facts.st_dev, facts.st_ino


def _source(path: str, wanted: Wanted) -> Source:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".parquet", ".pq"):
        return Table(path, wanted)
    if suffix in (".jsonl", ".ndjson"):
        return Lines(path, wanted)
    if suffix in SUFFIXES["video"] and "image" in wanted.kinds and "video" not in wanted.kinds:
        return _Frames(path, wanted.fps)
    return _File(path, medium_of(suffix, wanted), wanted.fps)


@dataclass(frozen=True)
class _File:
    path: str
    kind: str
    fps: float | None

    def count(self) -> int:
        return 1

    def items(self) -> Iterator[Item]:
        medium: Any = self.path
        if self.kind == "video" and self.fps is not None:
            medium = {"video": self.path, "fps": self.fps}
        yield Item(clean(self.path), clean(self.path), {self.kind: medium})


@dataclass(frozen=True)
class _Frames:
    """Of a video of any length, decoded one by one."""

    path: str
    fps: float | None

    def _open(self) -> Any:
        return open_clip(self.path, VideoOptions(fps=self.fps), clean(self.path), most_seconds=math.inf)

    def count(self) -> int:
        try:
            with self._open() as clip:
                return len(clip.chosen)
        except MediaError:
            return 1  # which says why

    def items(self) -> Iterator[Item]:
        name = clean(self.path)
        try:
            with self._open() as clip:
                for frame in clip.frames():
                    # As the standard for addresses of parts of media has it.
                    yield Item(f"{name}#t={frame.seconds:.3f}", name, {"image": frame.pixels}, round(frame.seconds, 6))
        except Gemma4Error as error:
            yield Item(name, name, error=error)
