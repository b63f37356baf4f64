"""gemma4.ray: the columns of a batch; a cluster of which an actor is killed; datasets and Spark's contract.

What a column holds is compared with what the model says of the same picture, alone.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import gemma4
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from gemma4 import MediaError, RequestError
from PIL import Image

ROOT = Path(__file__).parents[3]
SHAPES = ROOT / "examples" / "shapes.png"
SPEECH = ROOT / "tests" / "python" / "data" / "speech" / "00.flac"
LABELS = ["orange circle", "blue circle"]


def encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def objects(cells: list[Any]) -> Any:
    column = np.empty(len(cells), object)
    column[:] = cells
    return column


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.open(SHAPES).convert("RGB").resize((480, 320))


@pytest.fixture(scope="module")
def expected(gemma4_model: Any, picture: Image.Image) -> list[dict[str, Any]]:
    found = gemma4_model.detect(picture, LABELS)
    assert len(found) >= 2
    return [
        {"label": one.label, "score": float(one.score), "xyxy": [*map(float, one.xyxy)], "box_2d": [*one.box_2d]}
        for one in found
    ]


# -- a batch -----------------------------------------------------------------------------------------------------------


def test_every_form_of_a_picture(gemma4_model: Any, picture: Image.Image, expected: Any, tmp_path: Path) -> None:
    path = tmp_path / "bild ü.png"
    path.write_bytes(encoded(picture))
    cells = objects(
        [str(path), encoded(picture), np.asarray(picture), picture, {"bytes": encoded(picture), "path": None},
         {"bytes": None, "path": str(path)}]
    )  # fmt: skip
    generator = gemma4.ray.Generator(gemma4_model, labels=LABELS)
    batch = {"image": cells, "id": np.arange(len(cells))}
    done = generator(batch)
    assert done["id"] is batch["id"] and done["image"] is cells and list(batch) == ["image", "id"]
    assert done["detections"].to_pylist() == [expected] * len(cells)
    assert done["detections"].type == generator.schema.field("detections").type
    tensor = np.stack([np.asarray(picture)] * 2)
    assert generator({"image": tensor})["detections"].to_pylist() == [expected] * 2
    assert generator({"image": tensor[:0]})["detections"].type == done["detections"].type


def test_every_task(gemma4_model: Any, picture: Image.Image) -> None:
    pictures = {"bytes": objects([encoded(picture)] * 2), "prompt": np.array(["Hello", "Describe the image."])}

    def ask(task: str, batch: dict[str, Any] = pictures, **options: Any) -> list[Any]:
        added = gemma4.ray.Generator(gemma4_model, task, **options).columns(batch)
        (column,) = added.values()
        return column

    assert ask("caption") == [gemma4_model.caption(picture)] * 2
    assert ask("read", output="words") == [gemma4_model.read(picture)] * 2
    samples, rate = soundfile.read(SPEECH, dtype="float32")
    said = str(gemma4_model.transcribe(SPEECH))
    assert ask("transcribe", {"path": np.array([str(SPEECH)])}) == [said]
    assert ask("transcribe", {"audio": objects([{"array": samples, "sampling_rate": rate}])}) == [said]
    assert ask("transcribe", {"audio": samples[None]}, sampling_rate=rate) == [said]
    answers = [gemma4_model.generate(str(prompt), max_new_tokens=5).text for prompt in pictures["prompt"]]
    assert ask("generate", max_new_tokens=5) == answers
    seen = gemma4_model.generate("Describe the image.", images=picture, max_new_tokens=5).text
    assert ask("generate", prompt="Describe the image.", image="bytes", max_new_tokens=5) == [seen] * 2
    assert ask("generate", {"sound": objects([samples])}, prompt="Transcribe", audio="sound", max_new_tokens=5) == [
        gemma4_model.generate("Transcribe", audio=samples, max_new_tokens=5).text
    ]


def test_an_error_is_a_row(gemma4_model: Any, picture: Image.Image, expected: Any) -> None:
    batch = {"image": objects([picture, b"no picture", "nowhere.png", None, picture])}
    generator = gemma4.ray.Generator(gemma4_model, labels=LABELS, on_error="return", error="went_wrong")
    done = generator(batch)
    assert done["detections"].to_pylist() == [expected, None, None, None, expected]
    errors = done["went_wrong"].to_pylist()
    assert [error is None for error in errors] == [True, False, False, False, True]
    assert errors[2].startswith("MediaError: ") and "nowhere.png" in errors[2]
    with pytest.raises(MediaError, match="row 1 of the batch"):
        gemma4.ray.Generator(gemma4_model, labels=LABELS)(batch)
    prompts = {"prompt": objects([None, "Hello", ["what"]])}
    asked = gemma4.ray.Generator(gemma4_model, "generate", on_error="return", max_new_tokens=3).columns(prompts)
    assert [answer is None for answer in asked["answer"]] == [True, False, True]


def test_what_no_row_is_to_blame_for_is_raised(picture: Image.Image) -> None:
    generator = gemma4.ray.Generator("demo", labels=LABELS, on_error="return")
    generator.close()
    with pytest.raises(RequestError, match="this model is closed"):
        generator({"image": [picture]})


@pytest.mark.parametrize(
    ("arguments", "batch", "message"),
    [
        ({"task": "paint"}, {}, "task: expected one of detect"),
        ({"on_error": "ignore"}, {}, "on_error"),
        ({"task": "caption", "labels": "cat"}, {}, "labels: caption takes none"),
        ({"task": "read", "prompt": "?"}, {}, "prompt: read takes none"),
        ({}, {"picture": [1]}, "image: no such column; the batch has picture"),
        ({"image": "photo"}, {"image": [1]}, "photo: no such column"),
        ({"task": "generate"}, {"image": [1]}, "prompt: no such column"),
        ({}, {"image": [1], "detections": [1]}, "detections: the batch has this column already"),
        ({"on_error": "return"}, {"image": [1], "error": [1]}, "error: the batch has this column already"),
        ({"on_error": "return", "output": "x", "error": "x"}, {}, "error: 'x' is the column of the results already"),
        ({"model_kwargs": {"num_threads": 1}}, {}, "model_kwargs: num_threads is an argument of its own"),
    ],
)
def test_bad_calls(gemma4_model: Any, arguments: dict[str, Any], batch: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        gemma4.ray.Generator(gemma4_model, **arguments)(batch)


def test_it_travels(picture: Image.Image) -> None:
    generator = gemma4.ray.Generator("demo", labels=LABELS, num_threads=1, model_kwargs={"kv_cache": "f32"})
    again = pickle.loads(pickle.dumps(generator))
    assert again.columns({"image": [picture]}) == generator.columns({"image": [picture]})
    assert again._model.num_threads == 1


def test_nothing_of_ray_is_imported() -> None:
    code = (
        "import gemma4, sys; gemma4.ray.Generator; from gemma4.ray import make_predict_fn\n"
        "print(*{'ray', 'pyarrow', 'pyspark'} & sys.modules.keys(), gemma4.ray.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "gemma4.ray", done.stderr


def test_a_missing_package_is_named(gemma4_model: Any, picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"gemma4\[ray\]"):
        gemma4.ray.Generator(gemma4_model, labels=LABELS)({"image": [picture]})


# -- datasets and Spark ------------------------------------------------------------------------------------------------


def test_datasets_map(gemma4_model: Any, picture: Image.Image, expected: Any, tmp_path: Path) -> None:
    white = Image.new("RGB", (64, 48), "white")
    rows = datasets.Dataset.from_dict({"image": [white, picture, white]}).cast_column("image", datasets.Image())
    generator = gemma4.ray.Generator(gemma4_model, labels=LABELS, on_error="return")
    types = datasets.Features({**rows.features, **datasets.Features.from_arrow_schema(generator.schema)})
    mapped = rows.map(
        generator.columns, batched=True, batch_size=1, features=types, new_fingerprint="detections",
        cache_file_name=str(tmp_path / "mapped.arrow"),
    )  # fmt: skip
    assert mapped["detections"][:] == [[], expected, []] and mapped["error"][:] == [None] * 3
    assert mapped[1]["image"].size == picture.size
    mapped.to_parquet(tmp_path / "mapped.parquet")
    assert pq.read_table(tmp_path / "mapped.parquet").column("detections").to_pylist() == [[], expected, []]


def test_what_spark_calls(picture: Image.Image, expected: Any) -> None:
    """`predict_batch_udf` ships the function, makes it once for each worker, and gives it arrays of a column."""
    import cloudpickle

    make = pickle.loads(cloudpickle.dumps(gemma4.ray.make_predict_fn("demo", "detect", labels=LABELS)))
    values = make()(objects([encoded(picture), encoded(picture)]))
    assert values.shape == (2,) and [json.loads(value) for value in values] == [expected] * 2
    both = gemma4.ray.make_predict_fn("demo", "caption", on_error="return")()(objects([encoded(picture), b""]))
    assert sorted(both) == ["caption", "error"] and [column.shape for column in both.values()] == [(2,)] * 2
    assert both["caption"][0] and both["caption"][1] == "" and both["error"][0] == "" and "Error" in both["error"][1]
    asked = gemma4.ray.make_predict_fn("demo", "generate", prompt="Hello", on_error="return", max_new_tokens=2)()
    answers = asked(objects([encoded(picture), "nowhere.png"]))  # about every picture of the column
    assert answers["error"][0] == "" and "nowhere.png" in answers["error"][1]


# -- a cluster ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # 15 waits for everything else that a busy machine does
        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        ray.init(num_cpus=4, object_store_memory=200 << 20, **quiet)
        yield ray
        ray.shutdown()


def folder_of(directory: Path, picture: Image.Image, count: int) -> Path:
    directory.mkdir()
    for index in range(count):
        (directory / f"{index:02d}.png").write_bytes(encoded(picture))
    (directory / "broken.png").write_bytes(b"no picture")
    return directory


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.slow
def test_an_actor_is_killed_and_every_row_comes_once(
    cluster: Any, picture: Image.Image, expected: Any, tmp_path: Path
) -> None:
    lives, killed = tmp_path / "lives", tmp_path / "killed"
    lives.mkdir()

    class Mortal(gemma4.ray.Generator):
        """Killed the first time that it has answered a batch with row 13, before Ray has the answer."""

        def __call__(self, batch: Any) -> dict[str, Any]:
            done = super().__call__(batch)
            (lives / str(os.getpid())).touch()
            if 13 in batch["id"] and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return done

    cells = [b"no picture" if index == 5 else encoded(picture) for index in range(24)]
    rows = cluster.data.from_items(
        [{"id": index, "bytes": cell} for index, cell in enumerate(cells)], override_num_blocks=8
    )
    done = rows.map_batches(
        Mortal,
        fn_constructor_kwargs={"model": "demo", "labels": LABELS, "on_error": "return"},
        batch_size=3, compute=cluster.data.ActorPoolStrategy(size=2), num_cpus=1,
    )  # fmt: skip
    found = sorted(done.take_all(), key=lambda row: row["id"])
    assert killed.exists() and len(list(lives.iterdir())) >= 3  # two actors, and one in the place of the dead one
    assert [row["id"] for row in found] == list(range(24))
    for row in found:
        if row["id"] == 5:
            assert row["detections"] is None and row["error"].startswith("MediaError")
        else:
            assert (row["detections"], row["error"]) == (expected, None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_the_examples(cluster: Any, gemma4_model: Any, picture: Image.Image, expected: Any, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "photos", picture, 4)
    example("ray_folder").main([str(folder), str(tmp_path / "found"), "--labels", *LABELS])
    found = {Path(row["path"]).name: row for row in pq.read_table(tmp_path / "found").to_pylist()}
    assert sorted(found) == sorted(path.name for path in folder.iterdir())
    assert [found[f"{index:02d}.png"]["detections"] for index in range(4)] == [expected] * 4
    assert found["broken.png"]["error"].startswith("MediaError")

    rows = [{"image": {"bytes": encoded(picture), "path": "a.png"}, "id": index} for index in range(3)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "in.parquet")
    example("ray_parquet").main([str(tmp_path / "in.parquet"), str(tmp_path / "described")])
    described = pq.read_table(tmp_path / "described").to_pylist()
    assert sorted(row["id"] for row in described) == [0, 1, 2]
    assert {row["caption"] for row in described} == {gemma4_model.caption(picture)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_an_actor_has_the_threads_that_ray_assigns(cluster: Any) -> None:
    @cluster.remote
    class Actor:
        def threads(self) -> int:
            return int(gemma4.ray.Generator("demo")._model.num_threads)

    many = min(2, len(os.sched_getaffinity(0)))
    counts = [cluster.get(Actor.options(num_cpus=cpus).remote().threads.remote()) for cpus in (1, many, 0.5)]
    assert counts == [1, many, 1]
