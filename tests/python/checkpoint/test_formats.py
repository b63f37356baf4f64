"""Block formats of GGUF against gguf-py, llama.cpp's own Python package: what bytes mean, and files that it writes."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gemma4
import gguf
import gguf.quants
import numpy as np
import pytest
from gemma4 import _core
from gemma4.checkpoint.conversion import convert
from gemma4.errors import RequestError
from gemma4.gguf import TYPES
from make_model import RandomModel
from numpy.typing import NDArray

BLOCKS = {name: kind for name, kind in TYPES.items() if kind.block_elems > 1}
ONLY_READ = ("Q4_1", "Q2_K", "Q3_K", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "MXFP4")
# Where a block has its f16 numbers.
HALVES = {
    **dict.fromkeys(BLOCKS, (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "MXFP4": ()},
}
Bytes = NDArray[np.uint8]


def gguf_type(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name]


def random_blocks(name: str, count: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (count, BLOCKS[name].block_bytes), np.uint8)


def put_halves(name: str, blocks: Bytes, *values: NDArray[np.float16]) -> None:
    for at, numbers in zip(HALVES[name], values, strict=False):
        blocks[..., at : at + 2] = numbers.astype("<f2")[..., None].view(np.uint8)


def same_bits(got: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """NaN for NaN, whichever."""
    numbers = ~np.isnan(expected)
    bits = [values.view(np.uint32)[numbers] for values in (got, expected)]
    return got.shape == expected.shape and np.array_equal(np.isnan(got), ~numbers) and np.array_equal(*bits)


def test_the_table_is_that_of_gguf_py() -> None:
    for kind in TYPES.values():
        assert gguf_type(kind.name).value == kind.id
        assert (kind.block_elems, kind.block_bytes) == gguf.GGML_QUANT_SIZES[gguf_type(kind.name)]
    assert set(ONLY_READ) < set(BLOCKS)


@pytest.mark.parametrize("name", BLOCKS)
def test_decodes_any_bytes_to_the_bit(name: str) -> None:
    """Every code, entry of a grid, scale and sign is among so many random blocks."""
    blocks = random_blocks(name, 4096)
    with np.errstate(all="ignore"):
        assert same_bits(_core.decode(name, blocks), gguf.quants.dequantize(blocks, gguf_type(name)))


@pytest.mark.parametrize("name", BLOCKS)
def test_decodes_every_scale_to_the_bit(name: str) -> None:
    """Each of the 65,536 halves, subnormal, negative, infinite and not a number, or each byte of an exponent."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for part in np.array_split(every, BLOCKS[name].block_elems // 32):  # as many elements in each step
        blocks = random_blocks(name, len(part), 1)
        if name == "MXFP4":
            blocks[:, 0] = np.arange(len(part)) % 256
        put_halves(name, blocks, part, part[::-1])
        with np.errstate(all="ignore"):
            assert same_bits(_core.decode(name, blocks), gguf.quants.dequantize(blocks, gguf_type(name)))


@pytest.mark.parametrize("name", ONLY_READ)
def test_what_is_only_read_is_not_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"nothing can be written in {name}"):
        _core.encode(name, np.zeros((1, 256), np.float32))
    with pytest.raises(RequestError, match="dtype: expected one of"):
        convert("demo", tmp_path / "a.gguf", name.lower())


# -- whole files -------------------------------------------------------------------------------------------------------

IDS = np.random.default_rng(0).integers(300, 1600, 24).astype(np.int32)
KEPT = re.compile(r".*(norm|inp_gate|[^v]\.proj|patch_embd|position_embd|conv1d|conv_dw|a\.input_projection).*")


