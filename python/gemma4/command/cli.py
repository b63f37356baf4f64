"""The command line: ``gemma4 detect | point | caption | read | transcribe | run | batch | convert | bench | info``.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 an error that one line on stderr names, 2 a wrong
command line, 3 several things were done and some of them failed, each with an error in its place, 130 interrupted.
Each command has a file beside this one. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from .batch import batch
from .convert import convert
from .describe import caption, read, transcribe
from .detect import detect, point
from .info import info
from .measure import bench
from .run import run

app = typer.Typer(
    name="gemma4",
    help="Run Google's Gemma 4 models on this machine's CPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """The entry point ``gemma4``."""
    app(prog_name="gemma4")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from ..version import __version__

        typer.echo(f"gemma4 {__version__}")
        raise typer.Exit


for _command in (detect, point, caption, read, transcribe, run, batch, convert, bench, info):
    app.command()(_command)


if __name__ == "__main__":
    main()
