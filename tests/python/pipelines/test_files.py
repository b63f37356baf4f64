"""Whole runs with the bundled model: rows as the library answers, errors in their places, outputs that others read."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import soundfile
from faster_coco_eval import COCO, COCOeval_faster
from filming import film
from gemma4.errors import ModelFileChanged, RequestError
from gemma4.pipelines import Job, run_job
from gemma4.pipelines.outputs import write_yolo
from labelled import draw, draw_all

LABELS = ["red circle", "blue square", "green circle", "orange square"]
SPEECH = Path(__file__).parents[1] / "data" / "speech"
DETECT = Job("detect", LABELS)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path: str | Path = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def texts(*given: dict[str, Any]) -> str:
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    return "in.jsonl"


# --- rows


def test_rows_are_the_library_s_answers(here: Path, gemma4_model: Any) -> None:
    """To the last bit of a score, although many were computed at once."""
    paths = draw_all(here / "in", 40)
    done = run_job(gemma4_model, DETECT, ["in"], "out.jsonl")
    assert (done.rows, done.failed) == (40, 0)
    for row, path in zip(rows(), paths, strict=True):
        found = gemma4_model.detect(path, LABELS)
        assert row == {
            "id": f"in/{path.name}", "path": f"in/{path.name}", "seconds": None, "status": "ok",
            "result": found.to_dicts(), "image_size": list(found.image_size), "error": None, "warnings": [],
        }  # fmt: skip
    assert sum(len(row["result"]) for row in rows()) > 20
    assert sorted(path.name for path in here.iterdir()) == ["in", "out.jsonl"]


def test_every_task(here: Path, gemma4_model: Any) -> None:
    (path,) = draw_all(here / "in", 1)
    sound = next(iter(sorted(SPEECH.glob("*.flac"))))
    expected: dict[str, Any] = {
        "point": [gemma4_model.point(path, "red circle")[k].xy for k in ()],
        "caption": gemma4_model.caption(path),
        "read": gemma4_model.read(path, max_new_tokens=8),
        "transcribe": str(gemma4_model.transcribe(sound)),
        "generate": gemma4_model.generate("How many?", images=str(path), max_new_tokens=9, temperature=0).text,
    }
    jobs = {
        "point": Job("point", ["red circle"]),
        "caption": Job("caption"),
        "read": Job("read", options={"max_new_tokens": 8}),
        "transcribe": Job("transcribe", options={"chunk_seconds": 30}),
        "generate": Job("generate", prompt="How many?", options={"max_new_tokens": 9, "temperature": 0}),
    }
    for task, job in jobs.items():
        run_job(gemma4_model, job, [sound if task == "transcribe" else path], f"{task}.jsonl")
        (row,) = rows(f"{task}.jsonl")
        assert row["status"] == "ok"
        if task == "point":
            found = gemma4_model.point(path, "red circle")
            assert [one["xy"] for one in row["result"]] == [list(one.xy) for one in found]
        else:
            assert row["result"] == expected[task]
        run_job(gemma4_model, job, [sound if task == "transcribe" else path], f"{task}.parquet")
        table = datasets.Dataset.from_parquet(f"{task}.parquet", cache_dir=str(here / "cache"))
        assert table[0]["id"] == row["id"] and table[0]["result"] == row["result"]
    assert rows("transcribe.jsonl")[0]["segments"][0]["start"] == 0.0
    assert rows("generate.jsonl")[0]["finish_reason"] in ("stop", "length")


def test_a_row_s_own_labels_and_prompt(here: Path, gemma4_model: Any) -> None:
    (path,) = draw_all(here / "in", 1, first=7)
    name = f"in/{path.name}"
    question = "What's the bounding box for the blue square in the image?"
    given = texts({"image": name}, {"image": name, "labels": "blue square"}, {"image": name, "prompt": question})
    run_job(gemma4_model, Job("detect", "red circle"), [given], "out.jsonl")
    expected = [gemma4_model.detect(path, "red circle"), *[gemma4_model.detect(path, "blue square")] * 2]
    assert [row["result"] for row in rows()] == [found.to_dicts() for found in expected]
    given = texts({"prompt": "Hello", "id": "a"}, {"messages": [{"role": "user", "content": "Hello"}]}, {"id": "c"})
    run_job(gemma4_model, Job("generate", options={"max_new_tokens": 4}), [given], "said.jsonl")
    first, second, third = rows("said.jsonl")
    assert first["result"] == second["result"] == gemma4_model.generate("Hello", max_new_tokens=4, seed=0).text
    assert (third["id"], third["error"]["type"]) == ("c", "RequestError") and "prompt" in third["error"]["message"]


def test_an_error_is_a_row(here: Path, gemma4_model: Any) -> None:
    draw_all(here / "in", 30)
    (here / "in" / "0003.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (here / "in" / "0004.png").write_bytes(b"")
    (here / "in" / "0029.png").write_bytes((here / "in" / "0028.png").read_bytes()[:90])
    (here / "in" / "0030.png").symlink_to("nowhere.png")
    draw(3).save(here / "in" / "ünï 漢字.png")
    (here / "in" / "loop").symlink_to(".")
    told: list[str] = []
    (here / "in" / "notes.txt").write_text("hi")
    done = run_job(gemma4_model, DETECT, ["in"], "out.jsonl", tell=told.append)
    assert (done.rows, done.failed) == (32, 4) and told == ["left out of in, as of another kind: 1 (in/notes.txt)"]
    assert [row["id"] for row in rows()] == [f"in/{number:04d}.png" for number in range(31)] + ["in/ünï 漢字.png"]
    for index, row in enumerate(rows()):
        wrong = index in (3, 4, 29, 30)
        assert row["status"] == ("error" if wrong else "ok") and (row["result"] is None) is wrong
        assert not wrong or (row["error"]["type"] == "MediaError" and row["id"] in row["error"]["message"])


def test_frames(here: Path, gemma4_model: Any) -> None:
    pictures = [np.asarray(draw(number).resize((320, 240))) for number in range(3)]
    Path("clip.mp4").write_bytes(film([0, 1, 2], frames=pictures, rate=1))
    run_job(gemma4_model, DETECT, ["clip.mp4"], "out.jsonl")
    assert [(row["id"], row["seconds"]) for row in rows()] == [(f"clip.mp4#t={t}.000", float(t)) for t in range(3)]
    assert all(row["image_size"] == [320, 240] for row in rows())
    run_job(
        gemma4_model, Job("generate", prompt="What happens?", options={"max_new_tokens": 4}), ["clip.mp4"], "a.jsonl"
    )
    assert [row["id"] for row in rows("a.jsonl")] == ["clip.mp4"]


def test_what_is_warned_of_is_in_its_row(here: Path, gemma4_model: Any) -> None:
    draw_all(here / "in", 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_job(gemma4_model, Job("caption", options={"max_new_tokens": 2}), ["in"], "out.jsonl")
    assert all(["the answer was cut after 2 tokens" in note for note in row["warnings"]] == [True] for row in rows())


@pytest.mark.parametrize(
    ("job", "problem"),
    [
        (Job("detect", LABELS, options={"max_soft_tokens": 100}), "max_soft_tokens: expected one of"),
        (Job("detect", [" "]), "labels: an empty string"),
        (Job("point"), "label: expected one string"),
        (Job("point", LABELS), "label: expected one string"),
        (Job("generate"), "prompt: there is none"),
        (Job("generate", prompt="x", options={"top_p": 2}), "top_p: expected"),
        (Job("transcribe", options={"language": "xx"}), "language: unknown code"),
    ],
)
def test_a_wrong_question_is_told_once(here: Path, gemma4_model: Any, job: Job, problem: str) -> None:
    draw_all(here / "in", 3)
    soundfile.write("in/a.wav", np.zeros(1600, np.float32), 16_000)
    with pytest.raises(RequestError, match=problem):
        run_job(gemma4_model, job, ["in"], "out.jsonl")
    assert [path.name for path in here.iterdir()] == ["in"]


def test_changed_weights_end_a_run(here: Path, gemma4_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that follow would be errors, too; what was done is kept."""
    draw_all(here / "in", 40)
    run_job(gemma4_model, DETECT, ["in"], "whole.jsonl")
    looked = 0

    def check(*_: Any) -> None:
        nonlocal looked
        looked += 1
        if looked > 30:
            raise ModelFileChanged("model.safetensors changed")

    with monkeypatch.context() as patched:
        patched.setattr(type(gemma4_model._runtime), "check_unchanged", check)
        with pytest.raises(ModelFileChanged):
            run_job(gemma4_model, DETECT, ["in"], "out.jsonl")
    there = len(rows("out.jsonl.part.jsonl")) - 1
    assert 0 < there <= 30 and not Path("out.jsonl").exists()
    told: list[str] = []
    run_job(gemma4_model, DETECT, ["in"], "out.jsonl", tell=told.append)
    assert told == [f"{there} of 40 are done already"]
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


