"""A whole checkpoint: what its files may say and lack."""

from __future__ import annotations

import gc
import json
import os
import shutil
import weakref
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import ModelFileChanged, ModelFileError

DEMO = Path(gemma4.__file__).parent / "demo_model"


def write(path: Path, header: Any, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "checkpoint"))


def edit(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text())
    data.update(changes)
    path.write_text(json.dumps(data))


def read_tensors(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


NORM = "model.language_model.norm.weight"


def test_missing_extra_and_misshaped_tensors_are_listed(demo: Path) -> None:
    header, data = read_tensors(demo / "model.safetensors")
    header["surprise"] = header.pop(NORM)
    write(demo / "model.safetensors", header, data)
    with pytest.raises(ModelFileError) as caught:
        gemma4.Model.from_pretrained(demo)
    assert NORM in str(caught.value)
    assert "surprise" in str(caught.value)
    header[NORM] = header.pop("surprise")
    header[NORM]["shape"] = [1, *header[NORM]["shape"]]
    write(demo / "model.safetensors", header, data)
    with pytest.raises(ModelFileError, match=NORM):
        gemma4.Model.from_pretrained(demo)


@pytest.mark.parametrize("missing", [1, 4096, 2_000_000])
def test_truncated_weights(missing: int, demo: Path) -> None:
    path = demo / "model.safetensors"
    os.truncate(path, path.stat().st_size - missing)
    with pytest.raises(ModelFileError, match=r"model\.safetensors.*missing"):
        gemma4.Model.from_pretrained(demo)


def test_config_that_does_not_fit_the_weights(demo: Path) -> None:
    text = json.loads((demo / "config.json").read_text())["text_config"]
    edit(demo / "config.json", text_config={**text, "hidden_size": text["hidden_size"] * 2})
    with pytest.raises(ModelFileError, match="expected"):
        gemma4.Model.from_pretrained(demo)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(name: str, demo: Path) -> None:
    (demo / name).unlink()
    with pytest.raises(ModelFileError, match=name.replace(".", r"\.")):
        gemma4.Model.from_pretrained(demo)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"version": "1.0"}', '{"model": {"type": "Nonsense"}}'])
def test_bad_tokenizers(content: str, demo: Path) -> None:
    (demo / "tokenizer.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"tokenizer\.json"):
        gemma4.Model.from_pretrained(demo)


def test_tokenizer_larger_than_the_vocabulary(demo: Path) -> None:
    data = json.loads((demo / "tokenizer.json").read_text())
    data["model"]["vocab"]["one too many"] = 5000
    (demo / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ModelFileError, match="vocab_size"):
        gemma4.Model.from_pretrained(demo)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("generation_config.json", {"temperature": "hot", "do_sample": True}, "temperature"),
        ("generation_config.json", {"do_sample": "yes"}, "do_sample"),
        ("generation_config.json", {"eos_token_id": -1}, "eos_token_id"),
        ("processor_config.json", {"image_processor": {"max_soft_tokens": 100}}, "max_soft_tokens"),
        ("processor_config.json", {"image_processor": {"patch_size": 14}}, "patch_size"),
        ("processor_config.json", {"image_processor": 3}, "image_processor"),
        ("processor_config.json", {"image_processor": {"do_resize": False}}, "do_resize"),
        ("processor_config.json", {"image_processor": {"resample": 2}}, "image_processor: resample: only 3"),
        ("processor_config.json", {"image_processor": {"do_rescale": False}}, "do_rescale"),
        ("processor_config.json", {"image_processor": {"rescale_factor": 1}}, "rescale_factor"),
        ("processor_config.json", {"image_processor": {"rescale_factor": "x"}}, "rescale_factor"),
        ("processor_config.json", {"image_processor": {"do_normalize": True, "image_mean": [0.5] * 3}}, "image_mean"),
        ("processor_config.json", {"video_processor": {"do_normalize": True, "image_std": 0.5}}, "video_.*image_std"),
    ],
)
def test_bad_side_files(name: str, changes: dict[str, Any], expected: str, demo: Path) -> None:
    edit(demo / name, **changes)
    with pytest.raises(ModelFileError, match=f"{name}.*{expected}"):
        gemma4.Model.from_pretrained(demo)


def budgets(directory: Path) -> tuple[int, int]:
    """Soft tokens of a picture and of a frame."""
    processor = gemma4.Model.from_pretrained(directory)._runtime.loaded.processor
    return processor.default_budget, processor.frame_budget


def test_processors_in_every_spelling(demo: Path) -> None:
    """A null is the usual, as for the reference; normalizing by 0 and 1, as for its frames, changes nothing."""
    usual = {"patch_size": None, "resample": None, "do_resize": None, "max_soft_tokens": 140, "do_normalize": True}
    video = {"do_normalize": True, "image_mean": [0, 0, 0], "image_std": [1.0] * 3, "max_soft_tokens": None}
    edit(demo / "processor_config.json", image_processor=usual, video_processor=video)
    assert budgets(demo) == (140, 70)


def test_files_of_older_processors(demo: Path) -> None:
    """Frames have a file of their own, or are prepared as pictures are, as in the reference."""
    (demo / "processor_config.json").unlink()
    (demo / "preprocessor_config.json").write_text(json.dumps({"max_soft_tokens": 560}))
    assert budgets(demo) == (560, 560)
    (demo / "video_preprocessor_config.json").write_text(json.dumps({"max_soft_tokens": 140}))
    assert budgets(demo) == (560, 140)


def test_views_outlive_the_model(demo: Path) -> None:
    model = gemma4.Model.from_pretrained(demo)
    view = model.tensors[NORM]
    expected = view.astype(np.float32).copy()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    shutil.rmtree(demo)
    assert np.array_equal(view.astype(np.float32), expected)
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


def test_renamed_and_deleted_files_keep_working(demo: Path) -> None:
    model = gemma4.Model.from_pretrained(demo)
    before = model.generate("Hello", max_new_tokens=4, temperature=0).token_ids.tolist()
    shutil.rmtree(demo)
    assert model.generate("Hello", max_new_tokens=4, temperature=0).token_ids.tolist() == before


def test_changed_file_is_noticed(demo: Path) -> None:
    model = gemma4.Model.from_pretrained(demo)
    os.truncate(demo / "model.safetensors", 1_000_000)
    for call in (
        lambda: model.generate("Hello", max_new_tokens=1),
        lambda: model.forward([5, 6]),
        lambda: model.encode_image(np.zeros((64, 64, 3), np.uint8)),
    ):
        with pytest.raises(ModelFileChanged, match=r"model\.safetensors"):
            call()


def test_nothing_is_written(demo: Path) -> None:
    def listing() -> list[tuple[str, int, int]]:
        return sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in demo.iterdir())

    before = listing()
    model = gemma4.Model.from_pretrained(demo)
    model.generate("Hello", max_new_tokens=2)
    assert listing() == before
