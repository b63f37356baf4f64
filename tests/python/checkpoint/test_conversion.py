"""`gemma4.convert`: every format, the recipe, streaming, and what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import _core
from gemma4.checkpoint import open_gguf, resolve, safetensors
from gemma4.checkpoint.conversion import DTYPES, Conversion, convert
from gemma4.checkpoint.recipe import stored_as
from gemma4.config import parse_config
from gemma4.errors import ModelFileError, RequestError
from gemma4.gguf import TYPES, read_gguf
from gemma4.gguf.writer import PlannedTensor, write_gguf
from gemma4.jsonfile import read_json

DEMO = resolve("demo")
CONFIG = read_json(DEMO / "config.json")
IDS = np.random.default_rng(0).integers(300, 1600, 48).astype(np.int32)


def logits(path: Path | str) -> np.ndarray[Any, Any]:
    model = gemma4.Model.from_pretrained(path, kv_cache="f32", num_threads=1)
    return np.array(model.forward(IDS), np.float64)


def error(got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Root mean square of the difference over that of the expected logits."""
    return float(np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2)))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Conversion]:
    """The bundled checkpoint in every format."""
    folder = tmp_path_factory.mktemp("formats")
    return {dtype: convert("demo", folder / f"{dtype}.gguf", dtype, progress=False) for dtype in DTYPES}


def dequantized(source: Path, target: Path) -> Path:
    """The same numbers, every tensor as F32."""
    file = read_gguf(source)
    data = np.fromfile(source, np.uint8)[file.data_start :]
    plans = []
    for name, tensor in file.tensors.items():
        kind = TYPES[tensor.dtype]
        row = tensor.shape[-1] // kind.block_elems * kind.block_bytes
        values = _core.decode(tensor.dtype, data[tensor.begin : tensor.end].reshape(-1, row))
        plans.append(PlannedTensor(name, "F32", tensor.shape, lambda values=values: iter([values])))
    keys = {key: np.int64(value) if type(value) is int else value for key, value in file.metadata.items()}
    write_gguf(target, keys, plans)
    return target


# -- every format ------------------------------------------------------------------------------------------------------


def test_sixteen_and_thirty_two_bits_lose_nothing(converted: dict[str, Conversion]) -> None:
    """The checkpoint is BF16, which F32 holds; F16 holds most of it."""
    expected = logits("demo")
    assert np.array_equal(logits(converted["bf16"].path), expected)
    assert error(logits(converted["f32"].path), expected) < 1e-6
    assert error(logits(converted["f16"].path), expected) < 1e-3


QUANTIZED = ("q8_0", "q6_k", "q5_k", "q4_k", "q4_0")


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_quantized_logits(dtype: str, converted: dict[str, Conversion], tmp_path: Path) -> None:
    """Equal to the dequantized computation within the rounding of int8 activations."""
    path = converted[dtype].path
    assert error(logits(path), logits(dequantized(path, tmp_path / "f32.gguf"))) < 0.03


def test_fewer_bits_lose_more(converted: dict[str, Conversion]) -> None:
    """How much so small a model loses changes when it is trained again; that each bit less costs more does not. With
    six bits and more it is mostly the activations, rounded to int8, that cost."""
    expected = logits("demo")
    lost = [error(logits(converted[dtype].path), expected) for dtype in QUANTIZED]
    assert max(lost[:2]) < lost[2] < lost[3] < lost[4], lost
    assert max(lost[:2]) < 0.1 and lost[-1] < 0.6, lost  # other weights: 1 and more


def test_files_shrink_with_their_format(converted: dict[str, Conversion]) -> None:
    sizes = [converted[dtype].path.stat().st_size for dtype in ("f32", "bf16", "q8_0", "q4_0")]
    assert sizes == sorted(sizes, reverse=True)
    assert converted["f16"].path.stat().st_size == converted["bf16"].path.stat().st_size


