"""``gemma4 run``: one answer, or a conversation in the terminal.

Knows: turns, what a user types. Must not know: how an answer comes about.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import Gemma4Error
from .options import GENERATION, LOADING, Group, takes
from .shared import check_file, command, load, printable, say

Parts = list[dict[str, Any]]
_SHOWS = {"/image": "picture", "/audio": "sound", "/video": "video"}


@command
@takes(options=GENERATION, loading=LOADING)
def run(
    prompt: Annotated[str | None, typer.Argument(help="What to say; without it, a conversation or stdin.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="A picture for the first turn; may be repeated.")] = None,
    audio: Annotated[list[Path] | None, typer.Option(help="A sound for the first turn; may be repeated.")] = None,
    video: Annotated[list[Path] | None, typer.Option(help="A video for the first turn; may be repeated.")] = None,
    system: Annotated[str | None, typer.Option(envvar="GEMMA4_SYSTEM", help="Instructions for the model.")] = None,
    *,
    options: Group,
    loading: Group,
) -> None:
    """Answer a prompt, or hold a conversation when there is none."""
    from ..answer import GenerationOptions
    from ..config import GenerationDefaults

    media = {"image": image, "audio": audio, "video": video}
    for path in (path for paths in media.values() for path in paths or []):
        check_file(path)
    interactive = prompt is None and sys.stdin.isatty()
    if prompt is None and not interactive:
        prompt = sys.stdin.read().strip()
    if not interactive and not prompt:
        raise typer.BadParameter("give a prompt as an argument or on stdin", param_hint="PROMPT")
    GenerationOptions.resolve(GenerationDefaults(), **options)  # what is wrong is told before a model is loaded
    messages = [{"role": "system", "content": system}] if system else []
    shown = [part for kind, paths in media.items() for part in _parts(kind, paths)]
    model = load(loading)
    if interactive:
        _converse(model, messages, shown, options)
    else:
        _answer(model, [*messages, _turn(prompt or "", shown)], options)


def _parts(kind: str, paths: Sequence[Path] | None) -> Parts:
    return [{"type": kind, kind: str(path)} for path in paths or []]


def _turn(prompt: str, parts: Parts) -> dict[str, Any]:
    return {"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}


def _answer(model: Any, messages: Parts, options: Mapping[str, Any]) -> str:
    """Writes the answer as it comes, and returns it."""
    said = []
    to_terminal = sys.stdout.isatty()
    try:
        for chunk in model.stream(messages, **options):
            said.append(chunk.text)
            sys.stdout.write(printable(chunk.text) if to_terminal else chunk.text)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return "".join(said)


def _converse(model: Any, messages: Parts, shown: Parts, options: Mapping[str, Any]) -> None:
    """Turn after turn until the end of input; an error or Ctrl-C ends only the answer it hits."""
    typer.echo("Say something. /image, /audio and /video with a PATH show a file, /exit or Ctrl-D ends.", err=True)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return typer.echo(err=True)
        if line in {"/exit", "/quit"}:
            return
        kind, _, rest = line.partition(" ")
        if kind in _SHOWS:
            path = Path(rest.strip())
            if path.is_file():
                shown += _parts(kind[1:], [path])
            else:
                say(f"no such {_SHOWS[kind]}: {path}")
        elif line:
            turn = _turn(line, shown)
            try:
                text = _answer(model, [*messages, turn], options)
            except KeyboardInterrupt:
                continue
            except Gemma4Error as error:
                say(f"error: {error}")
                continue
            messages += [turn, {"role": "assistant", "content": text}]
            shown.clear()
