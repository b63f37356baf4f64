"""``gemma4 detect`` and ``gemma4 point``: where things are in pictures.

Knows: which words of a command line are pictures and which are labels, tables, drawings. Must not know: how a picture
is searched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..replacing import replacing
from .options import DETECTION, LOADING, PLACES, Group, JsonOption, takes
from .shared import SOME_FAILED, check_file, command, load, printable, say

_UNREADABLE = {".heic", ".heif", ".jxl", ".svg"}
"""Endings of pictures that are not read: a name that ends so is no label either."""

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="PICTURE... [LABEL]...",
        help="Pictures, then what to look for. The first is a picture, and so is what is a file or is called like one.",
    ),
]
LabelsOption = Annotated[
    list[str] | None, typer.Option("--label", "--labels", "-l", help="What to look for; may be repeated.")
]
DrawOption = Annotated[
    Path | None, typer.Option(help="Save the picture with what was found drawn in; a folder for several pictures.")
]


@command
@takes(asked=DETECTION, loading=LOADING)
def detect(
    words: Words,
    label: LabelsOption = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="The whole question, instead of the usual one; names are still those of the labels."),
    ] = None,
    draw: DrawOption = None,
    as_json: JsonOption = False,
    *,
    asked: Group,
    loading: Group,
) -> None:
    """Find objects in pictures and print their boxes in pixels; without a label, every object.

    With --json one picture gives a list of objects, and several give a line each: {"image", "detections"}, or
    {"image", "error"}. If some of several cannot be searched, the exit code is 3.
    """
    paths, labels = pictures_and_labels(words, label)
    asked = {**asked, "prompt": prompt}
    drawings = _drawings(draw, paths)
    model = load(loading)
    _show(paths, model.detect(_one_or_all(paths), labels or None, **_kept_going(paths, asked)), drawings, as_json)


@command
@takes(asked=PLACES, loading=LOADING)
def point(
    words: Words,
    label: LabelsOption = None,
    draw: DrawOption = None,
    as_json: JsonOption = False,
    *,
    asked: Group,
    loading: Group,
) -> None:
    """Find an object in pictures and print its places, one point each, in pixels.

    Output as that of gemma4 detect, with "points" for "detections".
    """
    paths, labels = pictures_and_labels(words, label)
    if len(labels) != 1:
        raise typer.BadParameter(f"expected one label, found {len(labels)}", param_hint="LABEL")
    drawings = _drawings(draw, paths)
    model = load(loading)
    _show(paths, model.point(_one_or_all(paths), labels[0], **_kept_going(paths, asked)), drawings, as_json)


def pictures_and_labels(words: Sequence[str], labels: Sequence[str] | None) -> tuple[list[Path], list[str]]:
    """What a command line names. Labels that are given as options leave pictures alone.

    Raises:
        MediaError: a picture is not there.
    """
    pictures = [words[0], *(word for word in words[1:] if labels or _is_a_picture(word))]
    paths = [Path(word) for word in pictures]
    for path in paths:
        check_file(path)
    return paths, list(labels or [word for word in words[1:] if not _is_a_picture(word)])


def _is_a_picture(word: str) -> bool:
    from ..media import PICTURE_SUFFIXES

    path = Path(word)
    try:
        there = path.is_file()
    except (OSError, ValueError):  # too long for a name, or with a character that no name has
        there = False
    return there or path.suffix.lower() in PICTURE_SUFFIXES | _UNREADABLE or word.startswith(("/", "./", "../", "~/"))


def _one_or_all(paths: list[Path]) -> Path | list[Path]:
    return paths[0] if len(paths) == 1 else paths


def _kept_going(paths: list[Path], asked: Group) -> dict[str, Any]:
    return {**asked, "on_error": "return"} if len(paths) > 1 else dict(asked)


# ---------------------------------------------------------------------------------------------------------------------
# Drawings


def _drawings(draw: Path | None, paths: list[Path]) -> list[Path] | None:
    """Where to draw each picture; what is wrong with that is told before a model is loaded."""
    if draw is None:
        return None
    if len(paths) == 1:
        targets = [draw]
    else:
        if draw.exists() and not draw.is_dir():
            raise typer.BadParameter(f"{draw} is not a folder, which several pictures need", param_hint="--draw")
        targets = [draw / path.name for path in paths]
        if len(set(targets)) < len(targets):
            twice = next(target.name for target in targets if targets.count(target) > 1)
            raise typer.BadParameter(f"two of the pictures are called {twice}", param_hint="--draw")
        if not draw.resolve().parent.is_dir():
            raise typer.BadParameter(f"the directory of {draw} does not exist", param_hint="--draw")
    for target in targets:
        _check_drawing(target, paths, inside=len(paths) > 1)
    return targets


def _check_drawing(path: Path, pictures: list[Path], inside: bool) -> None:
    if path.exists() and any(path.samefile(picture) for picture in pictures):
        raise typer.BadParameter(f"{path} is the input picture, which is not overwritten", param_hint="--draw")
    if path.exists() and not path.is_file():
        raise typer.BadParameter(f"{path} is not a file", param_hint="--draw")
    if not inside and not path.resolve().parent.is_dir():
        raise typer.BadParameter(f"the directory of {path} does not exist", param_hint="--draw")
    _format(path)


def _format(path: Path) -> str:
    """Pillow's name of the format that the file's ending stands for."""
    from PIL import Image

    name = Image.registered_extensions().get(path.suffix.lower())
    if name is None or name not in Image.SAVE:
        raise typer.BadParameter(f"{path} must end in the name of a picture format, such as .png", param_hint="--draw")
    return name


# ---------------------------------------------------------------------------------------------------------------------
# Results


def _show(paths: list[Path], answers: Any, drawings: list[Path] | None, as_json: bool) -> None:
    """Print what was found, and draw it."""
    alone = len(paths) == 1
    failed = 0
    for index, (path, found) in enumerate(zip(paths, [answers] if alone else answers, strict=True)):
        wrong = isinstance(found, Exception)
        if wrong:
            failed += 1
            say(f"error: {path}: {found}")
        elif drawings is not None:
            _draw(found, path, drawings[index])
        if as_json:
            typer.echo(json.dumps(found.to_dicts() if alone else _line(path, found), ensure_ascii=False))
        elif not wrong:
            head = "" if alone else f"{printable(str(path))}\n"
            typer.echo(head + _table(found) + ("" if alone or index == len(paths) - 1 else "\n"))
    if failed:
        raise typer.Exit(SOME_FAILED)


def _draw(found: Any, path: Path, target: Path) -> None:
    picture = found.draw(path)
    target.parent.mkdir(exist_ok=True)
    with replacing(target) as file:
        picture.save(file, format=_format(target))


def _line(path: Path, found: Any) -> dict[str, Any]:
    from ..detections import Points

    if isinstance(found, Exception):
        return {"image": str(path), "error": {"type": type(found).__name__, "message": str(found)}}
    return {"image": str(path), "points" if isinstance(found, Points) else "detections": found.to_dicts()}


def _table(found: Any) -> str:
    from ..detections import Points

    if not found:
        return "nothing found"
    points = isinstance(found, Points)
    head = ("label", "score", *(("x", "y") if points else ("x1", "y1", "x2", "y2")))
    rows = [(printable(d.label), f"{d.score:.2f}", *(f"{n:.1f}" for n in (d.xy if points else d.xyxy))) for d in found]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = (
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in (head, *rows))
    )
    return "\n".join(lines)
