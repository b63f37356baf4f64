"""The options of the command line that are arguments of the library: each is spelled here once.

A group is a table of names, as the library has them, and options; `takes` gives a command all options of a group, and
the command hands those that were used on as they are. `test_option_tables.py` holds the tables to the signatures.
Knows: names, types, one line of help each. Must not know: ranges, which the library checks; anything that is slow to
import, since help is shown without it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from ..answer import GenerationArguments

F = TypeVar("F", bound=Callable[..., Any])
Group = Mapping[str, Any]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", "-t", min=1, help="CPU threads; by default GEMMA4_NUM_THREADS, or all it may use."),
]


def _option(kind: Any, text: str, *names: str, **more: Any) -> Any:
    return Annotated[kind | None, typer.Option(*names, help=text, **more)]


def _side_or_sides(text: str) -> int | tuple[int, int]:
    """`512`, or `640x480`."""
    sides = text.lower().split("x")
    if not 1 <= len(sides) <= 2 or not all(side.isascii() and side.isdigit() and len(side) < 10 for side in sides):
        raise typer.BadParameter(f"expected pixels, such as 512 or 640x480, found {text[:40]!r}")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


LOADING: Group = {
    "source": _option(
        str, "'demo', a directory, a .gguf file or a hub id; by default 'demo'.", "--model", "-m",
        envvar="GEMMA4_MODEL",
    ),
    "dtype": _option(str, "Format of the weights in memory, as q4_0; by default the file's.", envvar="GEMMA4_DTYPE"),
    "resize": _option(
        str, "How pictures are resized: as 'torchvision' (the default) or 'pillow' does it.", envvar="GEMMA4_RESIZE"
    ),
    "kv_cache": _option(
        str, "Format of the keys and values kept: f32, bf16 (the default), q8_0 or q4_0.", envvar="GEMMA4_KV_CACHE"
    ),
    "cache_bytes": _option(
        int, "Bytes kept of what was computed, for prompts that begin alike; by default 256 MiB.", min=0,
        envvar="GEMMA4_CACHE_BYTES",
    ),
    "max_context": _option(int, "Tokens of prompt and answer together at most.", min=1, envvar="GEMMA4_MAX_CONTEXT"),
    "num_threads": ThreadsOption,
    "mmproj": _option(Path, "The file with the encoders that belongs to a .gguf model.", envvar="GEMMA4_MMPROJ"),
    "adapter": _option(Path, "A directory with a LoRA adapter.", envvar="GEMMA4_ADAPTER"),
    "drafter": _option(str, "The small model that guesses tokens for this one.", envvar="GEMMA4_DRAFTER"),
    "revision": _option(str, "Branch, tag or commit of a hub id.", envvar="GEMMA4_REVISION"),
}  # fmt: skip
"""Of `Model.from_pretrained`."""

PICTURE: Group = {
    "max_soft_tokens": _option(
        int, "Tokens spent on a picture: 70, 140, 280, 560 or 1120.", min=1, envvar="GEMMA4_MAX_SOFT_TOKENS"
    ),
    "max_new_tokens": _option(int, "Tokens of an answer at most.", min=1, envvar="GEMMA4_MAX_NEW_TOKENS"),
}
"""Of `Model.caption` and `Model.read`."""

PLACES: Group = {
    "threshold": _option(float, "The least score, 0 to 1; by default 0.05 where there are labels."),
    "open_labels": _option(bool, "Let the model name what it finds as it likes."),
    "refine": _option(bool, "Place edges between the steps of the model's grid of 1000."),
    **PICTURE,
}
"""Of `Model.point`."""

DETECTION: Group = {
    "tile": _option(
        str, "Look at overlapping parts of so many pixels, too, such as 512 or 640x480; finds smaller things.",
        parser=_side_or_sides,
    ),
    "on_invalid": _option(str, "A malformed box: 'warn' leaves it out (the default), 'raise' is an error."),
    **PLACES,
}  # fmt: skip
"""Of `Model.detect`."""

SPEECH: Group = {
    "language": _option(str, "What is spoken: an English name, or a code such as en."),
    "chunk_seconds": _option(float, "Cut a longer sound after so many seconds, 1 to 30."),
    "max_new_tokens": PICTURE["max_new_tokens"],
}
"""Of `Model.transcribe`."""


def _generation() -> dict[str, Any]:
    """Every argument of `Model.generate` that has a line of help."""
    group = {}
    for name, kind in get_type_hints(GenerationArguments, include_extras=True).items():
        if name in PICTURE:
            group[name] = PICTURE[name]
        elif get_origin(kind) is Annotated:
            group[name] = _option(_of_an_option(kind.__origin__), kind.__metadata__[0])
    return group


def _of_an_option(kind: Any) -> Any:
    """An argument's type as a command line has it: a flag, a list, or one value."""
    kinds = get_args(kind) or (kind,)
    items = [get_args(one)[0] for one in kinds if get_origin(one) is Sequence]
    return bool if bool in kinds else list[items[0]] if items else kind  # type: ignore[valid-type]


GENERATION: Group = _generation()
"""Of `Model.generate`."""


def takes(**groups: Group) -> Callable[[F], F]:
    """In place of each parameter that is named so, the options of a group; the function gets a dict of those used."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function, eval_str=True)
        own = [p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values() if p.name not in groups]
        given = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for group in groups.values()
            for name, kind in group.items()
        ]

        @functools.wraps(function)
        def wrapped(**arguments: Any) -> Any:
            for group, options in groups.items():
                values = {name: arguments.pop(name, None) for name in options}
                arguments[group] = {name: value for name, value in values.items() if value not in (None, [])}
            return function(**arguments)

        wrapped.__signature__ = signature.replace(parameters=[*own, *given])  # type: ignore[attr-defined]
        return wrapped  # type: ignore[return-value]

    return decorate
