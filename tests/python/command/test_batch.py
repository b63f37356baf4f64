"""``gemma4 batch`` as a process of its own: what it prints, how it ends, and how it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gemma4.command.cli import app
from labelled import draw_all
from typer.testing import CliRunner

LABELS = ("--labels", "red circle", "--labels", "blue square", "--max-soft-tokens", "70")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gemma4.command.cli", "batch", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GEMMA4_")}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )  # fmt: skip


def finish(*arguments: str) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_rows(journal: Path, count: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 200
    while not journal.exists() or journal.read_bytes().count(b"\n") <= count:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["batch", *map(str, arguments)])


def test_killed_stopped_and_gone_on_with(here: Path) -> None:
    """`kill -9`, then Ctrl-C, then to the end: the output of an undisturbed run, byte for byte."""
    draw_all(here / "in", 12)
    whole = run("in", "whole.jsonl", *LABELS, "--quiet")
    assert (whole.exit_code, whole.stdout, whole.stderr) == (0, "", "")
    journal = here / "out.jsonl.part.jsonl"
    process = start("in", "out.jsonl", *LABELS)
    wait_for_rows(journal, 2, process)
    process.send_signal(signal.SIGKILL)
    assert process.communicate()[0] == "" and process.returncode == -signal.SIGKILL
    there = journal.read_bytes().count(b"\n") - 1
    process = start("in", "out.jsonl", *LABELS)
    wait_for_rows(journal, there + 2, process)
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "") and time.monotonic() - asked < 5
    assert f"{there} of 12 are done already" in err and "Traceback" not in err
    assert err.endswith("gemma4: stopped; the same command goes on from here\n")
    code, out, err = finish("in", "out.jsonl", *LABELS)
    assert (code, out) == (0, "") and "gemma4: 12 rows in out.jsonl, 0 of them errors" in err
    assert "12/12" in err and "pictures/s" in err
    assert (here / "out.jsonl").read_bytes() == (here / "whole.jsonl").read_bytes()
    assert sorted(os.listdir()) == ["in", "out.jsonl", "whole.jsonl"]


def test_errors_are_in_the_exit_code(here: Path) -> None:
    draw_all(here / "in", 2)
    (here / "in" / "broken.png").write_bytes(b"broken")
    done = run("in", "out.jsonl", "-l", "red circle", "-q")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "", "")
    assert [json.loads(line)["status"] for line in Path("out.jsonl").read_text().splitlines()] == ["ok", "ok", "error"]
    done = run("in", "out.jsonl", "-l", "red circle")
    assert done.exit_code == 1 and done.stderr.startswith("gemma4: error: ") and "--restart" in done.stderr
    assert run("in/0000.png", "in/0001.png", "out.jsonl", "--task", "caption", "--restart").exit_code == 0
    assert len(Path("out.jsonl").read_text().splitlines()) == 2


def test_options_reach_the_task(here: Path) -> None:
    Path("in.jsonl").write_text('{"prompt": "Hello"}\n')
    done = run("in.jsonl", "out.jsonl", "--task", "generate", "--max-new-tokens", 2, "--temperature", 0, "--stop", "zz")
    assert done.exit_code == 0, done.stderr
    assert json.loads(Path("out.jsonl").read_text())["finish_reason"] == "length"


def test_an_environment_is_for_the_tasks_that_it_fits(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMA4_MAX_SOFT_TOKENS", "140")
    monkeypatch.setenv("GEMMA4_MAX_NEW_TOKENS", "3")
    speech = Path(__file__).parents[1] / "data" / "speech" / "00.flac"
    assert run(speech, "said.jsonl", "--task", "transcribe").exit_code == 0
    draw_all(here / "in", 1)
    assert run("in", "out.jsonl", "--task", "caption").exit_code == 0
    (warning,) = json.loads(Path("out.jsonl").read_text())["warnings"]
    assert "after 3 tokens" in warning


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["in"], "at least one input"),
        (["in", "out.jsonl", "--task", "segment"], "--task"),
        (["in", "out.jsonl", "--language", "en"], "--language"),
        (["in", "out.jsonl", "--task", "caption", "--labels", "star"], "--labels"),
        (["in", "out.jsonl", "--task", "transcribe", "--max-soft-tokens", "70"], "--max-soft-tokens"),
        (["in", "out.jsonl", "--temperature", "0"], "--temperature"),
    ],
)
def test_a_wrong_command_line(here: Path, arguments: list[str], problem: str) -> None:
    draw_all(here / "in", 1)
    done = run(*arguments)
    assert done.exit_code == 2 and problem in done.stderr and os.listdir() == ["in"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["gone", "out.jsonl"], "gone is missing"),
        (["in", "out.csv"], "out.csv: expected a name"),
        (["in", "out.jsonl", "--fps", "0"], "fps: expected"),
        (["in", "out.jsonl", "--column", "x", "--max-soft-tokens", "71"], "max_soft_tokens: expected"),
    ],
)
def test_an_error_is_one_line(here: Path, arguments: list[str], problem: str) -> None:
    draw_all(here / "in", 1)
    done = run(*arguments)
    assert done.exit_code == 1 and problem in done.stderr and done.stderr.count("\n") == 1 and os.listdir() == ["in"]
