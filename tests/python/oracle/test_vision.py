"""Pictures: resize, encoder, soft tokens, and prompts that hold several of them, against the reference."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import gemma4
import numpy as np
import pytest
from PIL import Image

from .engine import prefill, soft_of
from .prompts import Prompt, image_prompt, messages, picture
from .reference import Reference
from .tiny_tokenizer import IDS
from .tolerance import VISION_ROUNDING, assert_close, relative_error
from .variants import Variant

BUDGETS = (70, 140, 280, 560, 1120)
# height, width: an ordinary one, one of a few pixels (scaled up), 1:3, 3:1, and two whose short side floors to zero.
SHAPES = ((61, 83), (3, 5), (30, 90), (93, 31), (1, 1000), (997, 2))


def _cases() -> list[object]:
    return [pytest.param(shape, budget, id=f"{shape[0]}x{shape[1]}-{budget}") for shape in SHAPES for budget in BUDGETS]


@pytest.mark.parametrize(("shape", "budget"), _cases())
def test_soft_tokens(
    variant: Variant, reference: Reference, model: gemma4.Model, shape: tuple[int, int], budget: int
) -> None:
    """From the picture through our resize and encoder to text space. conftest.py says which of these are slow."""
    image = picture(*shape)
    expected = reference.soft_tokens(image, budget)
    assert_close(model.encode_image(image, max_soft_tokens=budget), expected, VISION_ROUNDING)


def test_soft_tokens_with_pillow(variant: Variant, reference: Reference, make_checkpoint: Callable[..., Path]) -> None:
    """The reference's other image processor, in its own code."""
    directory = make_checkpoint(variant.name)
    model = gemma4.Model.from_pretrained(directory, resize="pillow", kv_cache="f32", num_threads=2)
    for shape in SHAPES[:4]:
        image = picture(*shape)
        usual = reference.soft_tokens(image, 70)
        with mock.patch.object(reference, "processor", reference.pillow):
            expected = reference.soft_tokens(image, 70)
        assert_close(model.encode_image(image, max_soft_tokens=70), expected, VISION_ROUNDING)
        assert relative_error(usual, expected) > 2 * VISION_ROUNDING


def test_two_images_in_one_prompt(
    variant: Variant, reference: Reference, model: gemma4.Model, two_images: Prompt
) -> None:
    """Every position; where images are bidirectional one run is longer than the window and one shorter."""
    got = prefill(model, two_images.ids, soft_of(model, two_images))
    assert_close(got, reference.logits(two_images.ids, two_images.images, two_images.budget))


def test_pictures_behind_each_other(variant: Variant, reference: Reference, model: gemma4.Model) -> None:
    """A picture as the very first thing and one as the very last: runs at both ends of the prompt."""
    images = [picture(40, 52, seed=3), picture(52, 40, seed=4)]
    counts = [reference.soft_token_count(image, 70) for image in images]
    whole = image_prompt(variant, images, counts)
    begin, end = whole.runs[0][0] - 1, whole.runs[1][1]
    cut = Prompt(whole.ids[begin:end], whole.images, 70, tuple((a - begin, b - begin) for a, b in whole.runs))
    got = prefill(model, cut.ids, soft_of(model, cut))
    assert_close(got, reference.logits(cut.ids, cut.images, 70))


@pytest.mark.parametrize("budget", [70, 140])
def test_prepare_and_forward(variant: Variant, reference: Reference, model: gemma4.Model, budget: int) -> None:
    """Messages with two pictures: the placeholders that the reference expects, and its logits."""
    images = [picture(33, 47, seed=5), picture(64, 21, seed=6)]
    inputs = model.prepare(messages(images), max_soft_tokens=budget)
    ids = np.asarray(inputs.input_ids)
    assert ids.dtype == np.int32
    soft = ids == IDS["<|image|>"]
    assert soft.sum() == sum(reference.soft_token_count(image, budget) for image in images)
    assert (ids == IDS["<|image>"]).sum() == (ids == IDS["<image|>"]).sum() == 2
    assert_close(model.forward(inputs), reference.logits(ids, images, budget))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_encoder_weight_dtypes(variant: Variant, make_checkpoint: Callable[..., Path], dtype: str) -> None:
    directory = make_checkpoint(variant.name, dtype)
    model = gemma4.Model.from_pretrained(directory, kv_cache="f32", num_threads=2)
    image = picture(61, 83)
    expected = Reference(directory).soft_tokens(image, 70)
    assert_close(model.encode_image(image, max_soft_tokens=70), expected, VISION_ROUNDING)


def test_modes_of_pictures(variant: Variant, reference: Reference, model: gemma4.Model) -> None:
    """Grey, palette and CMYK pictures are converted as the reference converts them."""
    colour = picture(50, 60)
    for mode in ("L", "P", "CMYK", "1"):
        image = colour.convert(mode)
        expected = reference.soft_tokens(image, 70)
        assert_close(model.encode_image(image, max_soft_tokens=70), expected, VISION_ROUNDING)


def test_arrays_are_pictures(variant: Variant, model: gemma4.Model) -> None:
    image: Image.Image = picture(50, 60)
    expected = np.array(model.encode_image(image, max_soft_tokens=70))
    assert np.array_equal(model.encode_image(np.asarray(image), max_soft_tokens=70), expected)
