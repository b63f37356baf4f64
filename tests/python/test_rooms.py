"""How the package is laid out: which file may import what. The table below is the map."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import gemma4
import pytest

# From the ground up: a file imports from its own room and from those above it in this list. Of another room it sees
# what the room's stub hands on, and nothing else.
ROOMS = {
    "ground": "errors, checks of arguments, JSON as untrusted data, how a file is written, this machine's processor",
    "tokens": "text to ids and back; each control token spelled once",
    "boxes": "the grid, boxes in a text, how right boxes are",
    "media": "pictures, sound and video as the encoders read them",
    "config": "config.json and generation_config.json",
    "gguf": "one file format, in both directions",
    "checkpoint": "finding, opening and converting checkpoints",
    "prompt": "messages to ids and media",
    "answer": "logits to text, thoughts and calls",
    "runtime": "a loaded checkpoint, and what is kept between prompts",
    "detections": "objects on pictures, in every form that other packages read",
    "tasks": "the family's questions and what their answers say",
    "face": "Model, Chat, assertions",
    "pipelines": "a model in other people's machinery: folders, Ray, transformers' pipelines",
    "evaluate": "how good a prompt is, over labelled pictures; pytest",
    "command": "the command line",
}
FACE = {"__init__", "asynchronous", "chat", "model", "skills", "testing", "version"}
DOORS = {"ray": "pipelines"}
"""Files beside the rooms through which `import gemma4.ray` finds what a room has."""
MOST_LINES, MOST_OF_A_FUNCTION, MOST_POSITIONAL = 500, 80, 7

ROOT = Path(gemma4.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if "demo_model" not in path.parts)


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    if len(parts) > 1:
        return parts[0]
    return DOORS.get(path.stem, "face" if path.stem in FACE else "ground")


def imports(path: Path) -> Iterator[tuple[tuple[str, ...], str, int]]:
    """(module in this package, name, line) of everything that a file imports from it, wherever the import stands."""
    here = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            yield from ((base + tuple((node.module or "").split(".")), name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            # A demonstration of its use is in docstrings; the package itself is relative.
            assert not any((name or "").split(".")[0] == "gemma4" for name in names) or room_of(path) in (
                "evaluate",
                "command",
            ), f"{path}:{node.lineno}: an absolute import"


def handed_on(room: str) -> set[str]:
    stub = ROOT / room / "__init__.pyi"
    tree = ast.parse(stub.read_text(encoding="utf-8")) if stub.exists() else ast.Module([], [])
    return {name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_upwards(path: Path) -> None:
    room, order = room_of(path), list(ROOMS)
    if path in (ROOT / "__init__.py", ROOT / "__main__.py"):  # what is entered by
        return
    for module, name, line in imports(path):
        where = f"{path.relative_to(ROOT)}:{line}"
        if name == "_core" or module[0] == "_core":
            continue
        first = module[0] or name  # `from . import x` of a file beside the rooms
        target = first if first in ROOMS else "face" if first in FACE else "ground"
        assert order.index(target) <= order.index(room), f"{where}: {room} must not know {target}"
        if target != room and target in ROOMS and target not in ("ground", "face"):
            seen = not module[0] or name in handed_on(target)
            assert seen, f"{where}: {target} does not hand on {name}"


def test_no_circles() -> None:
    inside = {path.relative_to(ROOT).with_suffix("").parts: path for path in FILES}
    arrows = {
        here: {
            found
            for module, name, _ in imports(path)
            for found in (tuple(filter(None, module)), (*filter(None, module), name))
            if found in inside and found != here
        }
        for here, path in inside.items()
    }
    while arrows:
        leaves = [here for here, targets in arrows.items() if not targets & arrows.keys()]
        assert leaves, f"a circle among {sorted('/'.join(here) for here in arrows)}"
        for leaf in leaves:
            del arrows[leaf]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert length <= MOST_OF_A_FUNCTION, f"{node.name}: {length} lines"
        if isinstance(node, ast.Call):
            assert len(node.args) <= MOST_POSITIONAL, f"line {node.lineno}: {len(node.args)} positional arguments"


def test_every_room_is_there() -> None:
    assert {room_of(path) for path in FILES} == ROOMS.keys()


def test_no_file_is_long() -> None:
    """Of the package (above) and of all that is beside it."""
    repository = Path(__file__).parents[2]
    folders = [repository / name for name in ("cpp", "tests", "benchmarks", "tools")]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".cpp", ".h")]
    assert [str(path) for path in files if path.read_text(encoding="utf-8").count("\n") > MOST_LINES] == []
