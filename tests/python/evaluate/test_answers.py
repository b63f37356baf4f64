"""Answers that are kept: what makes one another one, damage, several processes."""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gemma4
import numpy as np
import pytest
from gemma4.evaluate import AnswerCache, compare
from gemma4.evaluate.cache import fingerprint
from labelled import Told, scene
from PIL import Image

DEMO = Path(gemma4.__file__).parent / "demo_model"
ARGUMENTS = {"source": "demo"}


@pytest.fixture
def files(tmp_path):
    """Two pictures in files, with their truth."""
    pairs = []
    for seed in (1, 2):
        picture, objects = scene(seed)
        picture.save(tmp_path / f"{seed}.png")
        pairs.append((tmp_path / f"{seed}.png", objects))
    return pairs


@pytest.fixture(scope="module")
def model():
    with gemma4.Model.from_pretrained("demo") as loaded:
        yield loaded


def answers(folder):
    return sorted((folder / "answers").rglob("*.json"))


def test_the_second_time_no_model_is_loaded(files, tmp_path, monkeypatch):
    first = compare(files, max_soft_tokens=70, cache=tmp_path / "kept")
    assert first.rows[0].cached == 0 and first.recall > 0
    monkeypatch.setattr(gemma4.Model, "from_pretrained", None)
    again = compare(files, max_soft_tokens=70, cache=tmp_path / "kept")
    assert again.rows[0].cached == 2

    def figures(result):
        return [[picture.outcomes for picture in row.pictures] for row in result], result.map, result.rows[0].seconds

    assert figures(again) == figures(first)
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_is_put_around_a_model_is_asked_itself(files, tmp_path, model):
    class Nothing:
        """Looks like a model in everything but its answers."""

        def __getattr__(self, name):
            return getattr(model, name)

        def detect(self, *args, **options):
            return [found[:0] for found in model.detect(*args, **options)]

    class Less(gemma4.Model):
        detect = Nothing.detect

    for other in (Nothing(), object.__new__(Less)):
        assert compare(files, models=model, max_soft_tokens=70, cache=tmp_path).recall > 0
        assert compare(files, models=other, max_soft_tokens=70, cache=tmp_path).recall == 0


def test_the_second_time_takes_a_twentieth(tmp_path):
    """Of forty pictures: by the time that the answers took, which is all but all of the first run's."""
    pictures = []
    for seed in range(40):
        picture, objects = scene(seed)
        picture.save(tmp_path / f"{seed}.png")
        pictures.append((tmp_path / f"{seed}.png", objects))

    def timed():
        begun = time.process_time()  # whatever else the machine does
        compare(pictures, max_soft_tokens=70, cache=tmp_path / "kept")
        return time.process_time() - begun

    first = timed()
    assert first / min(timed() for _ in range(3)) >= 20


def test_what_makes_an_answer_another_one(files, tmp_path, model):
    def asked(pictures=files, **arguments):
        given = {"models": model, "max_soft_tokens": 70, **arguments}
        result = compare(pictures, cache=tmp_path / "kept", **given)
        return sum(len(row.pictures) - row.cached for row in result)

    assert asked() == 2 and asked() == 0
    assert asked(models="demo") == 0  # the same files
    assert asked(max_soft_tokens=140) == 2
    assert asked(labels=["red circle"]) == 2
    assert asked(prompts="Find the {labels}.") == 2
    assert asked(options={"max_new_tokens": 1000}) == 2
    assert asked(iou=0.8) == 0 and asked(files[::-1]) == 0
    (path, objects), *_ = files
    pixels = np.asarray(Image.open(path)).copy()
    assert asked([(pixels, objects), *files[1:]]) == 0  # the same picture
    Image.open(path).save(path.with_suffix(".bmp"))
    assert asked([(path.with_suffix(".bmp"), objects), *files[1:]]) == 0
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    assert asked() == 1


def test_models_by_name_and_with_arguments(files, tmp_path):
    models = {"exact": "demo", "small": {"source": "demo", "dtype": "q8_0"}}
    for cached in (0, 2):
        result = compare(files, models=models, max_soft_tokens=70, cache=tmp_path / "kept")
        assert [(row.name, row.settings["model"], row.cached) for row in result] == [
            ("exact", "demo", cached),
            ("small", "demo", cached),
        ]
    exact, small = ([o.score for p in row.pictures for o in p.outcomes if o.score is not None] for row in result)
    assert exact and exact != small


