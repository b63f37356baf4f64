"""``gemma4 convert``: a checkpoint as GGUF. Knows: progress, a table. Must not know: formats."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, ThreadsOption
from .shared import command, say


@command
def convert(
    source: Annotated[str, typer.Argument(help="A directory with safetensors, 'demo' or a hub id.")],
    out: Annotated[Path, typer.Argument(help="The .gguf file to write.")],
    dtype: Annotated[
        str, typer.Option(help="Format of the matrices: f32, bf16, f16, q8_0, q6_k, q5_k, q4_k or q4_0.")
    ] = "q4_0",
    mmproj: Annotated[Path | None, typer.Option(help="A second .gguf file for the encoders.")] = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Write a checkpoint as GGUF, for this package and for llama.cpp."""
    import gemma4

    done = gemma4.convert(source, out, dtype, mmproj, num_threads=threads)
    files = [path for path in (done.path, done.mmproj) if path is not None]
    for note in done.notes:
        say(f"note: {note}")
    if as_json:
        sizes = [{"path": str(path), "size_bytes": path.stat().st_size} for path in files]
        facts = {"files": sizes, "tensors": done.tensors, "exact": done.exact, "notes": done.notes}
        typer.echo(json.dumps(facts, ensure_ascii=False))
    else:
        for path, formats in zip(files, done.formats, strict=False):
            typer.echo(f"{path}  {path.stat().st_size / 1e6:,.1f} MB  {_counts(formats)}")
        if done.exact:
            kinds = _counts(Counter(done.tensors[name] for name in done.exact))
            typer.echo(f"quantized without a loss, from weights on a lattice: {kinds}")


def _counts(formats: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(formats.items(), key=lambda item: -item[1]))
