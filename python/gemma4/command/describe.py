"""``gemma4 caption``, ``gemma4 read`` and ``gemma4 transcribe``: pictures and sounds in words.

Knows: how several texts are printed. Must not know: how they come about.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import LOADING, PICTURE, SPEECH, Group, JsonOption, takes
from .shared import SOME_FAILED, check_file, command, load, printable, say

Pictures = Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="The pictures.")]
Sounds = Annotated[list[Path], typer.Argument(metavar="FILE...", help="WAV, FLAC, OGG or MP3.")]


@command
@takes(asked=PICTURE, loading=LOADING)
def caption(pictures: Pictures, as_json: JsonOption = False, *, asked: Group, loading: Group) -> None:
    """Describe pictures. With --json a line each: {"image", "text"} or {"image", "error"}; exit code 3 if some fail."""
    _each("caption", "image", pictures, as_json, asked, loading)


@command
@takes(asked=PICTURE, loading=LOADING)
def read(pictures: Pictures, as_json: JsonOption = False, *, asked: Group, loading: Group) -> None:
    """Read the text in pictures. Output as that of gemma4 caption."""
    _each("read", "image", pictures, as_json, asked, loading)


@command
@takes(asked=SPEECH, loading=LOADING)
def transcribe(sounds: Sounds, as_json: JsonOption = False, *, asked: Group, loading: Group) -> None:
    """Write down what is said in sounds.

    With --json a line each: {"audio", "text", "segments"}, or {"audio", "error"}; exit code 3 if some fail.
    """
    _each("transcribe", "audio", sounds, as_json, asked, loading)


def _each(task: str, kind: str, paths: list[Path], as_json: bool, asked: Group, loading: Group) -> None:
    """Print an answer for each file: alone as it is, of several behind the file's name."""
    for path in paths:
        check_file(path)
    ask = getattr(load(loading), task)
    alone = len(paths) == 1
    answers = [ask(paths[0], **asked)] if alone else ask(paths, on_error="return", **asked)
    failed = 0
    for path, answer in zip(paths, answers, strict=True):
        if isinstance(answer, Exception):
            failed += 1
            say(f"error: {path}: {answer}")
        if as_json:
            typer.echo(json.dumps({kind: str(path), **_facts(answer)}, ensure_ascii=False))
        elif not isinstance(answer, Exception):
            typer.echo(printable(answer if alone else f"{path}: {answer}"))
    if failed:
        raise typer.Exit(SOME_FAILED)


def _facts(answer: Any) -> dict[str, Any]:
    if isinstance(answer, Exception):
        return {"error": {"type": type(answer).__name__, "message": str(answer)}}
    segments = [{"start": s.start, "end": s.end, "text": s.text} for s in getattr(answer, "segments", ())]
    return {"text": str(answer), **({"segments": segments} if segments else {})}
