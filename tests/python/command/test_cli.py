"""The command line, with a model that only pretends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import ClassVar

import gemma4
import numpy as np
import pytest
from gemma4.command import cli
from gemma4.command.run import _converse
from gemma4.detections import Detections
from gemma4.errors import RequestError
from PIL import Image
from typer.testing import CliRunner

ANSWER = '[{"box_2d": [100, 200, 500, 600], "label": "c\\u001bat"}, {"box_2d": [0, 0, 1000, 1000], "label": "dog"}]'


class FakeTensors(dict):
    """What `model.tensors` says of itself."""

    parameters = 17
    formats: ClassVar = ["F32", "F16"]


class FakeModel:
    """Records its calls; finds a cat and a dog, or says what it was told."""

    calls: ClassVar[list] = []
    failure: BaseException | None = None
    answer = ANSWER
    modalities: ClassVar = {"text", "image"}
    context_length = 4096
    tensors = FakeTensors(a=np.zeros((3, 4), np.float32), b=np.zeros(5, np.float16))

    @classmethod
    def from_pretrained(cls, source="demo", num_threads=None, **others):
        cls.calls.append(("load", source, num_threads))
        cls.loading = others
        if source == "missing":
            raise RequestError("no model\nnamed 'missing'")
        return cls()

    def detect(self, image, labels=None, prompt=None, max_soft_tokens=None, on_error="raise"):
        if isinstance(image, list):
            return [self.one(path, labels, max_soft_tokens) for path in image]
        return self.one(image, labels, max_soft_tokens)

    def one(self, image, labels, max_soft_tokens):
        self.calls.append(("detect", labels, max_soft_tokens))
        if self.failure:
            raise self.failure
        with Image.open(image) as opened:
            return Detections.from_answer(self.answer, opened.size, [0.5, 1.0][: self.answer.count("box_2d")])

    def stream(self, messages, **options):
        self.calls.append(("stream", messages, options))
        yield SimpleNamespace(text="Hello")
        if self.failure:
            raise self.failure
        yield SimpleNamespace(text=" you")


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(FakeModel, "calls", [])
    monkeypatch.setitem(vars(gemma4), "Model", FakeModel)
    monkeypatch.setitem(
        vars(gemma4),
        "cpu_info",
        lambda: {"isa": "avx2", "supported": ["scalar", "avx2"], "features": {"fma"}, "threads": 2},
    )
    for name in list(os.environ):
        if name.startswith("GEMMA4_"):
            monkeypatch.delenv(name)
    return FakeModel


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "in.png"
    Image.new("RGB", (200, 100), "navy").save(path)
    return path


def run(*arguments, **options):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], **options)


# --- detect


def test_detect_prints_a_table(model, picture):
    result = run("detect", picture, "cat", "dog")
    assert result.exit_code == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["label", "score", "x1", "y1", "x2", "y2"]
    assert lines[1].split()[1:] == ["0.50", "40.0", "10.0", "120.0", "50.0"] and "\x1b" not in result.stdout
    assert model.calls == [("load", "demo", None), ("detect", ["cat", "dog"], None)]


def test_detect_prints_json(model, picture):
    result = run("detect", picture, "--json", "--threads", 2, "--max-soft-tokens", 70, "-m", "other")
    cat, dog = json.loads(result.stdout)
    assert cat == {"label": "c\x1bat", "box_2d": [100, 200, 500, 600], "xyxy": [40, 10, 120, 50], "score": 0.5}
    assert dog["label"] == "dog"
    assert model.calls == [("load", "other", 2), ("detect", None, 70)]


def test_detect_finds_nothing(model, picture, monkeypatch):
    monkeypatch.setattr(FakeModel, "answer", "[]")
    assert run("detect", picture, "cat").stdout == "nothing found\n"
    assert run("detect", picture, "cat", "--json").stdout == "[]\n"


def test_options_come_from_the_environment(model, picture):
    env = {"GEMMA4_MODEL": "mine", "GEMMA4_MAX_SOFT_TOKENS": "140"}
    assert run("detect", picture, "cat", env=env).exit_code == 0
    assert model.calls == [("load", "mine", None), ("detect", ["cat"], 140)]


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "new.webp"])
def test_draw(model, picture, tmp_path, name):
    (tmp_path / "out.png").write_bytes(b"old")
    assert run("detect", picture, "cat", "--draw", tmp_path / name).exit_code == 0
    with Image.open(tmp_path / name) as drawn:
        assert drawn.size == (200, 100)
    assert not list(tmp_path.glob(".*"))


def test_draw_never_overwrites_its_input(model, picture, tmp_path):
    before = picture.read_bytes()
    (tmp_path / "soft.png").symlink_to(picture)
    os.link(picture, tmp_path / "hard.png")
    for path in (picture, tmp_path / "soft.png", tmp_path / "hard.png", tmp_path / "." / "in.png"):
        result = run("detect", picture, "cat", "--draw", path)
        assert result.exit_code == 2 and "input picture" in result.stderr
    assert picture.read_bytes() == before and not model.calls


@pytest.mark.parametrize("name", ["out.txt", "out", "gone/out.png", "."])
def test_a_wrong_draw_path_is_told_before_loading(model, picture, tmp_path, name):
    result = run("detect", picture, "cat", "--draw", tmp_path / name)
    assert result.exit_code == 2 and "--draw" in result.stderr and not model.calls


def test_a_failed_save_leaves_the_old_file(model, picture, tmp_path, monkeypatch):
    (tmp_path / "out.png").write_bytes(b"old")

    def fail(self, file, format):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    result = run("detect", picture, "cat", "--draw", tmp_path / "out.png")
    assert (result.exit_code, result.stdout) == (1, "") and result.stderr == "gemma4: error: disk full\n"
    assert (tmp_path / "out.png").read_bytes() == b"old" and sorted(os.listdir(tmp_path)) == ["in.png", "out.png"]


def test_errors_are_one_line(model, picture, tmp_path):
    result = run("detect", picture, "cat", "--model", "missing")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "gemma4: error: no model named 'missing'\n"
    result = run("detect", tmp_path / "gone.png", "cat")
    assert result.exit_code == 1 and re.fullmatch(r"gemma4: error: .*gone\.png is missing\n", result.stderr)


def test_ctrl_c_and_bugs(model, picture, monkeypatch):
    monkeypatch.setattr(FakeModel, "failure", KeyboardInterrupt())
    assert run("detect", picture, "cat").exit_code == 130
    monkeypatch.setattr(FakeModel, "failure", ZeroDivisionError("bug"))
    assert isinstance(run("detect", picture, "cat").exception, ZeroDivisionError)


@pytest.mark.parametrize(
    "arguments", [["detect"], ["detect", "a.png", "--threads", "0"], ["nothing"], ["run", "--top-k", "x"], []]
)
def test_usage_errors(model, arguments):
    result = run(*arguments, input="")
    assert result.exit_code == 2 and not model.calls


# --- run


def test_run_streams_one_answer(model, picture):
    result = run("run", "What is this?", "--image", picture, "--system", "Be brief.", "--temperature", 0, "--seed", 7)
    assert (result.exit_code, result.stdout) == (0, "Hello you\n")
    _, messages, options = model.calls[1]
    assert messages == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "image", "image": str(picture)}, {"type": "text", "text": "What is this?"}],
        },
    ]
    assert options == {"temperature": 0, "seed": 7}


def test_run_takes_the_library_s_options(model):
    given = ["--stop", "a b", "--stop", "c", "--thinking", "--no-repetition-guard", "--min-p", "0.5"]
    assert run("run", "Hi", *given, "--suppress-tokens", 3, env={"GEMMA4_MAX_NEW_TOKENS": "9"}).exit_code == 0
    assert model.calls[1][2] == {
        "stop": ["a b", "c"], "thinking": True, "repetition_guard": False, "min_p": 0.5, "suppress_tokens": [3],
        "max_new_tokens": 9,
    }  # fmt: skip


def test_a_wrong_option_is_told_before_loading(model):
    result = run("run", "Hi", "--top-p", 2)
    assert (result.exit_code, result.stderr) == (1, "gemma4: error: top_p: expected above 0 to 1, found 2.0\n")
    assert not model.calls


def test_run_reads_a_prompt_from_a_pipe(model):
    assert run("run", input="Hi there\n").stdout == "Hello you\n"
    assert model.calls[1][1][0]["content"][0]["text"] == "Hi there"
    assert run("run", input="").exit_code == 2


def test_run_keeps_what_was_said_before_an_error(model, monkeypatch):
    monkeypatch.setattr(FakeModel, "failure", RequestError("too hot"))
    result = run("run", "Hi")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "Hello\n", "gemma4: error: too hot\n")
    monkeypatch.setattr(FakeModel, "failure", KeyboardInterrupt())
    assert run("run", "Hi").exit_code == 130


def test_conversation(model, picture, monkeypatch, capsys):
    lines = iter(["Hi", "", f"/image {picture}", "/image gone.png", "And now?", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(lines))
    _converse(FakeModel(), [{"role": "system", "content": "s"}], [], {})
    assert capsys.readouterr().out == "Hello you\nHello you\n"
    (_, first, _), (_, second, _) = model.calls
    assert [m["role"] for m in first] == ["system", "user"]
    assert [m["role"] for m in second] == ["system", "user", "assistant", "user"]
    assert second[2]["content"] == "Hello you"
    assert second[3]["content"][0] == {"type": "image", "image": str(picture)}


def test_video(model, picture, monkeypatch, capsys):
    """The path is given on; a picture comes first, as in the library."""
    result = run("run", "What happens?", "--video", picture, "--image", picture)
    assert result.exit_code == 0
    parts = model.calls[-1][1][0]["content"]
    assert parts[:2] == [{"type": "image", "image": str(picture)}, {"type": "video", "video": str(picture)}]
    assert run("run", "Hi", "--video", "gone.mp4").stderr == "gemma4: error: gone.mp4 is missing\n"
    lines = iter([f"/video {picture}", "/video gone.mp4", "And now?", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(lines))
    _converse(FakeModel(), [], [], {})
    assert model.calls[-1][1][0]["content"][0] == {"type": "video", "video": str(picture)}
    assert "no such video: gone.mp4" in capsys.readouterr().err


# --- info


def test_info(model):
    result = run("info")
    assert result.exit_code == 0
    for expected in ("avx2", "context length  4,096", "parameters      17", "image text", "0.0 MB"):
        assert expected in result.stdout
    facts = json.loads(run("info", "--json").stdout)
    assert facts["cpu"]["isa"] == "avx2" and facts["cpu"]["features"] == ["fma"]
    assert facts["model"]["parameters"] == 17 and facts["model"]["size_bytes"] == 58
    assert facts["model"]["formats"] == ["F32", "F16"]


def test_info_tells_about_the_machine_even_without_a_model(model):
    result = run("info", "--json", "--model", "missing")
    assert result.exit_code == 1 and json.loads(result.stdout)["cpu"]["threads"] == 2
    assert "no model named 'missing'" in result.stderr


def test_version():
    assert run("--version").stdout.startswith("gemma4 ")


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "gemma4", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout == f"gemma4 {gemma4.__version__}\n"
