"""A checkpoint trained for Q4_0, published as 16-bit numbers, becomes what gguf-py's own quantizer wrote."""

import json
import shutil
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
import torch
from gemma4 import _core
from gemma4.checkpoint import resolve
from gemma4.checkpoint.conversion import convert
from gemma4.gguf import read_gguf
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

Bytes = NDArray[np.uint8]
KINDS = {"Q4_0": GGMLQuantizationType.Q4_0, "Q8_0": GGMLQuantizationType.Q8_0, "Q5_0": GGMLQuantizationType.Q5_0}
STORES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
GEMMA = Path(str(resolve("demo")))


def tool(kind: str, values: NDArray[np.float32]) -> Bytes:
    return np.asarray(quants.quantize(values, KINDS[kind]))


def untool(kind: str, blocks: Bytes) -> NDArray[np.float32]:
    return np.asarray(quants.dequantize(blocks, KINDS[kind]))


def rounded(values: NDArray[np.float32], store: str) -> NDArray[np.float32]:
    return torch.from_numpy(values).to(STORES[store]).float().numpy()


def weights(rows: int, cols: int, seed: int = 0, scale: float = 0.04) -> NDArray[np.float32]:
    """Normal ones, some rows heavy-tailed, some tiny, some blocks zero."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, scale, (rows, cols)) * rng.choice([1, 1, 1e-3, 30], (rows, 1))
    values[::5] = rng.standard_t(3, values[::5].shape) * scale
    values[1, :32] = 0
    return values.astype(np.float32)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_gguf_py(kind: str, store: str) -> None:
    """Every value comes back. So do scale and levels: all in f32; in 16 bits where only one scale would do, and where
    gguf-py's quantizer gives the values back, as it would write them."""
    theirs = tool(kind, weights(60, 32 * 11))
    values = rounded(untool(kind, theirs), store)
    ours = _core.encode(kind, values)
    assert np.array_equal(rounded(_core.decode(kind, ours), store), values)
    assert np.array_equal(rounded(untool(kind, ours), store), values)
    size = theirs.shape[1] // 11
    blocks, expected = ours.reshape(-1, size), theirs.reshape(-1, size)
    same = (blocks == expected).all(1)
    if store == "F32":
        assert same[np.abs(values.reshape(-1, 32)).max(1) > 0].all()
    again = tool(kind, values)
    lossless = (rounded(untool(kind, again), store) == values).reshape(-1, 32).all(1)
    lossless &= np.abs(values.reshape(-1, 32)).max(1) > 0
    assert lossless.sum() > 10 and (blocks == again.reshape(-1, size))[lossless].all()
    if kind == "Q4_0":
        alone = [i for i in range(len(blocks)) if fitting_scales(values.reshape(-1, 32)[i], expected[i], store) == 1]
        assert len(alone) > 10 and same[alone].all()
        levels = (blocks[:, 2:] == expected[:, 2:]).all(1)
        assert levels[np.abs(values.reshape(-1, 32)).max(1) > 0].all()


def fitting_scales(values: NDArray[np.float32], block: Bytes, store: str) -> int:
    """How many halves give the values of a Q4_0 block with its levels, by trying those around its own."""
    levels = untool("Q4_0", np.concatenate([np.array([1], np.float16).view(np.uint8), block[2:]])[None])[0]
    around = int(block[:2].view(np.uint16)[0]) + np.arange(-24, 25)
    halves = around.astype(np.uint16).view(np.float16).astype(np.float32)
    return int((rounded(halves[:, None] * levels, store) == values).all(1).sum())


@pytest.mark.parametrize("top", range(1, 8))
def test_blocks_without_the_extreme_level(top: int) -> None:
    """A quantizer of another kind: bf16 scales, levels from -top to top."""
    rng = np.random.default_rng(top)
    scales = rounded(np.exp(rng.normal(-4, 1, (300, 1))).astype(np.float32), "BF16")
    values = rounded(scales * rng.integers(-top, top + 1, (300, 32)).astype(np.float32), "BF16")
    assert np.array_equal(rounded(_core.decode("Q4_0", _core.encode("Q4_0", values)), "BF16"), values)
    assert np.array_equal(rounded(_core.decode("Q8_0", _core.encode("Q8_0", values)), "BF16"), values)