def matrix_of(name: str, original: NDArray[np.float32], seed: int) -> Bytes:
    """Random blocks whose values have the spread of a matrix: (..., bytes of a row)."""
    kind = BLOCKS[name]
    blocks = random_blocks(name, original.size // kind.block_elems, seed)
    one = np.ones(len(blocks), np.float16)
    if name == "MXFP4":
        blocks[:, 0] = 128
    put_halves(name, blocks, one, one)
    spread = original.std() / gguf.quants.dequantize(blocks, gguf_type(name)).std()
    if name == "MXFP4":
        blocks[:, 0] = 128 + round(np.log2(spread))
    put_halves(name, blocks, one * spread, one * spread)
    return blocks.reshape(*original.shape[:-1], -1)


def rewritten(source: Path, target: Path, matrix: Any) -> None:
    """A file as gguf-py writes it: `matrix(name, values, number)` gives each matrix bytes and a type, or None."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], sub)
    for number, tensor in enumerate(reader.tensors):
        made = None if tensor.data.ndim < 2 or KEPT.fullmatch(tensor.name) else matrix(tensor.data, number)
        data, kind = made or (tensor.data, None)
        writer.add_tensor(tensor.name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def in_formats(names: Sequence[str], source: Path, folder: Path) -> tuple[Path, Path]:
    """A file of matrices in these formats in turn, or IQ4_NL where rows do not fit, as llama.cpp has it; and in f32."""

    def stored(values: NDArray[np.float32], number: int) -> tuple[Bytes, gguf.GGMLQuantizationType] | None:
        kind = names[number % len(names)]
        kind = kind if values.shape[-1] % BLOCKS[kind].block_elems == 0 else "IQ4_NL"
        if values.shape[-1] % BLOCKS[kind].block_elems:
            return None
        return matrix_of(kind, values, number), gguf_type(kind)

    def decoded(values: NDArray[np.float32], number: int) -> tuple[NDArray[np.float32], None] | None:
        made = stored(values, number)
        return None if made is None else (gguf.quants.dequantize(*made), None)

    paths = folder / f"{source.stem}-{names[0]}.gguf", folder / f"{source.stem}-{names[0]}-f32.gguf"
    rewritten(source, paths[0], stored)
    rewritten(source, paths[1], decoded)
    return paths


def logits(path: Path | str, **options: Any) -> NDArray[np.float64]:
    model = gemma4.Model.from_pretrained(path, kv_cache="f32", num_threads=2, **options)
    return np.array(model.forward(IDS), np.float64)


def error(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Root mean square of the difference over that of the expected values."""
    return float(np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2)))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The mechanisms of E2B (per-layer embeddings, shared keys) and of 26B-A4B: rows of 256, but those of experts."""
    folder = tmp_path_factory.mktemp("models")
    paths = {name: folder / f"{name}.gguf" for name in ("e2b", "26b-a4b")}
    for name, path in paths.items():
        RandomModel(name, small=True).write(path, "f32")
    return paths


def check_file(names: Sequence[str], source: Path, folder: Path) -> None:
    """A file that gguf-py wrote computes what its numbers, as gguf-py decodes them, compute in f32, but for activations
    that are rounded to int8: a few hundredths of the logits of these models. Where that sends a token to another
    expert, its logits are others; so the token in the middle is judged."""
    stored, decoded = in_formats(names, source, folder)
    assert set(names) <= set(gemma4.Model.from_pretrained(stored).tensors.formats)
    exact = logits(decoded)
    errors = [error(a, b) for a, b in zip(logits(stored), exact, strict=True)]
    assert np.median(errors) < 0.06
    # As any file, it can be given another format while it is loaded: its numbers, not its bytes, are what is rounded.
    assert error(logits(stored, dtype="f32"), exact) < 1e-6


@pytest.mark.parametrize("model", ["e2b", "26b-a4b"])
def test_a_file_of_all_formats(model: str, models: dict[str, Path], tmp_path: Path) -> None:
    check_file(ONLY_READ, models[model], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["e2b", "26b-a4b"])
@pytest.mark.parametrize("name", ONLY_READ)
def test_a_file_of_one_format(name: str, model: str, models: dict[str, Path], tmp_path: Path) -> None:
    check_file([name], models[model], tmp_path)


def test_encoders(tmp_path: Path) -> None:
    """In formats that fit the rows of the bundled ones. What random matrices make of activations that are rounded to
    int8 changes with the norms between them, so with every training: some hundredths. A wrong code would be as far as
    the values themselves; that kernels are right to the bit is tested for each of them."""
    done = convert("demo", tmp_path / "text.gguf", "f32", tmp_path / "mmproj.gguf", progress=False)
    assert done.mmproj is not None
    picture = np.random.default_rng(3).integers(0, 256, (96, 160, 3), np.uint8)
    sound = np.random.default_rng(4).normal(0, 0.1, 20_000).astype(np.float32)
    soft = []
    for mmproj in in_formats(("Q4_1", "IQ4_NL", "MXFP4"), done.mmproj, tmp_path):
        model = gemma4.Model.from_pretrained(done.path, mmproj=mmproj, num_threads=2)
        soft.append((model.encode_image(picture), model.encode_audio(sound)))
    for got, expected in zip(*soft, strict=True):
        assert error(got, expected) < 0.15
