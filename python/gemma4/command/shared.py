"""What all commands do alike: they end with an exit code, load a model, and print safely.

Knows: exit codes, files, terminals. Must not know: any command.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer

from ..errors import Gemma4Error, MediaError

F = TypeVar("F", bound=Callable[..., Any])

SOME_FAILED = 3
"""Exit code of a list that was gone through, of which some could not be answered."""


def fail(message: str) -> NoReturn:
    say(f"error: {message}")
    raise typer.Exit(1)


def say(message: str) -> None:
    """One line on stderr."""
    typer.echo(f"gemma4: {printable(' '.join(str(message).split()))}", err=True)


def command(function: F) -> F:
    """Turns the errors that a user can mend into one line and an exit code; any other is a bug and keeps its trace."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            with warnings.catch_warnings():
                if not sys.warnoptions:
                    warnings.showwarning = _show_warning
                return function(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:  # whoever read our output has seen enough; let nothing be written to it at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except (Gemma4Error, OSError, ImportError) as error:
            fail(str(error))

    return wrapped  # type: ignore[return-value]


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Without the line of this package's code, which tells a user of the command line nothing."""
    say(f"warning: {message}")


def load(loading: Mapping[str, Any]) -> Any:
    """A model by the options of :data:`gemma4.command.options.LOADING`."""
    import gemma4

    return gemma4.Model.from_pretrained(**loading)


def check_file(path: Path) -> None:
    """A wrong path is told before a model is loaded. Raises MediaError."""
    if not path.is_file():
        problem = "a folder, not a file" if path.is_dir() else "not a file" if path.exists() else "missing"
        raise MediaError(f"{path} is {problem}")


def printable(text: str) -> str:
    """``text`` without what would control a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def plain(value: Any) -> Any:
    """What ``json`` cannot write by itself: sets, and NumPy's scalars."""
    return (
        sorted(value) if isinstance(value, set | frozenset) else value.item() if hasattr(value, "item") else str(value)
    )
