"""Several pictures and sounds on the command line, with the bundled model: which word is what, and how output looks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from gemma4.command.cli import app
from gemma4.command.detect import pictures_and_labels
from gemma4.errors import MediaError
from PIL import Image
from typer.testing import CliRunner

REPOSITORY = Path(__file__).resolve().parents[3]
SPEECH = REPOSITORY / "tests" / "python" / "data" / "speech" / "00.flac"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two pictures."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a.png", "red"), ("b.jpg", "blue")):
        picture = Image.new("RGB", (300, 200), "white")
        picture.paste(colour, (100, 50, 200, 150))
        picture.save(name)
    return tmp_path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# --- pictures and labels


@pytest.mark.parametrize(
    ("words", "labels", "expected"),
    [
        (["a.png"], None, (["a.png"], [])),
        (["a.png", "red circle", "star"], None, (["a.png"], ["red circle", "star"])),
        (["a.png", "b.jpg"], None, (["a.png", "b.jpg"], [])),
        (["a.png", "star", "b.jpg"], None, (["a.png", "b.jpg"], ["star"])),
        (["a.png", "b.jpg"], ["star"], (["a.png", "b.jpg"], ["star"])),
        (["a.png", "and/or", "v1.5", "cat.", "mr. x"], None, (["a.png"], ["and/or", "v1.5", "cat.", "mr. x"])),
        (["a.png", "no suffix"], None, (["a.png", "no suffix"], [])),
        (["a.png", "folder"], None, (["a.png"], ["folder"])),
        (["a.png", "x" * 5000], None, (["a.png"], ["x" * 5000])),
        (["a.png", "nul\0"], None, (["a.png"], ["nul\0"])),
    ],
)
def test_which_word_is_what(here: Path, words: list[str], labels: list[str] | None, expected: Any) -> None:
    (here / "folder").mkdir()
    (here / "a.png").rename(here / "no suffix")
    Image.new("RGB", (8, 8)).save("a.png")
    paths, names = pictures_and_labels(words, labels)
    assert ([str(path) for path in paths], names) == expected


@pytest.mark.parametrize("words", [["a.png", "c.png"], ["a.png", "c.JPEG"], ["a.png", "./c"], ["c"], ["a.png", "/c"]])
def test_a_picture_that_is_not_there_is_no_label(here: Path, words: list[str]) -> None:
    with pytest.raises(MediaError, match=r"c\b.*is missing"):
        pictures_and_labels(words, None)


def test_with_labels_every_word_is_a_picture(here: Path) -> None:
    done = run("detect", "a.png", "star", "--label", "red square")
    assert (done.exit_code, done.stdout) == (1, "") and done.stderr == "gemma4: error: star is missing\n"


def test_a_folder_is_named_as_one(here: Path) -> None:
    assert run("detect", ".").stderr == "gemma4: error: . is a folder, not a file\n"


# --- output


def test_one_picture_gives_what_it_always_gave(here: Path) -> None:
    found = json.loads(run("detect", "a.png", "red square", "--json").stdout)
    assert [one["label"] for one in found] == ["red square"] and set(found[0]) == {"label", "box_2d", "xyxy", "score"}


def test_several_pictures_give_a_line_each(here: Path) -> None:
    (here / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = run("detect", "a.png", "broken.png", "b.jpg", "-l", "red square", "-l", "blue square", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["image"] for line in lines] == ["a.png", "broken.png", "b.jpg"]
    assert [[one["label"] for one in line.get("detections", [])] for line in lines] == [
        ["red square"], [], ["blue square"],
    ]  # fmt: skip
    assert lines[1]["error"]["type"] == "MediaError" and "detections" not in lines[1]
    assert (
        done.exit_code == 3 and done.stderr.startswith("gemma4: error: broken.png: ") and done.stderr.count("\n") == 1
    )


def test_several_pictures_give_a_table_each(here: Path) -> None:
    done = run("detect", "a.png", "b.jpg", "red square", "blue square")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "a.png" and lines[1].split()[0] == "label" and lines[2].startswith("red square")
    assert lines[3] == "" and lines[4] == "b.jpg" and lines[6].startswith("blue square")


def test_drawings_go_into_a_folder(here: Path) -> None:
    before = {name: (here / name).read_bytes() for name in ("a.png", "b.jpg")}
    assert run("detect", "a.png", "b.jpg", "--draw", "drawn", "-l", "red square").exit_code == 0
    assert sorted(os.listdir("drawn")) == ["a.png", "b.jpg"]
    with Image.open("drawn/a.png") as drawn:
        assert drawn.size == (300, 200)
    assert {name: (here / name).read_bytes() for name in before} == before


def test_wrong_drawings_are_told_before_anything_is_done(here: Path) -> None:
    (here / "sub").mkdir()
    Image.new("RGB", (8, 8)).save("sub/a.png")
    for draw, pictures, problem in (
        (".", ["a.png", "b.jpg"], "not overwritten"),
        ("a.png", ["a.png", "b.jpg"], "not a folder"),
        ("drawn", ["a.png", "sub/a.png"], "called a.png"),
        ("no/drawn", ["a.png", "b.jpg"], "does not exist"),
    ):
        done = run("detect", *pictures, "--draw", draw)
        assert done.exit_code == 2 and problem in " ".join(done.stderr.split()), done.stderr
    assert sorted(os.listdir(".")) == ["a.png", "b.jpg", "sub"]


def test_a_prompt_in_the_place_of_labels(here: Path) -> None:
    done = run("detect", "a.png", "--prompt", "What's the bounding box for the red square in the image?", "--json")
    assert [one["label"] for one in json.loads(done.stdout)] == ["red square"]
    held = run("detect", "a.png", "Red Square", "--prompt", "Detect all objects in the image.", "--json")
    assert [one["label"] for one in json.loads(held.stdout)] == ["Red Square"]


def test_the_options_of_a_search_reach_it(here: Path) -> None:
    plain, whole = (
        json.loads(run("detect", "a.png", "red square", "--json", *more).stdout)
        for more in ([], ["--tile", "200x150", "--refine", "--threshold", "0.1", "--open-labels"])
    )
    assert [one["label"] for one in whole] == ["red square"] and whole[0]["xyxy"] != plain[0]["xyxy"]
    done = run("detect", "a.png", "--tile", "big")
    assert done.exit_code == 2 and "--tile" in done.stderr
    assert run("detect", "a.png", "--threshold", 2).stderr.startswith("gemma4: error: threshold: expected")


def test_points(here: Path) -> None:
    (one,) = json.loads(run("point", "a.png", "red square", "--json").stdout)
    x, y = one["xy"]
    assert 100 < x < 200 and 50 < y < 150
    assert run("point", "a.png", "b.jpg", "-l", "red square").stdout.splitlines()[1].split()[:4] == [
        "label", "score", "x", "y",
    ]  # fmt: skip
    assert run("point", "a.png").exit_code == 2


def test_words(here: Path) -> None:
    assert "red" in run("caption", "a.png").stdout
    lines = run("caption", "a.png", "b.jpg").stdout.splitlines()
    assert lines[0].startswith("a.png: ") and lines[1].startswith("b.jpg: ")
    first = json.loads(run("read", "a.png", "--json").stdout)
    assert set(first) == {"image", "text"} and first["image"] == "a.png"


def test_speech(here: Path) -> None:
    text = run("transcribe", SPEECH).stdout.strip()
    done = run("transcribe", SPEECH, "a.png", "--json", "--language", "en")
    good, bad = (json.loads(line) for line in done.stdout.splitlines())
    assert text and good["text"] and good["segments"][0]["start"] == 0.0
    assert bad["error"]["type"] == "MediaError" and done.exit_code == 3
    cut = json.loads(run("transcribe", SPEECH, "--json", "--chunk-seconds", 1).stdout)
    assert len(cut["segments"]) > 1
    assert run("transcribe", "gone.wav").stderr == "gemma4: error: gone.wav is missing\n"


def test_run_takes_a_sound() -> None:
    done = run("run", "What is said?", "--audio", SPEECH, "--max-new-tokens", 8, "--temperature", 0)
    assert done.exit_code == 0 and done.stdout.strip()


def test_the_options_of_a_model_reach_it(here: Path) -> None:
    done = run("detect", "a.png", "red square", "--kv-cache", "fp8")
    assert done.exit_code == 1 and done.stderr.startswith("gemma4: error: kv_cache: expected")
    for wrong in (
        ["--adapter", "nowhere"],
        ["--drafter", "nowhere"],
        ["--dtype", "int3"],
        ["--max-context", "9999999"],
    ):
        done = run("detect", "a.png", "red square", *wrong)
        assert done.exit_code == 1 and done.stderr.count("\n") == 1, done.stderr
    assert run("detect", "a.png", "red square", "--kv-cache", "q8_0", "--cache-bytes", 0).exit_code == 0
