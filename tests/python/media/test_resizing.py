"""Pictures and frames have the bytes that the reference's AutoProcessor gives them, with torchvision and with Pillow.

data/pictures holds what torchvision gave, made by the script beside it, so that no test needs torchvision.
"""

import json
import pickle
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4.errors import MediaError, RequestError
from gemma4.media import pictures
from picture_cases import CASES, DATA, difference, digest, sample, scene, sums
from PIL import Image

KEPT = json.loads((DATA / "resized.json").read_text())["results"]
ARRAYS = np.load(DATA / "resized.npz")


def test_the_data_is_of_these_cases() -> None:
    assert list(KEPT) == list(CASES) and len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_bytes_of_torchvision(name: str) -> None:
    case, kept = CASES[name], KEPT[name]
    resized = []
    for image in case.make():
        pixels = pictures.load_image(image)
        target = pictures.target_size(*pixels.shape[:2], case.budget, case.patch, case.pool)
        resized.append(pictures.resize(pixels, target))
    ours = np.concatenate(resized)
    assert list(ours.shape[:2]) == kept["size"]
    assert resized[0].shape[0] * resized[0].shape[1] == kept["soft_tokens"] * (case.patch * case.pool) ** 2
    if digest(ours) != kept["sha256"]:
        pytest.fail(difference(ours, ARRAYS[f"{name}/sample"], ARRAYS[f"{name}/sums"]))


def test_a_level_is_noticed() -> None:
    """What is kept says where a result differs, and by how much."""
    pixels = scene(40, 50)
    other = pixels.copy()
    other[7, 11, 1] ^= 2
    assert digest(other) != digest(pixels)
    assert "1 of 40 rows have another sum, first [7]" in difference(other, sample(pixels), sums(pixels))
    other[0, 0] ^= 3
    assert "3 differ, by 3 at most" in difference(other, sample(pixels), sums(pixels))


# -- the option --------------------------------------------------------------------------------------------------------

PICTURE = scene(200, 310)


def prepared(model: gemma4.Model, **media: Any) -> np.ndarray:
    return model.prepare("look", **media).seen[0].pixels


def test_the_default_is_torchvision_for_pictures_and_frames() -> None:
    usual, pillow = (gemma4.Model.from_pretrained("demo", resize=how) for how in pictures.RESIZES)
    frames = {"video": ([PICTURE, PICTURE], [0.0, 1.0])}
    for given in ({"images": PICTURE}, {"video": frames}):
        theirs = prepared(gemma4.Model.from_pretrained("demo"), **given)
        assert np.array_equal(theirs, prepared(usual, **given))
        size = theirs.shape[:2]
        assert np.array_equal(theirs, pictures.resize(PICTURE, size))
        other = prepared(pillow, **given)
        expected = Image.fromarray(PICTURE).resize(size[::-1], Image.Resampling.BICUBIC)
        assert np.array_equal(other, np.asarray(expected)) and not np.array_equal(other, theirs)
    assert not np.array_equal(usual.encode_image(PICTURE), pillow.encode_image(PICTURE))


def test_the_option_pickles_with_the_model() -> None:
    model = pickle.loads(pickle.dumps(gemma4.Model.from_pretrained("demo", resize="pillow")))
    made = prepared(model, images=PICTURE, max_soft_tokens=70)
    assert np.array_equal(made, pictures.resize(PICTURE, (192, 320), "pillow"))


@pytest.mark.parametrize("value", ["Pillow", "bilinear", "", None, True, 3, ["pillow"]])
def test_wrong_values(value: Any) -> None:
    with pytest.raises(RequestError, match="resize: expected one of 'torchvision', 'pillow', found"):
        gemma4.Model.from_pretrained("demo", resize=value)


def test_a_side_that_is_too_long() -> None:
    """Its filter would take gigabytes; torchvision and Pillow run out of memory."""
    long = np.zeros((1 << 20) + 1, np.uint8).reshape(1, -1, 1).repeat(3, 2)
    for how in pictures.RESIZES:
        with pytest.raises(MediaError, match="1048577 x 1 pixels is too long"):
            pictures.resize(long, (48, 48), how)
    assert pictures.resize(long[:, 1:], (48, 13_440)).shape == (48, 13_440, 3)
    with pytest.raises(MediaError, match=r"image.*too long"):
        gemma4.Model.from_pretrained("demo").prepare("look", images=long)