def test_the_same_picture_is_asked_about_once(files, tmp_path, model, monkeypatch):
    counted = []
    detect = model.detect
    monkeypatch.setattr(
        type(model), "detect", lambda self, images, **k: (counted.append(len(images)), detect(images, **k))[1]
    )
    result = compare([files[0]] * 5, models=model, max_soft_tokens=70, cache=tmp_path / "kept")
    assert counted == [1] and len(result.rows[0].pictures) == 5


def test_a_detector_of_which_nothing_is_known_is_asked_again(files, tmp_path):
    told = Told(lambda *_: [])
    for count in (2, 4):
        compare(files, models=told, cache=tmp_path / "kept")
        assert told.asked == count
    assert not (tmp_path / "kept" / "answers").exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"key": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_computed_anew(files, tmp_path, model, damage):
    first = compare(files, models=model, max_soft_tokens=70, cache=tmp_path)
    answers(tmp_path)[0].write_bytes(damage)
    with pytest.warns(RuntimeWarning, match="a damaged cache file; it is computed anew"):
        again = compare(files, models=model, max_soft_tokens=70, cache=tmp_path)
    assert again.rows[0].cached == 1 and again.map == first.map
    assert compare(files, models=model, max_soft_tokens=70, cache=tmp_path).rows[0].cached == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("found"),
        lambda v: v.update(found=[{"label": "cat", "xyxy": [1, 2, 3], "score": 1}]),
        lambda v: v.update(found=[{"label": "cat", "xyxy": [1, 2, 3, "4"], "score": 1}]),
        lambda v: v.update(found=[{"label": "cat", "xyxy": [1, 2, 3, 4], "score": 2}]),
        lambda v: v.update(seconds=None),
        lambda v: v.update(notes=3),
    ],
)
def test_a_file_that_says_something_else_is_computed_anew(files, tmp_path, model, change):
    first = compare(files, models=model, max_soft_tokens=70, cache=tmp_path)
    path = answers(tmp_path)[0]
    data = json.loads(path.read_text())
    change(data["value"])
    path.write_text(json.dumps(data))
    with pytest.warns(RuntimeWarning, match="a damaged cache file"):
        assert compare(files, models=model, max_soft_tokens=70, cache=tmp_path).map == first.map


def test_a_folder_that_cannot_be_written_to_is_said_once(files, tmp_path, model):
    (tmp_path / "kept").write_text("a file")
    with pytest.warns(RuntimeWarning) as caught:
        result = compare(files, models=model, max_soft_tokens=70, cache=tmp_path / "kept")
    assert result.recall > 0
    assert sum("not kept for the next run" in str(one.message) for one in caught) == 1


def test_many_write_the_same(tmp_path):
    cache, value = AnswerCache(tmp_path), {"found": list(range(2000))}

    def once(_):
        cache.put("answers", "ab", value)
        return cache.get("answers", "ab") == value

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(once, range(200)))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["ab.json"]


def test_a_fingerprint_is_of_the_files(tmp_path):
    cache = AnswerCache(tmp_path / "kept")
    mine = tmp_path / "mine"
    shutil.copytree(DEMO, mine)
    first = fingerprint({"source": mine}, cache)
    assert first == fingerprint(ARGUMENTS, AnswerCache(None)) == fingerprint({"source": str(mine)}, cache)
    for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja", "processor_config.json"):
        path, before = mine / name, (mine / name).read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert fingerprint({"source": mine}, cache) != first, name
        path.write_bytes(before)
        assert fingerprint({"source": mine}, cache) == first, name
    others = [{"dtype": "q8_0"}, {"resize": "pillow"}, {"kv_cache": "f32"}, {"adapter": mine}, {"adapter": {"a": mine}}]
    found = {fingerprint({"source": mine, **other}, cache) for other in others}
    assert len(found | {first}) == 6
    assert fingerprint({"source": mine, "num_threads": 1, "cache_bytes": 0}, cache) == first


def test_a_file_is_read_again_only_when_it_is_another(tmp_path):
    cache, read = AnswerCache(tmp_path / "kept"), []

    def make(path):
        read.append(path)
        return {"size": path.stat().st_size}

    path = tmp_path / "a"
    path.write_bytes(b"1")
    assert [cache.of_file("bytes", path, make)["size"] for _ in range(3)] == [1, 1, 1] and len(read) == 1
    other = tmp_path / "b"
    other.write_bytes(b"2")
    times = path.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)  # of the same size and time
    cache.of_file("bytes", path, make)
    assert len(read) == 2