@pytest.mark.parametrize("dtype", ["q4_0", "f32"])
def test_quantizing_while_loading_is_converting(dtype: str, converted: dict[str, Conversion]) -> None:
    """Except for the table of per-layer embeddings, which stays as it is in its file."""
    model = gemma4.Model.from_pretrained("demo", dtype=dtype, kv_cache="f32", num_threads=1)
    assert ("Q4_0" in model.tensors.formats) == (dtype == "q4_0")
    file = open_gguf(converted[dtype].path).tensors()
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    assert np.array_equal(model.tensors[name], file.array(name))
    got = np.array(model.forward(IDS), np.float64)
    assert error(got, logits(converted[dtype].path)) < (0.1 if dtype == "q4_0" else 1e-6)


# -- the encoders ------------------------------------------------------------------------------------------------------

COLOURS = np.random.default_rng(1).integers(0, 256, (7, 10, 3), np.uint8)
SOUND = np.random.default_rng(2).normal(0, 0.1, 24_000).astype(np.float32)


def soft_tokens(path: Path | str, mmproj: Path | None = None, dtype: str = "auto") -> dict[str, np.ndarray[Any, Any]]:
    """Of a picture of exactly 70 soft tokens and, from a model that hears, of a second and a half of sound."""
    model = gemma4.Model.from_pretrained(path, mmproj=mmproj, dtype=dtype, num_threads=2)
    vision = CONFIG["vision_config"]
    cell = vision["patch_size"] * vision["pooling_kernel_size"]
    found = {"vision": model.encode_image(COLOURS.repeat(cell, 0).repeat(cell, 1), max_soft_tokens=70)}
    if "audio" in model.modalities:
        found["audio"] = model.encode_audio(SOUND)
    return found


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    """The bundled checkpoint with its encoders as the recipe stores them."""
    folder = tmp_path_factory.mktemp("encoders")
    return convert("demo", folder / "demo.gguf", "q4_0", mmproj=folder / "mmproj.gguf", progress=False)


def rounding_cost(part: str) -> float:
    """Twice what rounding costs an encoder: that of 32 normal values to int8 is 2.1 / 127 / sqrt(12) = 0.005 of their
    root mean square. A layer rounds what it reads at most ten times (the audio encoder's), all independently."""
    return float(2 * 0.005 * (10 * CONFIG[f"{part}_config"]["num_hidden_layers"]) ** 0.5)


def test_encoders_in_8_bits(rounded: Conversion) -> None:
    """Near the same weights in f32."""
    assert rounded.tensors["v.blk.0.ffn_up.weight"] == rounded.tensors["mm.input_projection.weight"] == "Q8_0"
    got, exact = (soft_tokens(rounded.path, rounded.mmproj, dtype) for dtype in ("auto", "f32"))
    checkpoint = soft_tokens("demo")
    for part, tokens in got.items():
        bound = rounding_cost(part)
        assert 1e-4 < error(tokens, exact[part]) < bound
        assert 1e-4 < error(exact[part], checkpoint[part]) < bound


def test_encoders_quantized_while_loading(rounded: Conversion) -> None:
    """The same as from a file, whose small tensors are in f32: of those for sound some differ in a last bit, after
    which values may be rounded the other way. 16-bit formats leave the encoders alone."""
    got, expected = soft_tokens("demo", dtype="q8_0"), soft_tokens(rounded.path, rounded.mmproj)
    same, checkpoint = soft_tokens("demo", dtype="bf16"), soft_tokens("demo")
    for part, tokens in got.items():
        assert error(tokens, expected[part]) < (1e-6 if part == "vision" else rounding_cost(part) / 2)
        assert np.array_equal(same[part], checkpoint[part])


# -- the recipe --------------------------------------------------------------------------------------------------------


def parsed(**changes: Any) -> Any:
    text = {**CONFIG["text_config"], **changes}
    return parse_config({**CONFIG, "text_config": text})


