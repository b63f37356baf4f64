"""The options of the command line are arguments of the library: the tables are held to its signatures."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args

import gemma4
import pytest
from gemma4.answer import GenerationArguments
from gemma4.command import options
from gemma4.command.cli import app
from typer.testing import CliRunner

MODEL = gemma4.Model
# What a command has in another form, or cannot have.
OTHERWISE = {
    "self",
    "image",
    "audio",
    "labels",
    "label",
    "prompt",
    "on_error",
    "adapter",
    "sampling_rate",
    "keep_image",
}


@pytest.mark.parametrize(
    ("group", "function"),
    [
        (options.DETECTION, MODEL.detect),
        (options.PLACES, MODEL.point),
        (options.PICTURE, MODEL.caption),
        (options.PICTURE, MODEL.read),
        (options.SPEECH, MODEL.transcribe),
    ],
)
def test_every_argument_of_a_task_is_an_option(group: options.Group, function: Callable[..., Any]) -> None:
    assert set(inspect.signature(function).parameters) - OTHERWISE == set(group)


def test_every_argument_of_a_model_is_an_option() -> None:
    assert list(inspect.signature(MODEL.from_pretrained).parameters) == list(options.LOADING)


def test_what_has_a_line_of_help_is_an_option_of_run() -> None:
    assert set(options.GENERATION) <= set(GenerationArguments.__annotations__)
    assert {"temperature", "stop", "thinking", "max_soft_tokens", "max_new_tokens"} <= set(options.GENERATION)


@pytest.mark.parametrize(
    "command", "detect point caption read transcribe run batch convert bench info".split()  # noqa: SIM905
)  # fmt: skip
def test_help_names_the_options(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "300"}, terminal_width=300)
    assert done.exit_code == 0
    if command != "convert":
        for kind in options.LOADING.values():
            for name in get_args(kind)[1].param_decls or ():
                assert name in done.stdout
        for name in ("--adapter", "--drafter", "--kv-cache", "--revision", "--dtype", "--cache-bytes", "--max-context"):
            assert name in done.stdout, name
