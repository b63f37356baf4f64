"""The command line: ``gemma4 detect | run | convert | bench | info``.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 an error that one line on stderr names, 2 a wrong
command line, 130 interrupted. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NoReturn, TypeVar, cast, get_args, get_origin, get_type_hints

import typer

from ..answer import GenerationArguments
from ..errors import Gemma4Error, MediaError

F = TypeVar("F", bound=Callable[..., Any])

app = typer.Typer(
    name="gemma4",
    help="Run Google's Gemma 4 models on this machine's CPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", envvar="GEMMA4_MODEL", help="'demo', a directory, a .gguf file or a hub id."),
]
MmprojOption = Annotated[
    Path | None,
    typer.Option("--mmproj", envvar="GEMMA4_MMPROJ", help="The file with the encoders that belongs to a .gguf model."),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", "-t", min=1, envvar="GEMMA4_THREADS", help="CPU threads.")
]
SoftTokensOption = Annotated[
    int | None,
    typer.Option(min=1, envvar="GEMMA4_MAX_SOFT_TOKENS", help="Tokens spent on a picture: 70, 140, 280, 560 or 1120."),
]
ResizeOption = Annotated[
    str, typer.Option(envvar="GEMMA4_RESIZE", help="How pictures are resized: as 'torchvision' or 'pillow' does it.")
]
_ENVIRONMENT = {"max_new_tokens": "GEMMA4_MAX_NEW_TOKENS"}
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """The entry point ``gemma4``."""
    app(prog_name="gemma4")


def _fail(message: str) -> NoReturn:
    typer.echo(f"gemma4: error: {' '.join(str(message).split())}", err=True)
    raise typer.Exit(1)


def _command(function: F) -> F:
    """Turns the errors that a user can mend into one line and an exit code; any other is a bug and keeps its trace."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:  # whoever read our output has seen enough; let nothing be written to it at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except (Gemma4Error, OSError, ImportError) as error:
            _fail(str(error))

    return wrapped  # type: ignore[return-value]


def _load(name: str, threads: int | None, mmproj: Path | None = None, resize: Any = "torchvision") -> Any:
    import gemma4

    return gemma4.Model.from_pretrained(name, resize=resize, num_threads=threads, mmproj=mmproj)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from ..version import __version__

        typer.echo(f"gemma4 {__version__}")
        raise typer.Exit


# ---------------------------------------------------------------------------------------------------------------------
# gemma4 detect


@app.command()
@_command
def detect(
    image: Annotated[Path, typer.Argument(help="The picture.")],
    labels: Annotated[list[str] | None, typer.Argument(help="What to look for; nothing means every object.")] = None,
    model: ModelOption = "demo",
    draw: Annotated[Path | None, typer.Option(help="Save the picture with the boxes drawn here.")] = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    max_soft_tokens: SoftTokensOption = None,
    mmproj: MmprojOption = None,
    resize: ResizeOption = "torchvision",
) -> None:
    """Find objects in a picture and print their boxes in pixels."""
    _check_picture(image)
    if draw is not None:
        _check_drawing(draw, image)
    found = _load(model, threads, mmproj, resize).detect(image, labels or None, max_soft_tokens=max_soft_tokens)
    if draw is not None:
        picture = found.draw(image)
        with _replacing(draw) as file:
            picture.save(file, format=_format(draw))
    if as_json:
        typer.echo(json.dumps(found.to_dicts(), ensure_ascii=False))
    else:
        typer.echo(_table(found))


def _check_picture(path: Path) -> None:
    """A wrong path is told before a model is loaded."""
    if not path.is_file():
        raise MediaError(f"{path} is {'not a file' if path.exists() else 'missing'}")


def _check_drawing(path: Path, image: Path) -> None:
    if path.exists() and path.samefile(image):
        raise typer.BadParameter(f"{path} is the input picture, which is not overwritten", param_hint="--draw")
    if path.exists() and not path.is_file():
        raise typer.BadParameter(f"{path} is not a file", param_hint="--draw")
    if not path.resolve().parent.is_dir():
        raise typer.BadParameter(f"the directory of {path} does not exist", param_hint="--draw")
    _format(path)