@pytest.mark.parametrize(
    ("name", "cols", "kind", "expected"),
    [
        ("blk.0.ffn_up.weight", 256, "Q4_0", "Q4_0"),
        ("blk.0.ffn_up.weight", 256, "Q4_K", "Q4_K"),
        ("blk.0.ffn_up.weight", 128, "Q4_K", "Q4_0"),  # rows of 704, as the experts of 26B-A4B have
        ("blk.0.ffn_up.weight", 128, "Q5_K", "Q8_0"),
        ("blk.0.ffn_up.weight", 40, "Q4_0", "BF16"),
        ("blk.0.ffn_up.weight", 40, "Q4_K", "BF16"),
        ("blk.0.ffn_up.weight", 40, "F32", "F32"),
        ("token_embd.weight", 256, "Q4_0", "Q6_K"),
        ("token_embd.weight", 128, "Q4_0", "Q8_0"),
        ("token_embd.weight", 256, "Q6_K", "Q8_0"),
        ("output.weight", 256, "Q4_K", "Q6_K"),
        ("per_layer_token_embd.weight", 256, "Q4_0", "Q6_K"),
        ("per_layer_model_proj.weight", 256, "Q4_0", "Q8_0"),
        ("blk.3.inp_gate.weight", 256, "Q4_0", "Q8_0"),
        ("blk.3.proj.weight", 256, "Q4_0", "Q8_0"),
        ("blk.3.attn_k.weight", 256, "Q4_0", "Q4_0"),
        ("blk.0.ffn_gate_inp.weight", 256, "Q4_0", "F32"),
        ("blk.0.ffn_gate_inp.weight", 256, "BF16", "F32"),
        ("v.blk.0.ffn_up.weight", 256, "Q4_0", "Q8_0"),
        ("v.blk.0.ffn_up.weight", 40, "Q4_K", "BF16"),
        ("v.blk.0.ffn_up.weight", 256, "BF16", "BF16"),
        ("mm.input_projection.weight", 256, "Q6_K", "Q8_0"),
        ("v.blk.0.ffn_up.weight", 256, "F16", "F16"),
        ("v.position_embd.weight", 256, "Q4_0", "F32"),
        ("a.conv1d.0.weight", 256, "Q4_0", "F32"),
        ("a.blk.0.conv_dw.weight", 5, "BF16", "F32"),
    ],
)
def test_recipe(name: str, cols: int, kind: str, expected: str) -> None:
    assert stored_as(name, (8, cols), "BF16", kind, parsed()) == expected
    assert stored_as(name.replace(".weight", "_norm.weight"), (cols,), "BF16", kind, parsed()) == "F32"


def test_keys_that_are_values_too_are_kept() -> None:
    shared = parsed(attention_k_eq_v=True)
    assert stored_as("blk.3.attn_k.weight", (8, 256), "BF16", "Q4_0", shared) == "Q8_0"  # global
    assert stored_as("blk.0.attn_k.weight", (8, 256), "BF16", "Q4_0", shared) == "Q4_0"  # sliding


def test_what_is_written_is_what_is_said(converted: dict[str, Conversion]) -> None:
    done = converted["q4_0"]
    assert {name: tensor.dtype for name, tensor in read_gguf(done.path).tensors.items()} == done.tensors
    assert done.tensors["blk.0.ffn_up.weight"] == "Q4_0" and done.tensors["blk.0.attn_norm.weight"] == "F32"
    assert any("encoders are left out" in note for note in done.notes)


# -- the command and its arguments -------------------------------------------------------------------------------------


