"""What is found behind the names of inputs, and how rows of files that other packages wrote are read."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet as pq
import pytest
from filming import film, second_of
from gemma4.errors import MediaError, RequestError
from gemma4.media import load_image
from gemma4.pipelines.inputs import read_inputs
from gemma4.pipelines.items import Item, Wanted
from gemma4.pipelines.rows import Lines, Table
from labelled import draw, draw_all

PICTURES = Wanted(("image",))
ANY = Wanted(("image", "audio", "video"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def items(*inputs: str | Path, wanted: Wanted = PICTURES) -> list[Item]:
    found = read_inputs([os.fspath(one) for one in inputs], wanted)
    there = list(found.items())
    assert found.count() == len(there)
    return there


def names(*inputs: str | Path, wanted: Wanted = PICTURES) -> list[Any]:
    return [item.id for item in items(*inputs, wanted=wanted)]


# --- files, folders, patterns


def test_a_folder(here: Path) -> None:
    """Everything in it at any depth, in the order of the names, whatever they are; each once, also with loops."""
    draw_all(here / "in" / "b", 2)
    draw(1).save(here / "in" / "b" / "scan.jp2")
    for name in ("Z.PNG", "a.jpg", "ünï 漢字.png", "a[1].png", ".hidden.png", "notes.txt"):
        draw(1).save(here / "in" / name, "PNG")
    (here / "in" / ".cache").mkdir()
    draw(1).save(here / "in" / ".cache" / "x.png")
    (here / "in" / "b" / "loop").symlink_to("..")
    (here / "in" / "again").symlink_to("b")
    (here / "in" / "dangling").symlink_to("nowhere")
    expected = [
        "in/Z.PNG", "in/a.jpg", "in/a[1].png", "in/ünï 漢字.png", "in/again/0000.png", "in/again/0001.png",
        "in/again/scan.jp2",
    ]  # fmt: skip
    assert names("in") == expected == names("in")
    assert names(here / "in") == [str(here / name) for name in expected]
    (note,) = read_inputs(["in"], PICTURES).notes
    assert note == "left out of in, as of another kind: 2 (in/dangling, in/notes.txt)"


def test_names_of_any_bytes(here: Path) -> None:
    path = os.fsencode(here) + b"/caf\xe9.png"
    buffer = io.BytesIO()
    draw(1).save(buffer, "PNG")
    with open(path, "wb") as file:
        file.write(buffer.getvalue())
    (item,) = items(here)
    assert str(item.id).endswith(r"caf\udce9.png") and str(item.id).encode()
    assert load_image(item.given["image"]).shape[2] == 3


def test_patterns_and_several_inputs(here: Path) -> None:
    draw_all(here / "in" / "deep" / "er", 2)
    draw(3).save(here / "a[1].png")
    assert names("in/**/*.png") == ["in/deep/er/0000.png", "in/deep/er/0001.png"]
    assert names("a[1].png", "in") == ["a[1].png", "in/deep/er/0000.png", "in/deep/er/0001.png"]
    found = read_inputs(["in/deep/er/0001.png", "in", "./in"], PICTURES)
    assert [item.id for item in found.items()] == ["in/deep/er/0001.png", "in/deep/er/0000.png"]
    assert found.notes == ["named more than once, and taken once: 3 files"]


@pytest.mark.parametrize("name", ["gone.png", "empty", "*.nothing", "texts"])
def test_an_input_that_holds_nothing(here: Path, name: str) -> None:
    (here / "empty").mkdir()
    (here / "texts").mkdir()
    (here / "texts" / "a.txt").write_text("hi")
    with pytest.raises(MediaError, match=name.strip("*.")):
        read_inputs([name], PICTURES)


def test_a_folder_of_sounds(here: Path) -> None:
    for name in ("a.wav", "b.png", "c.flac", "d.mp4"):
        (here / name).write_bytes(b"")
    assert names(".", wanted=Wanted(("audio",))) == ["a.wav", "c.flac"]
    found = items(".", wanted=ANY)
    assert [next(iter(item.given)) for item in found] == ["audio", "image", "audio", "video"]


# --- videos


def test_frames_of_a_video_longer_than_a_model_sees_at_once(here: Path) -> None:
    (here / "clip.mp4").write_bytes(film([step / 10 for step in range(900)]))
    found = items("clip.mp4")
    assert len(found) == 90 and [found[k].id for k in (0, 61)] == ["clip.mp4#t=0.000", "clip.mp4#t=61.000"]
    assert [second_of(item.given["image"]) for item in found[:9]] == [0, 1, 2, 3, 4, 5, 6, 0, 1]
    assert {item.path for item in found} == {"clip.mp4"} and found[61].seconds == 61.0
    slow = items(".", wanted=Wanted(("image",), fps=0.1))
    assert [item.seconds for item in slow] == [0, 10, 20, 30, 40, 50, 60, 70, 80]


def test_a_video_that_breaks_off(here: Path) -> None:
    """Its frames up to there, what is wrong, and the next input."""
    damaged = bytearray(film([step / 10 for step in range(200)]))
    place = int(0.3 * len(damaged))
    damaged[place : place + 400] = bytes(400)
    (here / "a.mp4").write_bytes(damaged)
    (here / "b.mp4").write_bytes(b"no video")
    draw(1).save("c.png")
    *frames, broken, nothing, last = read_inputs(["."], PICTURES).items()
    assert [item.seconds for item in frames] == list(range(len(frames))) and 3 < len(frames) < 20
    assert (broken.id, broken.path) == ("a.mp4", "a.mp4") and "a.mp4: damaged" in str(broken.error)
    assert isinstance(nothing.error, MediaError) and nothing.id == "b.mp4"
    assert last.error is None and last.id == "c.png"


# --- JSONL


def lines(here: Path, *rows: Any) -> Path:
    path = here / "data" / "in.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_lines(here: Path) -> None:
    draw_all(here / "data", 2)
    url = "data:image/png;base64," + base64.b64encode((here / "data" / "0001.png").read_bytes()).decode()
    path = lines(
        here, {"image": "0000.png", "labels": ["red circle"], "id": "first"}, "", {"file_name": "0001.png", "id": 7},
        {"image": url, "labels": "star", "note": None}, {"image": str(here / "data" / "0001.png"), "prompt": "Where?"},
    )  # fmt: skip
    found = items("data/in.jsonl")
    assert [item.id for item in found] == ["first", 7, "data/in.jsonl:4", "data/in.jsonl:5"]
    assert [item.path for item in found] == ["data/0000.png", "data/0001.png", None, str(here / "data" / "0001.png")]
    assert [load_image(item.given["image"]).shape for item in found] == [
        np.asarray(draw(number)).shape for number in (0, 1, 1, 1)
    ]
    assert [item.given.get("labels") for item in found] == [["red circle"], None, "star", None]
    assert found[3].given["prompt"] == "Where?"
    assert path.exists()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"), ("[1]", "an array"), ('{"id": 1, "id": 2}', "twice"), ('{"image": 3}', "image: expected"),
        ('{"image": "a.png", "labels": [1]}', "labels: expected"), ('{"image": "a.png", "prompt": 1}', "prompt: exp"),
        ('{"video": "a.mp4"}', "takes image"), ('{"image": []}', "image: expected"), ("[" * 100_000, "64 levels"),
        ('{"image": "\\ud800", "labels": {}}', "labels"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_an_item_with_an_error(here: Path, line: str, problem: str) -> None:
    lines(here, {"image": "a.png"}, line, {"image": "b.png"})
    first, wrong, last = items("data/in.jsonl")
    assert (first.path, last.path) == ("data/a.png", "data/b.png")
    assert wrong.id == "data/in.jsonl:2" and isinstance(wrong.error, RequestError)
    assert problem in str(wrong.error) and "in.jsonl:2" in str(wrong.error)


def test_an_endless_line_is_read_to_a_bound(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemma4.pipelines.rows._MOST_LINE", 1000)
    lines(here, {"image": "x" * 10_000}, {"image": "b.png"})
    wrong, last = items("data/in.jsonl")
    assert "a line of more than" in str(wrong.error) and last.path == "data/b.png"


def test_no_lines(here: Path) -> None:
    lines(here)
    assert items("data/in.jsonl") == []


# --- parquet


def test_what_datasets_writes(here: Path) -> None:
    """Pictures in the file, and a column of labels that are class numbers, which are not ours."""
    paths = [str(path) for path in draw_all(here / "in", 40)]
    features = datasets.Features({"image": datasets.Image(), "labels": datasets.Value("int64")})
    made = datasets.Dataset.from_dict({"image": paths, "labels": list(range(40))}, features=features)
    made.to_parquet("shots.parquet")
    found = items("shots.parquet")
    assert [item.id for item in found] == [f"shots.parquet:{row}" for row in range(40)]
    assert all((load_image(item.given["image"]) == np.asarray(draw(n))).all() for n, item in enumerate(found))
    assert [Path(item.path or "").name for item in found][:2] == ["0000.png", "0001.png"]
    assert "labels" not in found[0].given


def test_sounds_that_datasets_writes(here: Path) -> None:
    speech = Path(__file__).parents[1] / "data" / "speech" / "00.flac"
    table = {"audio": [{"bytes": speech.read_bytes(), "path": "00.flac"}], "id": ["a"]}
    pyarrow.parquet.write_table(pyarrow.table(table), "a.parquet")
    (found,) = items("a.parquet", wanted=Wanted(("audio",)))
    assert (found.id, found.path, found.given["audio"][:4]) == ("a", "00.flac", b"fLaC")


def test_what_pandas_writes(here: Path) -> None:
    first, second = draw_all(here / "in", 2)
    frame = pandas.DataFrame(
        {
            "id": [10, 11],
            "path": ["in/0000.png", None],
            "labels": [["red circle"], ["star", "blue square"]],
            "split": pandas.Categorical(["a", "b"]),
        }
    )
    frame.to_parquet("paths.parquet")
    one, two = items("paths.parquet")
    assert (one.id, one.path, one.given["labels"]) == (10, "in/0000.png", ["red circle"])
    assert (two.id, two.path, two.given) == (11, None, {"labels": ["star", "blue square"]})
    pandas.DataFrame({"picture": [first.read_bytes(), second.read_bytes()]}).to_parquet("bytes.parquet")
    found = items("bytes.parquet", wanted=Wanted(("image",), column="picture"))
    assert [load_image(item.given["image"]).shape for item in found] == [np.asarray(draw(n)).shape for n in (0, 1)]
    pandas.DataFrame({"prompt": ["Hello", "Bye"]}).to_parquet("words.parquet")
    assert [item.given["prompt"] for item in items("words.parquet", wanted=ANY)] == ["Hello", "Bye"]
    pandas.DataFrame({"image": pandas.Series([], dtype=str)}).to_parquet("none.parquet")
    assert items("none.parquet") == []


def test_a_table_that_cannot_be_read(here: Path) -> None:
    (here / "a.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(RequestError, match=r"a\.parquet: not a parquet file"):
        read_inputs(["a.parquet"], PICTURES).count()
    pandas.DataFrame({"what": [1]}).to_parquet("b.parquet")
    with pytest.raises(RequestError, match=r"b\.parquet: no column 'image' \(columns: what\).*--column"):
        read_inputs(["b.parquet"], PICTURES).count()


def test_a_table_that_breaks_off(here: Path) -> None:
    """Rows up to there, one that says so, and the next input."""
    rows = [{"bytes": np.random.default_rng(row).bytes(3000), "path": f"{row}.png"} for row in range(200)]
    pyarrow.parquet.write_table(
        pyarrow.table({"image": rows}), "a.parquet", data_page_size=9000, write_page_checksum=True
    )
    data = bytearray((here / "a.parquet").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    (here / "a.parquet").write_bytes(data)
    draw(1).save("b.png")
    found = list(read_inputs(["a.parquet", "b.png"], PICTURES).items())
    good = [item for item in found if item.error is None]
    assert good[-1].id == "b.png" and len(found) < 201
    assert [type(item.error) for item in found if item.error] == [RequestError]
    assert [item.given["image"] for item in good[:-1]] == [row["bytes"] for row in rows[: len(good) - 1]]


def test_a_column_that_a_row_does_not_have(tmp_path: Path) -> None:
    """Its question would be asked without the picture."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"picture": "a.png", "prompt": "?"}\n{"pictur": null, "prompt": "?"}\n')
    first, second = Lines(str(path), Wanted(("image",), None, "pictur")).items()
    assert str(first.error) == f"{path}:1: pictur: there is no such field"
    assert second.error is None and "image" not in second.given
    pq.write_table(pyarrow.table({"picture": ["a.png"], "prompt": ["?"]}), tmp_path / "a.parquet")
    with pytest.raises(RequestError, match=r"no column 'pictur' \(columns: picture, prompt\)"):
        Table(str(tmp_path / "a.parquet"), Wanted(("image",), None, "pictur")).count()
    pq.write_table(pyarrow.table({"photo": [{"bytes": b"", "path": "a.png"}]}), tmp_path / "b.parquet")
    assert Table(str(tmp_path / "b.parquet"), PICTURES).count() == 1  # the only one that may be meant
    with pytest.raises(RequestError, match=r"no column 'pictur' \(columns: photo\)"):
        Table(str(tmp_path / "b.parquet"), Wanted(("image",), None, "pictur")).count()


def test_a_name_with_a_tilde_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"image": "~$photo.png"}\n')
    (item,) = Lines(str(tmp_path / "a.jsonl"), Wanted(("image",), None, None)).items()
    assert item.path == str(tmp_path / "~$photo.png")
