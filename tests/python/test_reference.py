"""docs/reference.md names what there is, and nothing else."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import gemma4
import pytest
import typer
from gemma4.command.cli import app
from gemma4.evaluate import plugin

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/reference.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_column(title: str) -> set[str]:
    rows = re.findall(r"^\| (.+?) \|", section(title), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_extras() -> None:
    assert first_column("Extras") == {*(metadata.metadata("gemma4").get_all("Provides-Extra") or ())}


def test_commands() -> None:
    commands = typer.main.get_command(app)
    assert first_column("Commands") == {*commands.commands}  # type: ignore[attr-defined]
    given = {p.envvar for c in commands.commands.values() for p in c.params} - {None}  # type: ignore[attr-defined]
    environment = section("Environment").rpartition("|")[2]
    assert {*re.findall(r"`(GEMMA4_\w+)`", environment)} == given


def test_errors() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", section("Errors"), re.MULTILINE)
    errors = {name for name in gemma4.__all__ if re.search("Error$|^Cancelled$|Changed$", name)} - {"Gemma4Error"}
    assert {name for name, _ in rows} == errors
    for name, builtin in rows:
        error = getattr(gemma4, name)
        assert issubclass(error, gemma4.Gemma4Error)
        assert builtin in {base.__name__ for base in error.__mro__}


class Parser:
    """Takes options as pytest's does."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def getgroup(self, *_: object) -> Parser:
        return self

    def addoption(self, name: str, *_: object, **__: object) -> None:
        self.names.add(name)

    addini = addoption


def test_the_plugin() -> None:
    parser = Parser()
    plugin.pytest_addoption(parser)  # type: ignore[arg-type]
    options = {name for name in parser.names if name.startswith("-")}
    assert {*re.findall(r"--gemma4-[a-z-]+", section("pytest"))} == options
    assert {"detection_eval", *parser.names} - options <= first_column("pytest")


def test_pipelines() -> None:
    with pytest.raises(gemma4.RequestError) as caught:
        gemma4.pipeline("summarization")  # type: ignore[call-overload]
    named = set(str(caught.value).split("expected one of ")[1].split(", found")[0].split(", "))
    assert {*re.findall(r"`([a-z]+(?:-[a-z]+)+)`", section("In place of transformers"))} == named
