"""Quantized safetensors directories: `quant_method: "gemma"` against the reference's own layers, and compressed-tensors
against the weights that its package decompresses.

A product that rounds what it writes to a lattice turns a difference in the last bit into a whole step where a value
lies in the middle between two levels, and everything later in the sequence then differs. The reference meets that, too:
with its sums in float64 it agrees with itself in some of these prompts only. So much is asked of the engine, over
prompts that are short and many; a lattice that is off by a hundredth agrees nowhere. Without lattices nothing jumps,
and everything is compared. What a product over lattices gives is compared exactly in tests/cpp/levels_test.cpp.
"""

import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import gemma4
import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from safetensors.torch import load_file, save_file
from transformers.integrations.gemma_quant import QuantizedLinear, apply_srq
from transformers.models.gemma4.modeling_gemma4 import Gemma4RMSNorm

from .audio_variants import AUDIO_VARIANTS
from .checkpoints import build_model
from .prompts import picture, text_ids
from .quantized_checkpoints import GROUPED, MIXED, MOBILE, ODD, write_compressed, write_gemma_quantized
from .reference import Reference
from .test_audio import AudioReference, sound
from .tolerance import ROUNDING, assert_close, relative_error

LENGTH = 150
PROMPTS = 40  # of ten tokens
SCALES = ("weight_scale", "embedding_scale", "activation_scale")
SMALL = AUDIO_VARIANTS["audio-small"]
# name: variant, bits, tied, calibrated
CASES = {
    "mobile": (SMALL, MOBILE, False, True),
    "mixed": (ODD, MIXED, False, True),
    "uncalibrated": (ODD, MIXED, False, False),
    "tied": (SMALL, MIXED, True, True),
}


class Case:
    """A checkpoint in the reference and in the engine."""

    def __init__(self, directory: Path, name: str) -> None:
        self.variant, bits, tied, self.calibrated = CASES[name]
        self.directory = write_gemma_quantized(directory, self.variant, bits, tied, self.calibrated)
        self.reference = AudioReference(directory)
        self.model = gemma4.Model.from_pretrained(directory, kv_cache="f32", num_threads=2)


@pytest.fixture(scope="module")
def case_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    return cache(lambda name: Case(tmp_path_factory.mktemp(name), name))


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest, case_of: Callable[[str], Case]) -> Case:
    return case_of(request.param)


def agreeing(pairs: Iterable[tuple[ArrayLike, ArrayLike]]) -> float:
    """The share of pairs (got, expected) that are equal but for rounding."""
    return float(np.mean([relative_error(got, expected) <= ROUNDING for got, expected in pairs]))


