"""Weights that hold NaN, infinities or impossible bounds, in every kind of tensor of every shape of the family: refused
when they are bound, or when an answer would come of them; never an endless loop, and never an answer."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from measured import measure

from .prompts import picture, text_ids
from .variants import VARIANTS, Variant

# Rows that one id or one place alone reads.
_SPARSE = ("embed_tokens", "position_embedding_table", "lm_head")


def extents(path: Path) -> dict[str, tuple[int, int]]:
    """(begin, end) of every tensor in the file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {name: tuple(8 + length + at for at in entry["data_offsets"]) for name, entry in header.items()}


def use(directory: Path, ids: Any) -> None:
    """Everything that the model can do."""
    model = gemma4.Model.from_pretrained(directory, num_threads=2)
    if "image" in model.modalities:
        model.encode_image(picture(64, 64), max_soft_tokens=70)
    if "audio" in model.modalities:
        model.encode_audio(np.sin(np.arange(8000, dtype=np.float32)), sampling_rate=16_000)
    model.generate(ids, max_new_tokens=2, temperature=0, ignore_eos=True)
    model.generate(ids, max_new_tokens=2, temperature=1.0, top_k=3, seed=1, ignore_eos=True)


def damage(directory: Path, ids: Any, values: dict[str, float]) -> list[str]:
    """Overwrites one tensor of each kind after the other; returns what went wrong."""
    path = directory / "model.safetensors"
    use(directory, ids)
    wrong, seen = [], set()
    whole = path.read_bytes()
    for name, (begin, end) in extents(path).items():
        kind = re.sub(r"\.\d+\.", ".N.", name)
        if kind in seen:
            continue
        seen.add(kind)
        for label, value in values.items():
            if (label == "inf" and name.endswith("_max")) or (label == "-inf" and name.endswith("_min")):
                continue  # no bound
            filled = np.full((end - begin) // 4, value, np.float32).tobytes()
            path.write_bytes(whole[:begin] + filled + whole[end:])
            try:
                use(directory, ids)
                if not any(part in name for part in _SPARSE) or label == "nan":
                    wrong.append(f"{name} of {label} was not noticed")
            except gemma4.ModelFileError as error:
                vector = end - begin <= 4 or "norm" in name
                if vector and name not in str(error):
                    wrong.append(f"{name} of {label}: {error}")
    path.write_bytes(whole)
    return wrong


# Two shapes have every kind between them: encoders of both kinds, per-layer embeddings, experts. Each takes a minute.
@pytest.mark.parametrize(
    "name", [name if name in ("e2b", "26b-a4b") else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_every_kind_of_tensor(name: str, make_checkpoint: Any, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(make_checkpoint(name), directory)
    variant: Variant = VARIANTS[name]
    outcome = measure(damage, directory, text_ids(variant, 12), {"nan": np.nan, "inf": np.inf})
    assert not outcome.error, outcome
    assert not outcome.result, outcome.result


def test_bounds(make_checkpoint: Any, tmp_path: Path) -> None:
    """A NaN, the wrong order, and infinities that leave nothing; those that mean "no bound" are taken."""
    name = next(name for name, variant in VARIANTS.items() if variant.vision.get("use_clipped_linears"))
    directory = tmp_path / "model"
    shutil.copytree(make_checkpoint(name), directory)
    path = directory / "model.safetensors"
    whole = path.read_bytes()
    bound = next(n for n in extents(path) if n.endswith("input_min"))
    low, high = extents(path)[bound], extents(path)[bound.replace("input_min", "input_max")]

    def load(smallest: float, largest: float) -> gemma4.Model:
        data = bytearray(whole)
        data[slice(*low)], data[slice(*high)] = np.float32(smallest).tobytes(), np.float32(largest).tobytes()
        path.write_bytes(data)
        return gemma4.Model.from_pretrained(directory)

    for smallest, largest in [(np.nan, 1), (-1, np.nan), (2, 1), (np.inf, np.inf), (-np.inf, -np.inf)]:
        with pytest.raises(gemma4.ModelFileError, match=r"input_m(in|ax)\[0\]: expected"):
            load(smallest, largest)
    assert load(-np.inf, np.inf).encode_image(picture(64, 64)).shape[0] > 0
    assert load(-np.inf, 5).encode_image(picture(64, 64)).shape[0] > 0