# --- outputs


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, gemma4_model: Any) -> Path:
    """A folder with the same rows in every form; the first picture is broken."""
    folder = tmp_path_factory.mktemp("outputs")
    draw_all(folder / "in" / "one", 10)
    draw_all(folder / "in" / "two", 10, first=5)
    (folder / "in" / "one" / "0000.png").write_bytes(b"broken")
    draw(50).save(folder / "in" / "two" / "0009.jpg")
    for name in ("out.jsonl", "out.parquet", "out.json", "yolo"):
        run_job(gemma4_model, DETECT, [folder / "in"], folder / name)
    return folder


def test_jsonl_and_parquet_say_the_same(outputs: Path) -> None:
    """Read by three others."""
    expected = rows(outputs / "out.jsonl")
    frame = pandas.read_parquet(outputs / "out.parquet")
    assert list(frame.columns) == list(expected[0]) and list(frame.id) == [row["id"] for row in expected]
    assert (
        frame.error[0]["type"] == "MediaError" and frame.result[0] is None and list(frame.status[:2]) == ["error", "ok"]
    )
    assert list(pandas.read_json(outputs / "out.jsonl", lines=True).id) == list(frame.id)
    table = datasets.Dataset.from_parquet(str(outputs / "out.parquet"), cache_dir=str(outputs / "cache"))
    assert [row["result"] for row in table] == [row["result"] for row in expected]
    read = datasets.Dataset.from_json(str(outputs / "out.jsonl"), cache_dir=str(outputs / "cache"))
    assert [row["image_size"] for row in read] == [row["image_size"] for row in expected]


