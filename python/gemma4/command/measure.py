"""``gemma4 bench``: the options of a measurement. Knows: ranges, printing. Must not know: how it is measured."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from .options import LOADING, Group, JsonOption, takes
from .shared import command, load, plain


@command
@takes(loading=LOADING)
def bench(
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", "-p", min=1, help="Length of the prompt.")] = 512,
    new_tokens: Annotated[int, typer.Option("--new-tokens", "-n", min=1, help="Tokens decoded one by one.")] = 64,
    depth: Annotated[
        list[int] | None, typer.Option(min=0, help="Decode after so many tokens; may be repeated.", show_default="0")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", "-r", min=1, help="How often; medians are shown.")] = 3,
    all_logits: Annotated[bool, typer.Option(help="Also a prompt with the logits of every position.")] = False,
    picture: Annotated[
        list[int] | None,
        typer.Option(help="Soft tokens of a picture; may be repeated, 0 for none.", show_default="280 where it sees"),
    ] = None,
    audio_seconds: Annotated[
        float | None, typer.Option(help="Length of a sound; 0 for none.", show_default="30 where it hears")
    ] = None,
    bandwidth: Annotated[
        bool, typer.Option(help="Measure how fast memory can be read, alone and in turns with decoding.")
    ] = True,
    as_json: JsonOption = False,
    *,
    loading: Group,
) -> None:
    """Measure how fast a model reads prompts, decodes, sees and hears here, and which bound it hits."""
    import time

    import gemma4

    from .bench import BenchOptions, measure, report

    options = BenchOptions(
        prompt_tokens=prompt_tokens, new_tokens=new_tokens, depths=tuple(depth or (0,)), repeats=repeats,
        all_logits=all_logits, budgets=None if picture is None else tuple(filter(None, picture)),
        audio_seconds=audio_seconds, bandwidth=bandwidth,
    )  # fmt: skip
    started = time.perf_counter()
    loaded = load(loading)
    facts: dict[str, Any] = {
        "model": loading.get("source", "demo"),
        "version": gemma4.__version__,
        "cpu": dict(gemma4.cpu_info()),
    }
    facts["load_s"] = time.perf_counter() - started
    result = measure(loaded, options)
    typer.echo(json.dumps({**facts, **result}, default=plain) if as_json else report(result))