def _format(path: Path) -> str:
    """Pillow's name of the format that the file's ending stands for."""
    from PIL import Image

    name = Image.registered_extensions().get(path.suffix.lower())
    if name is None or name not in Image.SAVE:
        raise typer.BadParameter(f"{path} must end in the name of a picture format, such as .png", param_hint="--draw")
    return name


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path`` when it is complete; on any error ``path`` stays as it was."""
    target = path.resolve()  # a link stays a link
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _table(found: Any) -> str:
    if not found:
        return "nothing found"
    head = ("label", "score", "x1", "y1", "x2", "y2")
    rows = [(_printable(d.label), f"{d.score:.2f}", *(f"{n:.1f}" for n in d.xyxy)) for d in found]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = (
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in (head, *rows))
    )
    return "\n".join(lines)


def _printable(text: str) -> str:
    """``text`` without what would control a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


# ---------------------------------------------------------------------------------------------------------------------
# gemma4 run


def _takes_generation_options(function: F) -> F:
    """In place of `**options`, one for every argument of `Model.generate` that has a line of help."""
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    given = []
    for name, kind in get_type_hints(GenerationArguments, include_extras=True).items():
        if get_origin(kind) is Annotated:
            option = typer.Option(help=kind.__metadata__[0], envvar=_ENVIRONMENT.get(name))
            kind = Annotated[_of_an_option(kind.__origin__), option]
            given.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind))
    function.__signature__ = signature.replace(parameters=[*own, *given])  # type: ignore[attr-defined]
    return function


def _of_an_option(kind: Any) -> Any:
    """An argument's type as a command line has it: a flag, a list, or one value; None is left to the library."""
    kinds = get_args(kind) or (kind,)
    items = [get_args(one)[0] for one in kinds if get_origin(one) is Sequence]
    return bool | None if bool in kinds else list[items[0]] | None if items else kind  # type: ignore[valid-type]