def test_coco(outputs: Path) -> None:
    """As a data set and as results: measured against itself, everything is found."""
    truth = COCO(str(outputs / "out.json"))
    good = [row for row in rows(outputs / "out.jsonl") if row["error"] is None]
    assert [image["file_name"] for image in truth.imgs.values()] == [row["path"] for row in good]
    assert [truth.cats[number]["name"] for number in range(1, 5)] == LABELS
    boxes = [box for row in good for box in row["result"]]
    assert len(truth.anns) == len(boxes) > 10
    for annotation, box in zip(truth.anns.values(), boxes, strict=True):
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == pytest.approx(box["xyxy"]) and annotation["score"] == box["score"]
        assert truth.cats[annotation["category_id"]]["name"] == box["label"]
    written = json.loads((outputs / "out.json").read_text(encoding="utf-8"))
    measured = COCOeval_faster(truth, truth.loadRes(written["annotations"]), "bbox", print_function=lambda *_: None)
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
    assert measured.stats[0] == pytest.approx(1.0)
    (error,) = written["errors"]
    assert error["type"] == "MediaError" and error["image_id"] == 1 and 1 not in truth.imgs


def test_coco_keeps_the_ids_of_rows(here: Path, gemma4_model: Any) -> None:
    draw_all(here / "in", 3)
    given = texts(*({"image": f"in/000{k}.png", "id": 100 - k} for k in range(3)))
    run_job(gemma4_model, DETECT, [given], "out.json")
    images = json.loads(Path("out.json").read_text())["images"]
    assert [image["id"] for image in images] == [100, 99, 98]
    run_job(gemma4_model, DETECT, [given], "out.parquet")
    assert list(pandas.read_parquet("out.parquet").id) == [100, 99, 98]
    given = texts({"image": "in/0000.png", "id": 10**30}, {"image": "in/0001.png", "id": "b\ud800"})
    run_job(gemma4_model, DETECT, [given], "more.parquet")
    assert list(pandas.read_parquet("more.parquet").id) == [str(10**30), "b\\ud800"]


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_yolo(outputs: Path) -> None:
    import supervision

    folder = outputs / "yolo"
    expected = {row["path"]: row for row in rows(outputs / "out.jsonl") if row["error"] is None}
    assert rows(folder / "results.jsonl") == rows(outputs / "out.jsonl")
    for part in ("one", "two"):
        read = supervision.DetectionDataset.from_yolo(
            images_directory_path=str(outputs / "in" / part),
            annotations_directory_path=str(folder / "labels" / part),
            data_yaml_path=str(folder / "data.yaml"),
        )
        assert read.classes == LABELS
        for path, found in read.annotations.items():
            # One picture is broken; of two whose names differ in their endings, the second has its whole name.
            if path not in expected or path.endswith("two/0009.png"):
                continue
            boxes = expected[path]["result"]
            assert [read.classes[number] for number in found.class_id] == [box["label"] for box in boxes]
            assert np.allclose(found.xyxy, np.array([box["xyxy"] for box in boxes]).reshape(-1, 4), atol=1)
    labels = sorted(path.name for path in (folder / "labels" / "two").iterdir())
    assert labels == sorted([f"{k:04d}.txt" for k in range(5, 15)] + ["0009.png.txt"])
    assert not (folder / "labels" / "one" / "0000.txt").exists()