def test_refuses_arguments(tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    for arguments, expected in (
        ({"dtype": "q5_1"}, "dtype: expected one of f32, bf16"),
        ({"dtype": "Q4_0"}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"out": tmp_path / "x.bin"}, "ending in .gguf"),
        ({"out": tmp_path / "none" / "x.gguf"}, "existing directory"),
        ({"out": 3}, "out: expected a path"),
        ({"mmproj": tmp_path / "y"}, "mmproj"),
        ({"num_threads": 0}, "num_threads"),
    ):
        with pytest.raises(RequestError, match=expected):
            convert(**{"source": "demo", "out": out, **arguments})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_broken_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    source = Path(shutil.copytree(DEMO, tmp_path / "source"))
    with (source / "model.safetensors").open("r+b") as file:
        file.truncate(source.joinpath("model.safetensors").stat().st_size - 1)
    with pytest.raises(ModelFileError, match="missing"):
        convert(source, tmp_path / "x.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_gguf_cannot_express(tmp_path: Path) -> None:
    source = Path(shutil.copytree(DEMO, tmp_path / "source"))
    rope = {**CONFIG["text_config"]["rope_parameters"]}
    rope["sliding_attention"] = {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 10_000.0}
    text = {**CONFIG["text_config"], "rope_parameters": rope}
    (source / "config.json").write_text(json.dumps({**CONFIG, "text_config": text}))
    with pytest.raises(ModelFileError, match="sliding_attention: GGUF can only express"):
        convert(source, tmp_path / "x.gguf", progress=False)
    (source / "config.json").write_text(json.dumps(CONFIG))
    (source / "tokenizer.json").unlink()
    with pytest.raises(ModelFileError, match=r"tokenizer\.json: does not exist"):
        convert(source, tmp_path / "x.gguf", progress=False)


def test_a_value_too_large_for_f16(tmp_path: Path) -> None:
    from gemma4.checkpoint.recipe import encode

    values = np.array([[1.0, 70_000.0]], np.float32)
    with pytest.raises(ModelFileError, match="tensor t: a value does not fit F16"):
        encode(values, "F16", "t")
    assert encode(values, "BF16", "t").nbytes == 4


def test_command_line(tmp_path: Path) -> None:
    from gemma4.command import cli
    from typer.testing import CliRunner

    out, mmproj = tmp_path / "a.gguf", tmp_path / "b.gguf"
    result = CliRunner().invoke(
        cli.app, ["convert", "demo", str(out), "--dtype", "q8_0", "--mmproj", str(mmproj), "--json"]
    )
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert [item["path"] for item in facts["files"]] == [str(out), str(mmproj)]
    assert facts["tensors"]["blk.0.ffn_up.weight"] == "Q8_0"
    shown = CliRunner().invoke(cli.app, ["info", "--json", "--model", str(out), "--mmproj", str(mmproj)])
    assert json.loads(shown.stdout)["model"]["formats"][0] == "Q8_0"
    wrong = CliRunner().invoke(cli.app, ["convert", "demo", str(out), "--dtype", "q3"])
    assert wrong.exit_code == 1 and "expected one of" in wrong.stderr


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """A checkpoint of 250 MB converts in the memory of a few slices."""
    source = Path(shutil.copytree(DEMO, tmp_path / "source"))
    size = _widen(source, 40_000)
    code = f"""
import resource, gemma4, gemma4.checkpoint.conversion
gemma4.convert("demo", {str(tmp_path / "demo.gguf")!r}, "q8_0", num_threads=2, progress=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
gemma4.convert({str(source)!r}, {str(tmp_path / "x.gguf")!r}, "q8_0", num_threads=2, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown = int(done.stdout) * 1024
    assert grown < 150_000_000 < size


def _widen(source: Path, width: int) -> int:
    """Give every layer an MLP of so many channels, or twice as many; returns the bytes of the weights."""
    path = source / "model.safetensors"
    header, start = safetensors.read_header(path)
    data = path.read_bytes()[start:]
    header.pop("__metadata__", None)
    layers = parsed(intermediate_size=width).core.text.layers
    blocks, offset = [], 0
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        block = data[begin:end]
        if ".mlp." in name and "language_model" in name:
            ffn = layers[int(name.split(".layers.")[1].split(".")[0])].ffn
            entry["shape"] = [ffn if size > 128 else size for size in entry["shape"]]
            block = np.tile(np.frombuffer(block, np.uint16), 1 + 2 * ffn // 192)[
                : int(np.prod(entry["shape"]))
            ].tobytes()
        entry["data_offsets"] = [offset, offset + len(block)]
        offset += len(block)
        blocks.append(block)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blocks))
    config = read_json(source / "config.json")
    config["text_config"]["intermediate_size"] = width
    (source / "config.json").write_text(json.dumps(config))
    return offset
