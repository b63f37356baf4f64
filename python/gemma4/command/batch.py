"""``gemma4 batch``: a task over many files.

Knows: which options belong to which task, how a run that was ended goes on. Must not know: formats, questions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import DETECTION, GENERATION, LOADING, PICTURE, PLACES, SPEECH, Group, takes
from .shared import SOME_FAILED, command, load, say

_OPTIONS = {
    "detect": DETECTION, "point": PLACES, "caption": PICTURE, "read": PICTURE, "transcribe": SPEECH,
    "generate": GENERATION,
}  # fmt: skip
_CACHE_BYTES = 32 << 20
_EVERY: Group = {**DETECTION, **SPEECH, **GENERATION}


@command
@takes(asked=_EVERY, loading=LOADING)
def batch(
    context: typer.Context,
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT... OUT",
            help="Files, folders, patterns in quotes, .parquet or .jsonl files, videos; last, where the rows go: a "
            ".jsonl or .parquet file, or, of boxes, a .json file as COCO's or a folder as YOLO's.",
        ),
    ],
    task: Annotated[
        Literal["detect", "point", "caption", "read", "transcribe", "generate"],
        typer.Option(help="What to do with each."),
    ] = "detect",
    labels: Annotated[
        list[str] | None, typer.Option("--labels", "--label", "-l", help="What to look for; may be repeated.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="The question to each; not to rows with a prompt or labels of their own.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second of a video; by default 1.")] = None,
    column: Annotated[str | None, typer.Option(help="The field of a row with the picture or sound.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what is done, and replace OUT.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    *,
    asked: Group,
    loading: Group,
) -> None:
    """Ask about many pictures, sounds or prompts, and write a row for each.

    Rows are in the order of the inputs. One that cannot be answered has an error, and the exit code is 3. A run that
    was ended, in whatever way, goes on when the same command is given again: OUT.part.jsonl holds what is done.

    A row of a .jsonl or .parquet file has a picture, a sound or a video as "image", "audio" or "video", a path from
    where the file lies or, in parquet, bytes; it may have its own "labels", "prompt" or "messages", and an "id".
    """
    if len(places) < 2:
        raise typer.BadParameter("give at least one input, and where the rows go", param_hint="INPUT... OUT")
    wrong = [name for name in asked if name not in _OPTIONS[task] and not _from_outside(context, name)]
    if labels and task not in ("detect", "point"):
        wrong.append("labels")
    if prompt is not None and task not in ("detect", "generate"):
        wrong.append("prompt")
    if wrong:
        option = f"--{wrong[0].replace('_', '-')}"
        raise typer.BadParameter(f"the task {task} has no such option", param_hint=option)
    from ..pipelines import Job, run_job

    options = {name: value for name, value in asked.items() if name in _OPTIONS[task]}
    job = Job(task, labels or None, prompt, options, fps, column)
    # Pictures seldom come twice, unlike what a conversation says: less is kept of them, so that memory stays level.
    model = load({"cache_bytes": _CACHE_BYTES, **loading})
    try:
        done = run_job(
            model, job, places[:-1], Path(places[-1]), restart=restart, progress=not quiet,
            tell=lambda note: say(f"note: {note}"),
        )  # fmt: skip
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        raise
    if not quiet:
        say(f"{done.rows:,} rows in {places[-1]}, {done.failed:,} of them errors")
    if done.failed:
        raise typer.Exit(SOME_FAILED)


def _from_outside(context: typer.Context, name: str) -> bool:
    """Whether an option was set by an environment variable, which is meant for those tasks that have it."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "ENVIRONMENT"