def test_nothing_at_all(here: Path, gemma4_model: Any) -> None:
    Path("in.jsonl").touch()
    for name in ("out.jsonl", "out.parquet", "out.json", "yolo"):
        assert run_job(gemma4_model, DETECT, ["in.jsonl"], name).rows == 0
    assert rows() == [] and len(pandas.read_parquet("out.parquet")) == 0 and rows("yolo/results.jsonl") == []
    assert json.loads(Path("out.json").read_text())["images"] == []


@pytest.mark.parametrize(
    ("task", "name", "problem"),
    [
        ("detect", "out.csv", r"expected a name that ends in \.jsonl"),
        ("detect", "gone/out.jsonl", "does not exist"),
        ("detect", "in", "with other files in it"),
        ("detect", ".", "with other files in it"),
        ("caption", "out.json", "COCO's JSON holds boxes"),
        ("caption", "yolo", "a folder for YOLO holds boxes"),
    ],
)
def test_a_wrong_output(here: Path, gemma4_model: Any, task: str, name: str, problem: str) -> None:
    draw_all(here / "in", 1)
    with pytest.raises(RequestError, match=problem):
        run_job(gemma4_model, Job(task), ["in"], name, restart=True)
    assert [path.name for path in here.iterdir()] == ["in"] and len(list((here / "in").iterdir())) == 1


def test_a_missing_package_names_its_extra(here: Path, gemma4_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is computed."""
    draw_all(here / "in", 1)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for inputs, out in ((["in"], "out.parquet"), (["in", "a.parquet"], "out.jsonl")):
        Path("a.parquet").touch()
        with pytest.raises(ImportError, match=r"gemma4\[data\]"):
            run_job(gemma4_model, DETECT, inputs, out)
    assert sorted(path.name for path in here.iterdir()) == ["a.parquet", "in"]


# --- memory

_MEASURE = """
import sys, gemma4
from gemma4.pipelines import Job, files, run_job
page, sizes, append = 4096, [], files.Journal.append
def noted(journal, row):
    append(journal, row)
    sizes.append(int(open("/proc/self/statm").read().split()[1]) * page >> 20)
files.Journal.append = noted
model = gemma4.Model.from_pretrained("demo", num_threads=1, cache_bytes=8 << 20)
run_job(model, Job("detect", ["red circle"], options={"max_soft_tokens": 70}), [sys.argv[1]], sys.argv[2])
third = len(sizes) // 3
print(max(sizes[:third]), max(sizes[-third:]), len(sizes))
"""


@pytest.mark.parametrize(
    ("count", "side"), [(36, 1800), pytest.param(1200, 1800, marks=pytest.mark.slow)], ids=["36", "1200"]
)
def test_memory_is_level(here: Path, count: int, side: int) -> None:
    """A picture has 10 MB: those of the last third take no more than those of the first."""
    (here / "in").mkdir()
    first = here / "in" / "0000.jpg"
    draw(1).resize((side, side)).save(first)
    for number in range(1, count):
        (here / "in" / f"{number:04d}.jpg").write_bytes(first.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, "in", "out.jsonl"], capture_output=True, text=True, timeout=600, check=True
    )
    before, after, rows_there = map(int, done.stdout.split())
    assert rows_there == count and after < before + 40, done.stdout


def test_labels_of_any_id(tmp_path: Path) -> None:
    """Rows without a path are called by their ids, however long and alike."""
    box = {"label": "cat", "xyxy": [0, 0, 5, 5]}
    row = {"path": None, "seconds": None, "error": None, "image_size": [10, 10], "result": [box]}
    ids = ["猫" * 90 + end for end in "ab"] + ["same"] * 3 + list(range(300))
    write_yolo(tmp_path, lambda: iter({**row, "id": one} for one in ids), {}, [])
    assert len(list((tmp_path / "labels").iterdir())) == len(ids)
    assert (tmp_path / "labels" / "same_3.txt").is_file()