def test_other_blocks_are_fitted_as_before() -> None:
    """One value beside the lattice, and there is none: the squared error is below that of plain rounding."""
    values = rounded(untool("Q4_0", tool("Q4_0", weights(20, 320))), "BF16").reshape(-1, 32)
    values = values[np.abs(values).max(1) > 0]
    values[:, 5] = rounded(values[:, 5] + 0.3 * np.abs(values).max(1) / 8, "BF16")
    ours, plain = _core.decode("Q4_0", _core.encode("Q4_0", values)), untool("Q4_0", tool("Q4_0", values))
    assert (ours != values).any()
    assert ((ours - values) ** 2).sum() < ((plain - values) ** 2).sum()


# -- whole checkpoints -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled checkpoint as if it were trained for Q4_0: every large matrix goes through gguf-py, and is bf16."""
    directory = Path(shutil.copytree(GEMMA, tmp_path_factory.mktemp("trained") / "qat"))
    tensors = load_file(directory / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and tensor.shape[-1] % 32 == 0:
            values = untool("Q4_0", tool("Q4_0", tensor.float().numpy()))
            tensors[name] = torch.from_numpy(values).to(torch.bfloat16)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


def values_of(path: Path, name: str) -> tuple[str, NDArray[np.float32]]:
    """The format of a tensor in a GGUF file, and its values as gguf-py decodes them."""
    file = read_gguf(path)
    found = file.tensors[name]
    data = np.fromfile(path, np.uint8)[file.data_start + found.begin : file.data_start + found.end]
    return found.dtype, untool(found.dtype, data.reshape(found.shape[0], -1))


def test_convert_gives_the_lattice_back(trained: Path, tmp_path: Path) -> None:
    done = convert(trained, tmp_path / "q.gguf", "q4_0", mmproj=tmp_path / "m.gguf", progress=False)
    tensors = load_file(trained / "model.safetensors")
    matrices = {name for name, dtype in done.tensors.items() if dtype in ("Q4_0", "Q8_0")}
    assert set(done.exact) == matrices and done.tensors["token_embd.weight"] == "Q4_0"
    theirs = {
        "blk.0.ffn_up.weight": "layers.0.mlp.up_proj.weight",
        "token_embd.weight": "embed_tokens.weight",
        "blk.1.inp_gate.weight": "layers.1.per_layer_input_gate.weight",
    }
    for name, ours in theirs.items():
        dtype, values = values_of(done.path, name)
        expected = tensors[f"model.language_model.{ours}"].float().numpy()
        assert dtype == ("Q8_0" if "inp_gate" in name else "Q4_0")
        assert np.array_equal(rounded(values, "BF16"), expected)


def test_loading_gives_the_lattice_back(trained: Path) -> None:
    model = gemma4.Model.from_pretrained(trained, dtype="q4_0", num_threads=1)
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    expected = load_file(trained / "model.safetensors")[name].float().numpy()
    assert np.array_equal(rounded(untool("Q4_0", np.asarray(model.tensors[name])), "BF16"), expected)
    assert set(model.tensors.formats) == {"Q4_0", "Q8_0", "BF16"}


def test_other_checkpoints_are_not_exact(tmp_path: Path) -> None:
    done = convert("demo", tmp_path / "q.gguf", "q4_0", progress=False)
    assert done.exact == () and done.tensors["token_embd.weight"] != "Q4_0"
    assert convert("demo", tmp_path / "b.gguf", "bf16", progress=False).exact == ()


def test_the_command_says_what_it_wrote(trained: Path, tmp_path: Path) -> None:
    from gemma4.command.cli import app

    arguments: list[Any] = ["convert", trained, tmp_path / "q.gguf", "--mmproj", tmp_path / "m.gguf"]
    said = CliRunner().invoke(app, [str(argument) for argument in arguments])
    text, encoders, exact = said.stdout.splitlines()
    assert said.exit_code == 0 and "q.gguf" in text and " MB  " in text and " Q4_0, " in text and " F32" in text
    assert "m.gguf" in encoders and " Q8_0" in encoders and " Q4_0" not in encoders
    assert exact.startswith("quantized without a loss, from weights on a lattice: ")
    again = CliRunner().invoke(app, [*(str(argument) for argument in arguments), "--json"])
    facts = json.loads(again.stdout)
    assert set(facts) == {"files", "tensors", "exact", "notes"} and "blk.0.ffn_up.weight" in facts["exact"]
