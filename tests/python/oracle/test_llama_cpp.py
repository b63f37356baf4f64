"""Files that llama.cpp's converter and splitter wrote, against the checkpoints that they were made from."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import gemma4
import numpy as np
import pytest

from .llama_cpp import CONVERTED, DATA, SUPPRESSED, write_converted
from .prompts import picture, text_ids
from .reference import Reference
from .test_audio import sound
from .tolerance import ROUNDING, assert_close
from .unified import UnifiedReference

# What was rounded twice: of one vector of the audio encoder the file holds the softplus.
SOFTPLUS = 1e-6


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda name: write_converted(tmp_path_factory.mktemp("converted") / name, name))


def model_file(name: str) -> Path:
    return next(path for path in sorted(DATA.glob(f"{name}*.gguf")) if "mmproj" not in path.name)


def load(path: Path) -> gemma4.Model:
    return gemma4.Model.from_pretrained(path, kv_cache="f32", num_threads=1)


@pytest.mark.parametrize("name", CONVERTED)
def test_logits_are_the_reference_s(name: str, directory: Callable[[str], Path]) -> None:
    reference = (UnifiedReference if name == "12b" else Reference)(directory(name))
    ids = text_ids(CONVERTED[name], 90)
    assert_close(load(model_file(name)).forward(ids), reference.logits(ids), ROUNDING)


@pytest.mark.parametrize("name", CONVERTED)
def test_sees_and_hears_as_the_directory(name: str, directory: Callable[[str], Path]) -> None:
    """The file with the encoders lies beside the model, among those of two others."""
    expected, got = load(directory(name)), load(model_file(name))
    assert got.modalities == expected.modalities >= {"text", "image", "video"}
    for shape in ((62, 85), (9, 156)):
        soft = [model.encode_image(picture(*shape), max_soft_tokens=70) for model in (got, expected)]
        assert np.array_equal(*soft)
    if "audio" in got.modalities:
        assert_close(*(model.encode_audio(sound(9000)) for model in (got, expected)), SOFTPLUS)


def test_pictures_are_seen_both_ways(directory: Callable[[str], Path]) -> None:
    """12B: by all layers, which a file without encoders cannot say."""
    image = picture(62, 85)
    messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "a cat"}]}]
    logits = [load(path).forward(load(path).prepare(messages)) for path in (directory("12b"), model_file("12b"))]
    assert_close(logits[1], logits[0], ROUNDING)


def test_suppressed_tokens() -> None:
    """The converter writes them for the model that has them in its files."""
    from gemma4.checkpoint import open_gguf

    assert open_gguf(model_file("12b")).generation().values["suppress_tokens"] == SUPPRESSED
    assert "suppress_tokens" not in open_gguf(model_file("e2b")).generation().values


@pytest.mark.parametrize("part", [1, 2, 3])
def test_any_part_may_be_named(part: int, tmp_path: Path) -> None:
    for path in DATA.glob("26b-a4b*.gguf"):
        shutil.copyfile(path, tmp_path / path.name)
    ids = text_ids(CONVERTED["26b-a4b"], 20)
    model = load(tmp_path / f"26b-a4b-0000{part}-of-00003.gguf")
    assert "image" in model.modalities
    assert np.array_equal(model.forward(ids), load(tmp_path).forward(ids))


def test_written_by_convert_as_by_llama_cpp(directory: Callable[[str], Path], tmp_path: Path) -> None:
    """12B's file with the encoders: the same tensors, and keys beside what the converter leaves at a default."""
    from gemma4.gguf import read_gguf

    done = gemma4.convert(directory("12b"), tmp_path / "a.gguf", "bf16", tmp_path / "b.gguf", progress=False)
    assert done.mmproj is not None
    ours, theirs = read_gguf(done.mmproj), read_gguf(DATA / "12b-mmproj.gguf")
    general = ("general.name", "general.size_label", "general.finetune", "general.basename")
    for key in theirs.metadata.keys() - set(general):
        assert np.array_equal(ours.metadata[key], theirs.metadata[key]), key
    assert {name: tensor.shape for name, tensor in ours.tensors.items()} == {
        name: tensor.shape for name, tensor in theirs.tensors.items()
    }
    assert load(done.path).modalities == {"text", "image", "audio", "video"}
    image, samples = picture(62, 85), sound(9000)
    expected, got = load(directory("12b")), load(done.path)
    assert np.array_equal(got.encode_image(image), expected.encode_image(image))
    assert np.array_equal(got.encode_audio(samples), expected.encode_audio(samples))