@app.command()
@_command
@_takes_generation_options
def run(
    prompt: Annotated[str | None, typer.Argument(help="What to say; without it, a conversation or stdin.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="A picture for the first turn; may be repeated.")] = None,
    video: Annotated[list[Path] | None, typer.Option(help="A video for the first turn; may be repeated.")] = None,
    model: ModelOption = "demo",
    system: Annotated[str | None, typer.Option(envvar="GEMMA4_SYSTEM", help="Instructions for the model.")] = None,
    threads: ThreadsOption = None,
    max_soft_tokens: SoftTokensOption = None,
    mmproj: MmprojOption = None,
    resize: ResizeOption = "torchvision",
    **options: Any,
) -> None:
    """Answer a prompt, or hold a conversation when there is none."""
    from ..answer import GenerationOptions
    from ..config import GenerationDefaults

    for path in (*(image or []), *(video or [])):
        _check_picture(path)
    interactive = prompt is None and sys.stdin.isatty()
    if prompt is None and not interactive:
        prompt = sys.stdin.read().strip()
    if not interactive and not prompt:
        raise typer.BadParameter("give a prompt as an argument or on stdin", param_hint="PROMPT")
    options = {name: value for name, value in options.items() if value not in (None, [])}
    GenerationOptions.resolve(GenerationDefaults(), **options)  # what is wrong is told before a model is loaded
    options["max_soft_tokens"] = max_soft_tokens
    messages = [{"role": "system", "content": system}] if system else []
    loaded = _load(model, threads, mmproj, resize)
    if interactive:
        _converse(loaded, messages, [*_parts("image", image), *_parts("video", video)], options)
    else:
        _answer(loaded, [*messages, _turn(prompt or "", [*_parts("image", image), *_parts("video", video)])], options)


def _parts(kind: str, paths: list[Path] | None) -> list[dict[str, Any]]:
    return [{"type": kind, kind: str(path)} for path in paths or []]


def _turn(prompt: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}


def _answer(model: Any, messages: list[dict[str, Any]], options: dict[str, Any]) -> str:
    """Writes the answer as it comes, and returns it."""
    said = []
    to_terminal = sys.stdout.isatty()
    try:
        for chunk in model.stream(messages, **options):
            said.append(chunk.text)
            sys.stdout.write(_printable(chunk.text) if to_terminal else chunk.text)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return "".join(said)


def _converse(model: Any, messages: list[dict[str, Any]], shown: list[dict[str, Any]], options: dict[str, Any]) -> None:
    """Turn after turn until the end of input; an error or Ctrl-C ends only the answer it hits."""
    typer.echo("Say something. /image PATH shows a picture, /video PATH a video, /exit or Ctrl-D ends.", err=True)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return typer.echo(err=True)
        if line in {"/exit", "/quit"}:
            return
        kind, _, rest = line.partition(" ")
        if kind in {"/image", "/video"}:
            path = Path(rest.strip())
            if path.is_file():
                shown += _parts(kind[1:], [path])
            else:
                typer.echo(f"gemma4: no such {'picture' if kind == '/image' else 'video'}: {path}", err=True)
        elif line:
            turn = _turn(line, shown)
            try:
                text = _answer(model, [*messages, turn], options)
            except KeyboardInterrupt:
                continue
            except Gemma4Error as error:
                typer.echo(f"gemma4: error: {error}", err=True)
                continue
            messages += [turn, {"role": "assistant", "content": text}]
            shown.clear()


# ---------------------------------------------------------------------------------------------------------------------
# gemma4 convert


@app.command()
@_command
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
        typer.echo(f"gemma4: note: {note}", err=True)
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


# ---------------------------------------------------------------------------------------------------------------------
# gemma4 bench


@app.command()
@_command
def bench(
    model: ModelOption = "demo",
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", "-p", min=1, help="Length of the prompt.")] = 512,
    new_tokens: Annotated[int, typer.Option("--new-tokens", "-n", min=1, help="Tokens decoded one by one.")] = 64,
    depth: Annotated[list[int] | None, typer.Option(min=0, help="Decode after so many tokens; repeatable.")] = None,
    repeats: Annotated[int, typer.Option("--repeats", "-r", min=1, help="How often; medians are shown.")] = 3,
    all_logits: Annotated[bool, typer.Option(help="Also a prompt with the logits of every position.")] = False,
    picture: Annotated[list[int] | None, typer.Option(help="Soft tokens of a picture; 0 for none.")] = None,
    audio_seconds: Annotated[float | None, typer.Option(help="Length of a sound; 0 for none.")] = None,
    bandwidth: Annotated[
        bool, typer.Option(help="Measure how fast memory can be read, alone and in turns with decoding.")
    ] = True,
    kv_cache: Annotated[str, typer.Option(help="Format of the keys and values kept.")] = "bf16",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    mmproj: MmprojOption = None,
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
    loaded = gemma4.Model.from_pretrained(model, num_threads=threads, mmproj=mmproj, kv_cache=cast(Any, kv_cache))
    facts: dict[str, Any] = {"model": model, "version": gemma4.__version__, "cpu": dict(gemma4.cpu_info())}
    facts["load_s"] = time.perf_counter() - started
    result = measure(loaded, options)
    typer.echo(json.dumps({**facts, **result}, default=_plain) if as_json else report(result))


# ---------------------------------------------------------------------------------------------------------------------
# gemma4 info


@app.command()
@_command
def info(model: ModelOption = "demo", as_json: JsonOption = False, mmproj: MmprojOption = None) -> None:
    """Show the version, what this CPU can do, and what a model is."""
    import gemma4

    facts: dict[str, Any] = {"version": gemma4.__version__, "cpu": dict(gemma4.cpu_info())}
    problem = None
    try:
        facts["model"] = {"name": model, **_summary(_load(model, None, mmproj))}
    except Gemma4Error as error:  # what is known about the machine helps to find out why
        problem = error
    typer.echo(json.dumps(facts, default=_plain) if as_json else "\n".join(_outline(facts)))
    if problem is not None:
        _fail(str(problem))


def _summary(model: Any) -> dict[str, Any]:
    return {
        "modalities": sorted(model.modalities),
        "parameters": model.tensors.parameters,
        "formats": model.tensors.formats,
        "size_bytes": sum(tensor.nbytes for tensor in model.tensors.values()),
        "context_length": model.context_length,
    }


def _plain(value: Any) -> Any:
    """What ``json`` cannot write by itself: sets, and NumPy's scalars."""
    return (
        sorted(value) if isinstance(value, set | frozenset) else value.item() if hasattr(value, "item") else str(value)
    )


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


if __name__ == "__main__":
    main()