@contextmanager
def exact_sums() -> Iterator[None]:
    """Within it, the reference adds up in float64 in its quantized linears, its norms and its attention."""

    def forward(self: QuantizedLinear, x: torch.Tensor) -> torch.Tensor:
        x = apply_srq(x, self.input_activation_scale)
        weights = self._dequantize_weights(x.dtype).double()
        out = torch.nn.functional.linear(x.double(), weights).to(x.dtype)
        return apply_srq(out if self.bias is None else out + self.bias, self.output_activation_scale)

    def norm(self: Gemma4RMSNorm, x: torch.Tensor) -> torch.Tensor:
        return plain_norm(self, x.double()).float()

    def softmax(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return plain_softmax(x.double(), dim=kwargs.get("dim", -1)).float()

    plain_norm, plain_softmax = Gemma4RMSNorm._norm, torch.nn.functional.softmax
    with (
        mock.patch.object(QuantizedLinear, "forward", forward),
        mock.patch.object(Gemma4RMSNorm, "_norm", norm),
        mock.patch.object(torch.nn.functional, "softmax", softmax),
    ):
        yield


Compute = Callable[[Any], ArrayLike]


def check_shares(case: Case, ours: Compute, theirs: Compute, what: list[Any]) -> None:
    """The engine agrees with the reference as often as that with itself, but for three standard deviations."""
    expected = [np.array(theirs(one)) for one in what]

    def share_of(compute: Compute) -> float:
        return agreeing((np.array(compute(one)), wanted) for one, wanted in zip(what, expected, strict=True))

    share = share_of(ours)
    if not case.calibrated:
        assert share == 1
        return
    with exact_sums():
        own = share_of(theirs)
    print("agree with the reference: the engine", share, "the reference with exact sums", own)
    deviation = math.sqrt(max(own * (1 - own), 1 / len(what)) / len(what))
    assert share > 0 and share >= own - 3 * deviation


def test_text_without_lattices(case_of: Callable[[str], Case]) -> None:
    case = case_of("uncalibrated")
    ids = text_ids(case.variant, LENGTH, seed=3)
    assert_close(case.model.forward(ids), case.reference.logits(ids))


def test_greedy_without_lattices(case_of: Callable[[str], Case]) -> None:
    case = case_of("uncalibrated")
    ids = text_ids(case.variant, 20, seed=8)
    out = case.model.generate(ids, max_new_tokens=LENGTH, temperature=0, ignore_eos=True)
    assert [int(token) for token in out.token_ids] == case.reference.greedy(ids, LENGTH)


def test_text(case: Case) -> None:
    prompts = [text_ids(case.variant, 10, seed=seed) for seed in range(PROMPTS)]
    check_shares(case, case.model.forward, case.reference.logits, prompts)


def test_pictures(case: Case) -> None:
    images = [picture(5 + seed, 40 - seed, seed=seed) for seed in range(PROMPTS // 2)]

    def ours(image: Any) -> ArrayLike:
        return case.model.encode_image(image, max_soft_tokens=70)

    check_shares(case, ours, lambda image: case.reference.soft_tokens(image, 70, padded=False), images)


def test_sound(case: Case) -> None:
    def ours(samples: int) -> ArrayLike:
        return case.model.encode_audio(sound(samples), sampling_rate=16_000)

    lengths = [1_600 + 173 * index for index in range(PROMPTS // 2)]
    check_shares(case, ours, lambda samples: case.reference.audio_tokens(sound(samples)), lengths)


def test_a_lattice_that_is_off_agrees_nowhere(case_of: Callable[[str], Case], tmp_path: Path) -> None:
    case = case_of("mobile")
    directory = shutil.copytree(case.directory, tmp_path / "off")
    tensors = load_file(directory / "model.safetensors")
    tensors[LAYER + "mlp.up_proj.output_activation_scale"] *= 1.01
    save_file(tensors, directory / "model.safetensors")
    model = gemma4.Model.from_pretrained(directory, kv_cache="f32", num_threads=2)
    prompts = [text_ids(case.variant, 10, seed=seed) for seed in range(PROMPTS)]
    assert agreeing((np.array(model.forward(ids)), case.reference.logits(ids)) for ids in prompts) == 0


# ----------------------------------------------------------------------------------------------------------------------
# compressed-tensors


@pytest.mark.parametrize("group_size", [32, 16, None])
def test_packed_in_groups(tmp_path: Path, group_size: int | None) -> None:
    """The levels and scales in place give what their products give in F32."""
    write_compressed(tmp_path / "packed", tmp_path / "plain", GROUPED, group_size)
    model = gemma4.Model.from_pretrained(tmp_path / "packed", kv_cache="f32", num_threads=2)
    reference = Reference(tmp_path / "plain")
    ids = text_ids(GROUPED, LENGTH, seed=4)
    assert_close(model.forward(ids), reference.logits(ids))
    out = model.generate(ids[:20], max_new_tokens=30, temperature=0, ignore_eos=True)
    assert [int(token) for token in out.token_ids] == reference.greedy(ids[:20], 30)


# ----------------------------------------------------------------------------------------------------------------------
# What else there is to such a checkpoint


def test_tensors(case_of: Callable[[str], Case]) -> None:
    """Packed levels are the bytes of their rows under the file's names, and counted as the numbers that they are."""
    case = case_of("mixed")
    stored = load_file(case.directory / "model.safetensors")
    tensors = case.model.tensors
    assert set(tensors) == set(stored)
    for name, value in stored.items():
        assert np.array_equal(tensors[name].reshape(value.shape), value.numpy()), name
    assert {"I2", "I4", "I8", "F32"} == set(tensors.formats)
    scales = sum(value.numel() for name, value in stored.items() if name.endswith(SCALES))
    assert tensors.parameters - scales == sum(
        value.numel() for name, value in build_model(case.variant, tied=False).state_dict().items()
    )


def test_other_formats_are_refused(case_of: Callable[[str], Case], tmp_path: Path) -> None:
    directory = case_of("mobile").directory
    with pytest.raises(gemma4.RequestError, match="dtype: 'q8_0' asked of a checkpoint that is quantized already"):
        gemma4.Model.from_pretrained(directory, dtype="q8_0")
    with pytest.raises(gemma4.ModelFileError, match="quantized already cannot be written as GGUF"):
        gemma4.convert(directory, tmp_path / "out.gguf", dtype="q8_0")


Change = Callable[[dict[str, torch.Tensor]], None]
LAYER = "model.language_model.layers.3."


def _set(name: str, value: float) -> Change:
    return lambda tensors: tensors[name].view(-1)[-1:].fill_(value)


def _without(name: str) -> Change:
    return lambda tensors: tensors.pop(name)


def _cut(name: str) -> Change:
    return lambda tensors: tensors.update({name: tensors[name][:, :-1].contiguous()})


DAMAGES: dict[str, tuple[Change, str]] = {
    "scale nan": (
        _set(LAYER + "mlp.up_proj.weight_scale", float("nan")),
        "mlp.up_proj.weight_scale.*expected 0 or",
    ),
    "scale negative": (
        _set(LAYER + "self_attn.q_proj.weight_scale", -0.5),
        "q_proj.weight_scale.*expected 0 or",
    ),
    "embedding scale": (
        _set("model.language_model.embed_tokens_per_layer.embedding_scale", float("inf")),
        r"embed_tokens_per_layer.embedding_scale\[2050\]: expected 0 or a positive",
    ),
    "step nan": (
        _set(LAYER + "mlp.up_proj.input_activation_scale", float("nan")),
        "input_activation_scale.*expected a finite",
    ),
    "step negative": (
        _set("lm_head.output_activation_scale", -1.0),
        "lm_head.output_activation_scale.*expected 0 or",
    ),
    "no scale": (_without(LAYER + "mlp.up_proj.weight_scale"), "mlp.up_proj.weight: expected"),
    "no table scale": (
        _without("model.language_model.embed_tokens.embedding_scale"),
        r"1 missing: model.language_model.embed_tokens.embedding_scale \(2051, …\)",
    ),
    "no levels": (_without("lm_head.weight"), "1 missing: lm_head.weight"),
    "short rows": (_cut(LAYER + "mlp.up_proj.weight"), r"expected quants of 2, 4 or 8 bits for \(101, 75\), found U8"),
    "bytes as a norm": (
        lambda tensors: tensors.update({LAYER + "input_layernorm.weight": torch.zeros(75, dtype=torch.uint8)}),
        "input_layernorm.weight: expected values, found U8",
    ),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damaged_levels_are_refused(case_of: Callable[[str], Case], tmp_path: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    directory = shutil.copytree(case_of("mixed").directory, tmp_path / "damaged")
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(gemma4.ModelFileError, match=message):
        gemma4.Model.from_pretrained(directory)


def test_scales_of_a_quantized_cache_are_not_read(case_of: Callable[[str], Case], tmp_path: Path) -> None:
    """Published files carry them; the reference passes over them too."""
    case = case_of("uncalibrated")
    directory = shutil.copytree(case.directory, tmp_path / "cache")
    tensors = load_file(directory / "model.safetensors")
    tensors.update({LAYER + f"self_attn.{kind}_cache_scale": torch.tensor(0.1) for kind in "kv"})
    save_file(tensors, directory / "model.safetensors")
    ids = text_ids(case.variant, 9)
    other = gemma4.Model.from_pretrained(directory, kv_cache="f32", num_threads=2)
    assert np.array_equal(other.forward(ids), np.array(case.model.forward(ids)))
