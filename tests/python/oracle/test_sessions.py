"""Chunks and single tokens: however a prompt is cut, the logits are those of the whole."""

import gemma4
import numpy as np
import pytest

from .engine import CONTEXT, core_of, prefill, soft_of
from .prompts import Prompt, text_ids
from .reference import Reference
from .tolerance import assert_close
from .variants import Variant

LONG = 190


def _some_chunks(window: int) -> list[int]:
    """One, odd, around the window, around the whole."""
    return [1, 2, 7, window - 1, window, window + 1, 101, LONG - 1]


def test_chunked_prefill(variant: Variant, reference: Reference, model: gemma4.Model) -> None:
    ids = text_ids(variant, LONG, seed=1)
    expected = reference.logits(ids)
    for chunk in _some_chunks(variant.window):
        assert_close(prefill(model, ids, chunk=chunk), expected)


@pytest.mark.slow
def test_every_chunk_size(variant: Variant, reference: Reference, model: gemma4.Model) -> None:
    ids = text_ids(variant, LONG, seed=1)
    expected = reference.logits(ids)
    for chunk in range(1, LONG + 1):
        assert_close(prefill(model, ids, chunk=chunk), expected)


def _expected_with_images(reference: Reference, prompt: Prompt) -> np.ndarray:
    return reference.logits(prompt.ids, prompt.images, prompt.budget)


def test_chunks_never_cut_a_picture(
    variant: Variant, reference: Reference, model: gemma4.Model, two_images: Prompt
) -> None:
    """Chunk ends fall before, inside and behind both runs; where images are bidirectional a run stays whole."""
    soft = soft_of(model, two_images)
    expected = _expected_with_images(reference, two_images)
    (first, end), (second, _) = two_images.runs
    for chunk in (1, 3, first, first + 1, end - 1, end, end + 1, second, second + 2, len(two_images.ids)):
        assert_close(prefill(model, two_images.ids, soft, chunk=chunk), expected)


@pytest.mark.slow
def test_every_chunk_size_with_pictures(
    variant: Variant, reference: Reference, model: gemma4.Model, two_images: Prompt
) -> None:
    soft = soft_of(model, two_images)
    expected = _expected_with_images(reference, two_images)
    for chunk in range(1, len(two_images.ids) + 1):
        assert_close(prefill(model, two_images.ids, soft, chunk=chunk), expected)


@pytest.mark.parametrize("chunk", [5, CONTEXT])
def test_prefill_in_several_calls(variant: Variant, reference: Reference, model: gemma4.Model, chunk: int) -> None:
    ids = text_ids(variant, LONG, seed=2)
    session = core_of(model).sequence(CONTEXT, "f32", chunk)
    parts = [np.array(session.prefill(part, [], "all")) for part in np.split(ids, [1, 20, variant.window + 3, 120])]
    assert session.position == LONG
    assert_close(np.concatenate(parts), reference.logits(ids))


@pytest.mark.parametrize("prefix", [1, 31, 100])
def test_decode_after_prefill(variant: Variant, reference: Reference, model: gemma4.Model, prefix: int) -> None:
    """Past the window, so that the rings of the sliding layers wrap around."""
    ids = text_ids(variant, LONG, seed=3)
    session = core_of(model).sequence(CONTEXT, "f32", 64)
    rows = [np.array(session.prefill(ids[:prefix], [], "last"))[0]]
    rows += [np.array(session.decode(int(token))) for token in ids[prefix:]]
    assert_close(np.stack(rows), reference.logits(ids)[prefix - 1 :])


def test_decode_after_pictures(variant: Variant, reference: Reference, model: gemma4.Model, two_images: Prompt) -> None:
    """The text after the last picture, token by token."""
    prompt, cut = two_images, two_images.runs[-1][1] + 1
    session = core_of(model).sequence(CONTEXT, "f32", 64)
    session.prefill(prompt.ids[:cut], soft_of(model, prompt), "none")
    rows = [np.array(session.decode(int(token))) for token in prompt.ids[cut:]]
    assert_close(np.stack(rows), _expected_with_images(reference, prompt)[cut:])


@pytest.mark.parametrize("kv_cache", ["f32", "bf16"])
def test_prefill_is_decode(variant: Variant, model: gemma4.Model, kv_cache: str) -> None:
    """prefill(n) = n times decode, with the same next token at every position."""
    ids = text_ids(variant, 120, seed=4)
    session = core_of(model).sequence(CONTEXT, kv_cache, CONTEXT)
    stepped = np.stack([np.array(session.decode(int(token))) for token in ids])
    whole = prefill(model, ids, kv_cache=kv_cache)
    if kv_cache == "f32":
        assert_close(stepped, whole)
        assert np.array_equal(stepped.argmax(axis=1), whole.argmax(axis=1))
    else:
        # Rounding to bf16 turns float32 noise into rare steps of 2^-8 (see test_rounded_cache): the typical difference
        # stays small, the largest may not.
        assert float(np.median(np.abs(stepped - whole))) <= 1e-2 * float(np.abs(whole).max())
