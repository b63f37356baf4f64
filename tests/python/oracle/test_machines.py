"""The same numbers whatever computes them: any thread count, any instruction set."""

import os
import subprocess
import sys
from pathlib import Path

import gemma4
import numpy as np
import pytest
from gemma4 import _core

from .engine import prefill, soft_of
from .prompts import Prompt, text_ids
from .reference import Reference
from .tolerance import ROUNDING, assert_close
from .variants import Variant

PROBE = Path(__file__).with_name("isa_probe.py")


def test_thread_counts(variant: Variant, checkpoint: Path, model: gemma4.Model, two_images: Prompt) -> None:
    """Work is cut by rows, never inside a sum: one, two and three threads give the same bits."""
    ids = text_ids(variant, 190)
    text, image = prefill(model, ids), prefill(model, two_images.ids, soft_of(model, two_images))
    tokens = model.generate(ids, max_new_tokens=20, temperature=0, ignore_eos=True).token_ids
    for threads in (1, 3):
        other = gemma4.Model.from_pretrained(checkpoint, kv_cache="f32", num_threads=threads)
        assert np.array_equal(prefill(other, ids), text)
        assert np.array_equal(prefill(other, two_images.ids, soft_of(other, two_images)), image)
        again = other.generate(ids, max_new_tokens=20, temperature=0, ignore_eos=True).token_ids
        assert np.array_equal(again, tokens)


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_instruction_sets(
    variant: Variant, checkpoint: Path, reference: Reference, two_images: Prompt, tmp_path: Path, isa: str
) -> None:
    """Each instruction set against the reference, in a process of its own where it is forced.

    Two sets that are both within ROUNDING of the reference are within twice that of each other.
    """
    if isa not in _core.supported_isas():
        pytest.skip(f"this CPU has no {isa}")
    ids, got = text_ids(variant, 182, seed=8), tmp_path / "logits.npz"
    for i, image in enumerate(two_images.images):
        image.save(tmp_path / f"{i}.png")
    np.savez(tmp_path / "prompt.npz", text=ids, ids=two_images.ids, runs=two_images.runs)
    subprocess.run(
        [sys.executable, str(PROBE), str(checkpoint), str(tmp_path / "prompt.npz"), str(got)],
        check=True,
        timeout=600,
        env={**os.environ, "GEMMA4_ISA": isa},
    )
    with np.load(got) as result:
        assert str(result["isa"]) == isa
        assert_close(result["text"], reference.logits(ids), ROUNDING)
        expected = reference.logits(two_images.ids, two_images.images, two_images.budget)
        assert_close(result["image"], expected, ROUNDING)
        assert result["tokens"].tolist() == reference.greedy(ids, 20)
