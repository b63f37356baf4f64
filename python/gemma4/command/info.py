"""``gemma4 info``: this machine, and what a model is. Knows: tables. Must not know: where a fact comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import typer

from ..errors import Gemma4Error
from .options import LOADING, Group, JsonOption, takes
from .shared import command, fail, load, plain


@command
@takes(loading=LOADING)
def info(as_json: JsonOption = False, *, loading: Group) -> None:
    """Show the version, what this CPU can do, and what a model is."""
    import gemma4

    facts: dict[str, Any] = {"version": gemma4.__version__, "cpu": dict(gemma4.cpu_info())}
    problem = None
    try:
        facts["model"] = {"name": loading.get("source", "demo"), **_summary(load(loading))}
    except Gemma4Error as error:  # what is known about the machine helps to find out why
        problem = error
    typer.echo(json.dumps(facts, default=plain) if as_json else "\n".join(_outline(facts)))
    if problem is not None:
        fail(str(problem))


def _summary(model: Any) -> dict[str, Any]:
    return {
        "modalities": sorted(model.modalities),
        "parameters": model.tensors.parameters,
        "formats": model.tensors.formats,
        "size_bytes": sum(tensor.nbytes for tensor in model.tensors.values()),
        "context_length": model.context_length,
    }


def _outline(facts: dict[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in facts.items():
        if isinstance(value, dict):
            yield f"{indent}{key}"
            yield from _outline(value, indent + "  ")
        elif key == "size_bytes":
            yield f"{indent}{'size':<16}{value / 1e6:,.1f} MB"
        elif isinstance(value, list | tuple | set | frozenset):
            yield f"{indent}{key.replace('_', ' '):<16}{' '.join(map(str, sorted(value)))}"
        else:
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
            yield f"{indent}{key.replace('_', ' '):<16}{shown}"
