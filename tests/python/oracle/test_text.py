"""Text through the decoder, against the reference."""

from collections.abc import Callable
from pathlib import Path

import gemma4
import numpy as np
import pytest

from .engine import prefill
from .prompts import text_ids
from .reference import Reference
from .tolerance import PROMISED, ROUNDING, assert_close, relative_error, rms
from .variants import VARIANTS, Variant

LONG = 190  # more than 140 tokens past either window


@pytest.mark.parametrize("length", ["1", "window-1", "window", "window+1", "window+150"])
def test_logits(variant: Variant, reference: Reference, model: gemma4.Model, length: str) -> None:
    """Every position, from one token to 150 tokens past the window."""
    base, _, more = length.partition("+")
    count = 1 if length == "1" else variant.window + (-1 if base.endswith("-1") else int(more or 0))
    ids = text_ids(variant, count, seed=5)
    assert_close(model.forward(ids), reference.logits(ids))


def test_as_exact_as_the_reference(variant: Variant, reference: Reference, model: gemma4.Model) -> None:
    """Against float64 the engine loses no more than the reference's own float32 does, which is what ROUNDING rests on.

    Both errors are random sums of the same kind: their means over a hundred thousand logits agree within a few per
    cent where nothing is wrong, and a factor of two is a defect.
    """
    ids = text_ids(variant, LONG)
    exact = reference.exact_logits(ids)
    theirs, ours = reference.logits(ids), np.array(model.forward(ids))
    assert rms(ours - exact) <= 2 * rms(theirs - exact)
    assert relative_error(theirs, exact) <= ROUNDING / 2


def test_last_only_is_the_last_row(variant: Variant, model: gemma4.Model) -> None:
    """Also where the layers that only read keys are skipped for all other positions."""
    ids = text_ids(variant, LONG)
    last = np.array(model.forward(ids, last_only=True))
    assert last.shape == (1, variant.vocab)
    assert_close(last, np.array(model.forward(ids))[-1:])


def test_ids_of_any_kind(variant: Variant, model: gemma4.Model) -> None:
    """A list and int64 mean the same as int32."""
    ids = text_ids(variant, 9)
    expected = np.array(model.forward(ids))
    assert np.array_equal(model.forward(ids.astype(np.int64)), expected)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_weight_dtypes(variant: Variant, make_checkpoint: Callable[..., Path], dtype: str) -> None:
    """The reference widens the same rounded weights to float32."""
    directory = make_checkpoint(variant.name, dtype)
    model = gemma4.Model.from_pretrained(directory, kv_cache="f32", num_threads=2)
    ids = text_ids(variant, LONG, seed=6)
    assert_close(model.forward(ids), Reference(directory).logits(ids))


def test_sharded_and_published_style(
    variant: Variant, model: gemma4.Model, make_checkpoint: Callable[..., Path]
) -> None:
    """The same weights in shards, and the same config with the published keys, give the same bits."""
    ids = text_ids(variant, 50)
    expected = np.array(model.forward(ids))
    sharded = make_checkpoint(variant.name, "F32", "1MB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    for directory in (sharded, make_checkpoint(variant.name, published=True)):
        other = gemma4.Model.from_pretrained(directory, kv_cache="f32", num_threads=2)
        assert np.array_equal(other.forward(ids), expected)


@pytest.mark.parametrize("kv_cache", ["bf16", "q8_0", "q4_0"])
def test_rounded_cache(variant: Variant, reference: Reference, model: gemma4.Model, kv_cache: str) -> None:
    """A cache rounds keys and values as its format says and does nothing else.

    The reference with the same rounding says what that costs (`effect`). The engine may differ from it where a value
    lies so close to the middle of two steps that float32 noise decides: with noise of 1e-6 and steps of 2^-8 that is
    one value in thousands, and fewer with wider steps, so the difference stays far below the effect itself. Means are
    compared, because a single flipped expert is a step of any size.
    """
    ids = text_ids(variant, LONG)
    exact, rounded = reference.logits(ids), reference.logits_with_rounded_cache(ids, kv_cache)
    ours = prefill(model, ids, kv_cache=kv_cache)
    effect = rms(rounded - exact)
    assert rms(ours - rounded) <= effect / 3
    assert 0.5 * effect <= rms(ours - exact) <= 1.5 * effect


def test_promised_tolerance_is_wider_than_what_is_reached() -> None:
    """The promise leaves room for other machines; these tests ask for more."""
    assert ROUNDING * 10 <= PROMISED
    assert len(VARIANTS) == 4
