"""Files of GGUF as people have them: folders of many, parts, text and encoders in one, experts apart; written with
llama.cpp's own Python package."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4.checkpoint import open_gguf
from gemma4.errors import ModelFileError, RequestError
from gemma4.gguf.filenames import choose_model, pick_encoders
from gguf import GGMLQuantizationType, GGUFValueType
from gguf_py import Keys, Tensors, rewrite
from oracle.tolerance import assert_close

DATA = Path(__file__).parents[1] / "data" / "llama_cpp"
E2B, E2B_ENCODERS = DATA / "e2b.gguf", DATA / "e2b-mmproj.gguf"
MOE = [DATA / f"26b-a4b-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
IDS = np.arange(400, 440, dtype=np.int32)


def load(source: Any, **options: Any) -> gemma4.Model:
    return gemma4.Model.from_pretrained(source, kv_cache="f32", num_threads=1, **options)


def logits(source: Any, **options: Any) -> np.ndarray[Any, Any]:
    return np.array(load(source, **options).forward(IDS))


@pytest.fixture(autouse=True)
def at_home() -> Iterator[None]:
    home = Path.cwd()
    yield
    os.chdir(home)


def link(folder: Path, **files: Path) -> Path:
    """Copies under other names."""
    for name, source in files.items():
        path = folder / (name.replace("__", "/") + ".gguf")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
    return folder


# -- which file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("q4_0", "gemma-4-E2B_q4_0-it.gguf"),
        ("Q4_K_M", "a-Q4_K_M.gguf"),
        ("UD-Q4_K_M", "a-UD-Q4_K_M.gguf"),
        ("Q4_K_XL", "a-UD-Q4_K_XL.gguf"),
        ("bf16", "BF16/a-BF16-00001-of-00002.gguf"),
        ("Q5_0", "Q5_0/a.gguf"),
        ("a-Q4_K_M.gguf", "a-Q4_K_M.gguf"),
    ],
)
def test_a_tag_is_a_whole_word(tag: str, expected: str) -> None:
    names = [
        "gemma-4-E2B_q4_0-it.gguf", "a-Q4_K_M.gguf", "a-Q4_K_S.gguf", "a-UD-Q4_K_M.gguf", "a-UD-Q4_K_XL.gguf",
        "a-IQ4_XS.gguf", "BF16/a-BF16-00001-of-00002.gguf", "BF16/a-BF16-00002-of-00002.gguf", "Q5_0/a.gguf",
        "mmproj-bf16.gguf", "a.imatrix.gguf", "mtp-a-Q4_K_M.gguf", "a-assistant-Q4_0.gguf", "README.md",
    ]  # fmt: skip
    assert choose_model(names, tag, "x") == expected
    for wrong in ("Q4_K", "4_K_M", "Q4", "XS", "Q4_XS", "gguf", "mmproj", ".*", ""):
        with pytest.raises(ModelFileError, match="x:Q4_K_S"):
            choose_model(names, wrong, "x")


def test_which_encoders() -> None:
    assert pick_encoders("m-Q4_0.gguf", ["mmproj-F32.gguf", "mmproj-Q8_0.gguf"]) == "mmproj-F32.gguf"
    assert pick_encoders("m-Q4_0.gguf", ["mmproj-BF16.gguf", "m.mmproj-f16.gguf"]) == "m.mmproj-f16.gguf"
    assert pick_encoders("m.gguf", []) is None
    with pytest.raises(RequestError, match=r"a-mmproj.gguf, b-mmproj.gguf could each be the encoders of m.gguf"):
        pick_encoders("m.gguf", ["a-mmproj.gguf", "b-mmproj.gguf"])


def test_a_folder(tmp_path: Path) -> None:
    link(tmp_path, **{"m-F16": E2B, "sub__m-Q8_0": E2B, "mmproj": E2B_ENCODERS})
    for name in (f"{tmp_path}:f16", f"{tmp_path}:Q8_0"):
        assert load(name).modalities == {"text", "image", "audio", "video"}
    for source, problem in (
        (tmp_path, "2 models, say which: .*:F16, .*:Q8_0"), (f"{tmp_path}:Q2_K", "no files match 'Q2_K'"),
        (tmp_path / "nope.gguf", "does not exist; .* holds m-F16.gguf, mmproj.gguf"),
    ):  # fmt: skip
        with pytest.raises(ModelFileError, match=problem):
            load(source)


def test_safetensors_come_before_gguf(tmp_path: Path) -> None:
    shutil.copytree(Path(gemma4.__file__).parent / "demo_model", tmp_path / "both")
    link(tmp_path / "both", **{"m-F16": E2B})
    expected = logits("demo")
    assert np.array_equal(logits(tmp_path / "both"), expected)
    assert not np.array_equal(logits(f"{tmp_path}/both:F16"), expected)


def test_encoders_beside_the_file(tmp_path: Path) -> None:
    """Taken are those that fit, whatever they are called; a name and False are obeyed."""
    everything = {"text", "image", "audio", "video"}
    bundled = gemma4.convert("demo", tmp_path / "demo.gguf", "q8_0", tmp_path / "demo-eyes.gguf", progress=False)
    link(tmp_path, m=E2B, encoders=E2B_ENCODERS)
    assert load(tmp_path / "m.gguf").modalities == everything == load(bundled.path).modalities
    assert load(tmp_path / "m.gguf", mmproj=False).modalities == {"text"}
    assert load(tmp_path / "m.gguf", mmproj="encoders.gguf").modalities == everything
    with pytest.raises(RequestError, match=r"demo-eyes\.gguf makes soft tokens of .* numbers, those of m.gguf have 32"):
        load(tmp_path / "m.gguf", mmproj=bundled.mmproj)
    link(tmp_path, again=E2B_ENCODERS)
    with pytest.raises(RequestError, match=r"again\.gguf, encoders.gguf could each be"):
        load(tmp_path / "m.gguf")


@pytest.mark.parametrize("source", ["m.gguf", ".", ".:F16", "./x/../m.gguf"])
def test_relative_names_survive_chdir(source: str, tmp_path: Path) -> None:
    link(tmp_path, **({"m-F16": E2B} if source == ".:F16" else {"m": E2B}), mmproj=E2B_ENCODERS)
    (tmp_path / "x").mkdir()
    os.chdir(tmp_path)
    model = load(source)
    os.chdir("/")
    for again in (model, pickle.loads(pickle.dumps(model))):
        assert "image" in again.modalities and np.array_equal(again.forward(IDS), model.forward(IDS))
    code = "import pickle, sys; print(len(pickle.load(sys.stdin.buffer).token_bytes()))"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(model.tokenizer), capture_output=True)
    assert int(done.stdout) == model.tokenizer.vocab_size, done.stderr


def test_a_relative_directory_survives_chdir(tmp_path: Path) -> None:
    shutil.copytree(Path(gemma4.__file__).parent / "demo_model", tmp_path / "demo_copy")
    os.chdir(tmp_path)
    model = load("demo_copy")
    os.chdir("/")
    assert pickle.loads(pickle.dumps(model)).tokenizer.encode("red") == model.tokenizer.encode("red")
    assert pickle.loads(pickle.dumps(model.tokenizer)).encode("red") == model.tokenizer.encode("red")


# -- parts -------------------------------------------------------------------------------------------------------------


def split(folder: Path, count: int = 60) -> list[Path]:
    rewrite(folder / "m.gguf", E2B, split_max_tensors=count)
    return sorted(folder.glob("m-*.gguf"))


def test_parts_are_the_whole(tmp_path: Path) -> None:
    parts = split(tmp_path)
    assert len(parts) == 3
    assert np.array_equal(logits(parts[1]), logits(E2B, mmproj=False))
    assert load(parts[0]).tokenizer.token_bytes() == load(E2B).tokenizer.token_bytes()


def _swap(parts: list[Path]) -> None:
    one, two = parts[1].read_bytes(), parts[2].read_bytes()
    parts[1].write_bytes(two)
    parts[2].write_bytes(one)


FAULTS: dict[str, tuple[Callable[[list[Path]], Any], str]] = {
    "missing": (lambda parts: parts[1].unlink(), "m-00002-of-00003.gguf: does not exist; m-00001.*several parts"),
    "a copy": (lambda parts: shutil.copyfile(parts[0], parts[1]), "m-00002.*split.no: expected 1, found 0"),
    "swapped": (_swap, "m-00002.*split.no: expected 1, found 2"),
    "of another": (lambda parts: shutil.copyfile(MOE[1], parts[1]), "m-00002.*is in an earlier part|split.tensors"),
    "not a part": (lambda parts: shutil.copyfile(E2B, parts[1]), "m-00002.*split.count: a part of another"),
    "truncated": (lambda parts: os.truncate(parts[2], 2000), "m-00003.*truncated"),
    "renamed": (lambda parts: parts[0].rename(parts[0].with_name("m-00001-of-00004.gguf")), "split.count: one of sev"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_parts_that_do_not_belong(name: str, tmp_path: Path) -> None:
    parts = split(tmp_path)
    FAULTS[name][0](parts)
    with pytest.raises(ModelFileError, match=FAULTS[name][1]):
        load(next(iter(sorted(tmp_path.glob("*-00001-of-*")))))


# -- experts apart -----------------------------------------------------------------------------------------------------


def test_gate_and_up_apart(tmp_path: Path) -> None:
    def part(_: Keys, tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith(".ffn_gate_up_exps.weight")]:
            data, kind = tensors.pop(name)
            gate, up = np.split(data, 2, axis=1)
            tensors[name.replace("gate_up", "gate")], tensors[name.replace("gate_up", "up")] = (gate, kind), (up, kind)

    apart = rewrite(tmp_path / "apart.gguf", *MOE, edit=part)
    together = logits(MOE[0], mmproj=False)
    assert_close(logits(apart), together)  # sums of other lengths in OpenBLAS
    one = [gemma4.Model.from_pretrained(path, mmproj=False).generate(IDS, max_new_tokens=8).token_ids
           for path in (apart, MOE[0])]  # fmt: skip
    assert np.array_equal(*one)

    def less(keys: Keys, tensors: Tensors) -> None:
        part(keys, tensors)
        del tensors["blk.3.ffn_up_exps.weight"]

    with pytest.raises(ModelFileError, match=r"1 missing: model\.language_model\.layers\.3\.experts\.up_proj"):
        load(rewrite(tmp_path / "less.gguf", *MOE, edit=less))


# -- text and encoders in one file -------------------------------------------------------------------------------------


def test_one_file_with_llama_cpp_s_names(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    blob = rewrite(tmp_path / "blobs" / "sha256-0123abcd", E2B, E2B_ENCODERS)
    check_all_senses(blob)


OLLAMA = {
    ".attn_pre_norm.weight": ".ln1.weight", ".attn_post_norm.weight": ".ln2.weight",
    ".ln2.weight": ".layer_pre_norm.weight", ".attn_k_rel.weight": ".linear_pos.weight",
}  # fmt: skip
OLLAMA_PLAIN = {
    "a.input_projection.weight": "a.pre_encode.out.weight", "a.pre_encode.out.weight": "mm.a.fc.weight",
    "a.pre_encode.out.bias": "mm.a.fc.bias",
}  # fmt: skip
LINEARS = ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_gate", "ffn_up", "ffn_down")


def as_ollama(keys: Keys, tensors: Tensors, bounds_apart: bool = True) -> None:
    """What its own converter writes: other keys, other names in the audio encoder, bounds of the eyes once more."""
    for name in [name for name in keys if name.startswith("clip.")]:
        value = keys.pop(name)
        if name.count(".") > 1 and not name.endswith(("projector_type", "projection_dim", "image_mean", "image_std")):
            keys["gemma4." + name.removeprefix("clip.")] = value
    keys["tokenizer.ggml.model"] = ("llama", GGUFValueType.STRING, None)
    keys["tokenizer.ggml.pre"] = ("gemma4", GGUFValueType.STRING, None)
    keys["tokenizer.ggml.eos_token_ids"] = ([1, 13], GGUFValueType.ARRAY, GGUFValueType.INT32)
    clamps = [tensors[f"v.blk.0.{linear}.{bound}"][0][0] for linear in LINEARS
              for bound in ("input_min", "input_max", "output_min", "output_max")]  # fmt: skip
    kind = GGMLQuantizationType.F32
    old = dict(tensors)
    tensors.clear()
    for name, tensor in old.items():
        ending = next((ending for ending in OLLAMA if name.startswith("a.blk.") and name.endswith(ending)), None)
        renamed = OLLAMA_PLAIN.get(name) or (name.removesuffix(ending) + OLLAMA[ending] if ending else name)
        if bounds_apart or not (name.startswith("v.") and name.endswith(("_min", "_max"))):
            tensors[renamed] = tensor
    tensors["v.clamp_data"] = (np.array([*clamps, 0, 0, 0, 0], np.float32), kind)


@pytest.mark.parametrize("bounds_apart", [True, False])
def test_one_file_with_ollama_s_names(bounds_apart: bool, tmp_path: Path) -> None:
    blob = rewrite(tmp_path / "sha256-0123abcd", E2B, E2B_ENCODERS, edit=lambda k, t: as_ollama(k, t, bounds_apart))
    check_all_senses(blob)
    assert open_gguf(blob).generation().values["eos_token_id"] == [1, 13]


def check_all_senses(blob: Path) -> None:
    got, expected = load(blob), load(E2B)
    assert got.modalities == {"text", "image", "audio", "video"}
    assert np.array_equal(got.forward(IDS), expected.forward(IDS))
    picture = np.random.default_rng(1).integers(0, 256, (90, 130, 3), np.uint8)
    assert np.array_equal(got.encode_image(picture), expected.encode_image(picture))
    samples = np.random.default_rng(2).normal(0, 0.1, 16_000).astype(np.float32)
    assert np.array_equal(got.encode_audio(samples), expected.encode_audio(samples))


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"GGML" + bytes(100))
    with pytest.raises(ModelFileError, match="or a GGUF file, found a file"):
        load(tmp_path / "x")
