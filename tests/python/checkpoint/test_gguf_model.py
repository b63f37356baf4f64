"""The bundled checkpoint as GGUF: the same model, tokenizer and answers, and files that lie are refused."""

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import _core
from gemma4.checkpoint import DirectoryCheckpoint, open_gguf, resolve, safetensors
from gemma4.checkpoint.conversion import convert
from gemma4.config import parse_config
from gemma4.errors import ModelFileError, RequestError
from gemma4.gguf import GgufFile, read_gguf
from gemma4.gguf.names import hf_name, llama_name
from gemma4.gguf.vocabulary import read_tokenizer, tokenizer_metadata
from gemma4.gguf.writer import PlannedTensor, write_gguf
from gemma4.tokens.library import build

DEMO = resolve("demo")
VOCAB = DirectoryCheckpoint(DEMO).tokenizer().vocab_size
PROMPTS = ["draw two red circles", "\n\n\nwhat is  it?\t", "é 漢字 🦙 <turn|> <|image|>", " ", "x" * 300]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The bundled checkpoint in its own precision: the decoder, the encoders."""
    folder = tmp_path_factory.mktemp("gguf")
    done = convert("demo", folder / "demo.gguf", dtype="bf16", mmproj=folder / "mmproj.gguf", progress=False)
    assert done.mmproj is not None
    return done.path, done.mmproj


@pytest.fixture(scope="module")
def models(files: tuple[Path, Path]) -> tuple[gemma4.Model, gemma4.Model]:
    """The bundled checkpoint from its directory, and from the files."""
    options: dict[str, Any] = {"kv_cache": "f32", "num_threads": 1}
    return (
        gemma4.Model.from_pretrained("demo", **options),
        gemma4.Model.from_pretrained(files[0], mmproj=files[1], **options),
    )


def engine(checkpoint: Any) -> _core.Model:
    parsed = parse_config(*checkpoint.config())
    return _core.Model(parsed.core, checkpoint.tensors(), parsed.text_prefix, (), 1)


# -- the same model ----------------------------------------------------------------------------------------------------


def test_has_the_same_logits_to_the_bit(models: tuple[gemma4.Model, gemma4.Model]) -> None:
    ids = np.random.default_rng(0).integers(300, 1600, 70).astype(np.int32)
    expected, got = (np.array(model.forward(ids)) for model in models)
    assert np.array_equal(got, expected)


def test_sees_the_same(models: tuple[gemma4.Model, gemma4.Model]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (90, 130, 3), np.uint8)
    expected, got = (model.encode_image(picture) for model in models)
    assert np.array_equal(got, expected)


def test_hears_the_same(models: tuple[gemma4.Model, gemma4.Model]) -> None:
    samples = np.random.default_rng(2).normal(0, 0.1, 16_000).astype(np.float32)
    expected, got = (model.encode_audio(samples) for model in models)
    # The file holds softplus of a vector; taking it back costs a rounding.
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def test_answers_the_same(models: tuple[gemma4.Model, gemma4.Model]) -> None:
    expected, got = (model.generate("What can you do?", max_new_tokens=12, temperature=0) for model in models)
    assert list(got.token_ids) == list(expected.token_ids)
    assert (got.text, got.finish_reason) == (expected.text, expected.finish_reason)


def test_says_the_same_of_itself(models: tuple[gemma4.Model, gemma4.Model]) -> None:
    directory, file = models
    assert file.modalities == directory.modalities and file.context_length == directory.context_length
    assert {name for name in file.tensors} == {name for name in directory.tensors if not _unread(directory, name)}
    picture = np.zeros((64, 64, 3), np.uint8)
    messages = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "cat"}]}]
    assert np.array_equal(file.prepare(messages).input_ids, directory.prepare(messages).input_ids)


def _unread(model: gemma4.Model, name: str) -> bool:
    """Keys and values that training left behind in layers that read others'."""
    if (".self_attn.k" not in name and ".self_attn.v" not in name) or not name.startswith("model.language_model"):
        return False
    layers = parse_config(dict(model.config)).core.text.layers
    index = int(name.split(".layers.")[1].split(".")[0])
    return layers[index].kv_layer != index


def test_the_config_is_the_same_to_the_engine(files: tuple[Path, Path]) -> None:
    def numbers(value: Any) -> Any:
        if isinstance(value, int | float | bool | None):
            return value
        if isinstance(value, list):
            return [numbers(item) for item in value]
        return {name: numbers(getattr(value, name)) for name in dir(value) if name[0] != "_" and name != "validate"}

    ours = parse_config(open_gguf(*files).config().values)
    theirs = parse_config(json.loads((DEMO / "config.json").read_text("utf-8")))
    assert numbers(ours.core) == numbers(theirs.core)
    assert (ours.image, ours.audio) == (theirs.image, theirs.audio)


def test_the_tokenizer_is_the_same(files: tuple[Path, Path]) -> None:
    import tokenizers

    original = tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    rebuilt = build(read_tokenizer(read_gguf(files[0])))
    before, after = (json.loads(tokenizer.to_str()) for tokenizer in (original, rebuilt))
    for part in ("model", "added_tokens", "normalizer", "pre_tokenizer", "decoder"):
        assert after[part] == before[part], part
    for prompt in PROMPTS:
        assert rebuilt.encode(prompt).ids == original.encode(prompt, add_special_tokens=False).ids


def test_generation_settings_survive(files: tuple[Path, Path]) -> None:
    before = json.loads((DEMO / "generation_config.json").read_text("utf-8"))
    after = open_gguf(files[0]).generation().values
    assert after["eos_token_id"] == before["eos_token_id"]
    assert after["do_sample"] == before.get("do_sample", False)


def test_all_of_the_generation_config_survives(tmp_path: Path) -> None:
    """Also what llama.cpp has no keys for."""
    directory = tmp_path / "model"
    shutil.copytree(DEMO, directory)
    said = {
        "eos_token_id": [1, 5], "do_sample": True, "temperature": 0.5, "top_p": 0.9, "max_new_tokens": 9,
        "min_new_tokens": 3, "stop_strings": ["END"], "suppress_tokens": [7, 9], "begin_suppress_tokens": [3],
        "bad_words_ids": [[4], [5, 6]], "no_repeat_ngram_size": 4, "repetition_penalty": 1.25, "note": math.nan,
    }  # fmt: skip
    (directory / "generation_config.json").write_text(json.dumps(said))
    gemma4.convert(directory, tmp_path / "out.gguf", dtype="f32")
    before = gemma4.Model.from_pretrained(directory)._runtime.loaded.defaults
    assert gemma4.Model.from_pretrained(tmp_path / "out.gguf")._runtime.loaded.defaults == before


def test_every_name_has_one_other() -> None:
    for name in safetensors.open_tensors(DEMO).names():
        renamed = llama_name(name)
        assert renamed is not None and hf_name(renamed) == name
    for name in ("blk.x.attn_q.weight", "blk.01.attn_q.weight", "blk.0.attn_q.weight.weight", "v.blk.0.", ""):
        assert hf_name(name) is None


# -- another arrangement -----------------------------------------------------------------------------------------------


def rewritten(
    source: Path, target: Path, metadata: Callable[[dict[str, Any]], Any] = lambda _: None,
    tensors: Callable[[dict[str, tuple[str, tuple[int, ...], Any]]], Any] = lambda _: None,
) -> Path:  # fmt: skip
    """A copy of a file whose keys and tensors (name -> type, shape, bytes) were edited in place by the functions."""
    file = read_gguf(source)
    data = np.fromfile(source, np.uint8)[file.data_start :]
    table = {name: (t.dtype, t.shape, data[t.begin : t.end]) for name, t in file.tensors.items()}
    keys = {name: _typed(value) for name, value in file.metadata.items()}
    metadata(keys)
    tensors(table)
    plans = [PlannedTensor(name, t[0], t[1], lambda t=t: iter([t[2]])) for name, t in table.items()]
    write_gguf(target, keys, plans)
    return target


def _typed(value: Any) -> Any:
    if isinstance(value, _core.Strings):
        return list(value)
    return np.int64(value) if type(value) is int else value


def test_q_k_and_v_in_one_matrix(files: tuple[Path, Path], tmp_path: Path) -> None:
    def fuse(table: dict[str, Any]) -> None:
        for index in range(64):
            parts = [table.get(f"blk.{index}.attn_{part}.weight") for part in "qkv"]
            if all(parts):
                shape = (sum(part[1][0] for part in parts), parts[0][1][1])
                table[f"blk.{index}.attn_qkv.weight"] = (parts[0][0], shape, np.concatenate([p[2] for p in parts]))
                for part in "qkv":
                    del table[f"blk.{index}.attn_{part}.weight"]

    edited = rewritten(files[0], tmp_path / "fused.gguf", tensors=fuse)
    assert "blk.0.attn_qkv.weight" in read_gguf(edited).tensors
    fused = open_gguf(edited)
    ids = np.arange(300, 320, dtype=np.int32)
    expected = np.array(engine(open_gguf(files[0])).sequence(64, "f32").prefill(ids, (), "all"))
    assert np.array_equal(engine(fused).sequence(64, "f32").prefill(ids, (), "all"), expected)


def test_a_missing_layer_scale_is_one(files: tuple[Path, Path], tmp_path: Path) -> None:
    edited = rewritten(
        files[0], tmp_path / "x.gguf", tensors=lambda table: table.pop("blk.0.layer_output_scale.weight")
    )
    store = open_gguf(edited).tensors()
    assert store.array("model.language_model.layers.0.layer_scalar").tolist() == [1.0]


def test_keys_that_only_we_write_have_defaults(files: tuple[Path, Path], tmp_path: Path) -> None:
    def strip(keys: dict[str, Any]) -> None:
        for name in [name for name in keys if name.startswith("gemma4_hf.")]:
            del keys[name]

    plain = open_gguf(rewritten(files[0], tmp_path / "x.gguf", strip))
    original = open_gguf(files[0])
    assert plain.config().values["text_config"] == original.config().values["text_config"]
    assert set(plain.generation().values["eos_token_id"]) == set(original.generation().values["eos_token_id"])


# -- files that lie ----------------------------------------------------------------------------------------------------

LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "architecture": (lambda k: k.update({"general.architecture": "llama"}), "expected 'gemma4', found 'llama'"),
    "parts": (lambda k: k.update({"split.count": np.uint16(3)}), "one of several parts"),
    "no layers": (lambda k: k.update({"gemma4.block_count": 0}), "block_count: expected 1 to 1024"),
    "10^9 layers": (lambda k: k.update({"gemma4.block_count": 10**9}), "block_count: expected 1 to 1024"),
    "one layer more": (lambda k: k.update({"gemma4.block_count": 7}), "expected 7 elements, found 6"),
    "last layer slides": (
        lambda k: k.update({"gemma4.attention.sliding_window_pattern": np.ones(6, bool)}),
        "the last layer must be global",
    ),
    "pattern of reals": (
        lambda k: k.update({"gemma4.attention.sliding_window_pattern": np.ones(6, np.float32)}),
        "expected an array of truth values, found an array of float32",
    ),
    "no heads": (lambda k: k.update({"gemma4.attention.head_count": 0}), ": gemma4.attention.head_count: expected 1"),
    "heads differ": (
        lambda k: k.update({"gemma4.attention.head_count": np.array([4, 4, 4, 4, 4, 2], np.int32)}),
        "different numbers of heads",
    ),
    "head size": (lambda k: k.update({"gemma4.attention.key_length": 66}), "value_length: must be that of the keys"),
    "window 0": (lambda k: k.update({"gemma4.attention.sliding_window": 0}), ": gemma4.attention.sliding_window: "),
    "no width": (lambda k: k.update({"gemma4.embedding_length": 0}), "gguf: gemma4.embedding_length: expected 1"),
    "widths": (
        lambda k: k.update({"gemma4.feed_forward_length": np.array([192, 1, 192, 192, 384, 384], np.int32)}),
        "expected one width, or twice it",
    ),
    "eps": (lambda k: k.update({"gemma4.attention.layer_norm_rms_epsilon": float("nan")}), "finite"),
    "theta": (lambda k: k.update({"gemma4.rope.freq_base": 0.0}), "gguf: gemma4.rope.freq_base: expected 1"),
    "scaled": (lambda k: k.update({"gemma4.rope.scaling.type": "yarn"}), "scaled rotations .yarn. are not supported"),
    "sharing": (
        lambda k: k.update({"gemma4.attention.shared_kv_layers": 6, "gemma4.feed_forward_length": 192}),
        "gguf: gemma4.attention.shared_kv_layers: no layer",
    ),
    "vocabulary kind": (lambda k: k.update({"tokenizer.ggml.model": "gpt2"}), "expected 'gemma4', found 'gpt2'"),
    "tokens missing": (lambda k: k.pop("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens: is missing"),
    "token twice": (lambda k: k["tokenizer.ggml.tokens"].__setitem__(700, "a"), "appears twice"),
    "token empty": (lambda k: k["tokenizer.ggml.tokens"].__setitem__(700, ""), "empty"),
    "scores of bytes": (
        lambda k: k.update({"tokenizer.ggml.scores": np.zeros(VOCAB, np.int8)}), "floating-point numbers, found",
    ),
    "types short": (
        lambda k: k.update({"tokenizer.ggml.token_type": np.ones(5, np.int32)}), f"expected {VOCAB} elements",
    ),
    "byte token": (
        lambda k: k["tokenizer.ggml.tokens"].__setitem__(k["tokenizer.ggml.tokens"].index("<0x00>"), "<0x-1>"),
        "is said to be a byte",
    ),
    "merge of one": (lambda k: k["tokenizer.ggml.merges"].append("ab"), "two tokens with a space"),
    "merge unknown": (lambda k: k["tokenizer.ggml.merges"].append("zzzz qqqq"), "do not fit the vocabulary"),
    "special id": (
        lambda k: k.update({"tokenizer.ggml.bos_token_id": 10**6}), f"bos_token_id: expected 0 to {VOCAB - 1}",
    ),
    "template": (lambda k: k.update({"tokenizer.chat_template": 3}), "chat_template"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_refuses_keys(name: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    edit, expected = LIES[name]
    path = rewritten(files[0], tmp_path / "lie.gguf", edit)
    with pytest.raises(ModelFileError, match=expected) as caught:
        gemma4.Model.from_pretrained(path, num_threads=1)
    assert "lie.gguf" in str(caught.value) and len(str(caught.value)) < 500


TENSOR_LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown": (lambda t: t.update({"blk.0.nope.weight": ("F32", (1,), np.zeros(4, np.uint8))}), "not a tensor of"),
    "missing": (lambda t: t.pop("blk.1.ffn_up.weight"), "1 missing: model.language_model.layers.1.mlp.up_proj"),
    "shape": (
        lambda t: t.update({"output_norm.weight": ("F32", (1,), np.zeros(4, np.uint8))}), "norm.weight: expected",
    ),
    "no rotation": (lambda t: t.pop("rope_freqs.weight"), "rope_freqs.weight.*found nothing"),
    "rotation": (
        lambda t: t.update({"rope_freqs.weight": ("F32", (2,), np.ones(2, np.float32).view(np.uint8))}), "32 divisors",
    ),
    "no embedding": (lambda t: t.pop("token_embd.weight"), "token_embd.weight.*found nothing"),
    "encoder": (lambda t: t.update({"v.nope": ("F32", (1,), np.zeros(4, np.uint8))}), "not a tensor of these encoders"),
    "encoder without keys": (
        lambda t: t.update({"v.std_bias": ("F32", (1,), np.zeros(4, np.uint8))}), "'v.std_bias'.*without the keys",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSOR_LIES)
def test_refuses_tensors(name: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    edit, expected = TENSOR_LIES[name]
    path = rewritten(files[0], tmp_path / "lie.gguf", tensors=edit)
    with pytest.raises(ModelFileError, match=expected):
        gemma4.Model.from_pretrained(path, num_threads=1)


def test_files_the_wrong_way_round(files: tuple[Path, Path]) -> None:
    with pytest.raises(RequestError, match="give it as mmproj="):
        gemma4.Model.from_pretrained(files[1])
    with pytest.raises(RequestError, match="holds a language model"):
        gemma4.Model.from_pretrained(files[0], mmproj=files[0])
    with pytest.raises(RequestError, match="mmproj"):
        gemma4.Model.from_pretrained("demo", mmproj=files[1])


MMPROJ_LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "projector": (lambda k: k.update({"clip.vision.projector_type": "pixtral"}), "expected 'gemma4v'"),
    "half unified": (lambda k: k.update({"clip.vision.projector_type": "gemma4uv"}), "same kind of model"),
    "patch 0": (lambda k: k.update({"clip.vision.patch_size": 0}), "patch_size"),
    "pool 0": (lambda k: k.update({"clip.vision.projector.scale_factor": 0}), "pooling_kernel_size"),
    "no heads": (lambda k: k.update({"clip.vision.attention.head_count": 0}), "head_count: expected 1"),
    "width": (lambda k: k.update({"clip.vision.embedding_length": 64}), "mis-shaped"),
}


@pytest.mark.parametrize("name", MMPROJ_LIES)
def test_refuses_encoders(name: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    edit, expected = MMPROJ_LIES[name]
    path = rewritten(files[1], tmp_path / "lie.gguf", edit)
    with pytest.raises(ModelFileError, match=expected):
        gemma4.Model.from_pretrained(files[0], mmproj=path, num_threads=1)


@pytest.mark.parametrize("count", [100, pytest.param(0, marks=pytest.mark.slow)])
def test_flips_in_a_real_header(count: int, files: tuple[Path, Path], tmp_path: Path) -> None:
    """One bit of `count` bytes, or of every byte, outside the vocabulary, which has tests of its own."""
    data = files[0].read_bytes()
    file = read_gguf(files[0])
    before, behind = data.index(b"tokenizer.ggml.tokens"), data.index(b"tokenizer.ggml.bos_token_id")
    places = [*range(before), *range(behind, file.data_start)]
    rng = random.Random(0)
    path = tmp_path / "flipped.gguf"
    shutil.copyfile(files[0], path)
    loaded = 0
    chosen = rng.sample(places, count) if count else places
    with path.open("r+b", buffering=0) as out:
        for at in chosen:
            for value in (data[at] ^ (1 << rng.randrange(8)), data[at]):
                out.seek(at)
                out.write(bytes([value]))
                if value != data[at]:
                    loaded += _loads_and_runs(path)
    assert 0 < loaded < len(chosen)


def _loads_and_runs(path: Path) -> bool:
    try:
        session = engine(open_gguf(path)).sequence(16, "f32")
        session.prefill(np.arange(300, 304, dtype=np.int32), (), "all")
    except gemma4.Gemma4Error as error:
        assert len(str(error)) < 1500
        return False
    return True


def test_a_file_that_changes_after_loading(files: tuple[Path, Path], tmp_path: Path) -> None:
    for changed in (0, 1):
        paths = [Path(shutil.copyfile(file, tmp_path / f"{changed}{file.name}")) for file in files]
        model = gemma4.Model.from_pretrained(paths[0], mmproj=paths[1], num_threads=1)
        with paths[changed].open("ab") as out:
            out.write(b"x")
        with pytest.raises(gemma4.ModelFileChanged, match=paths[changed].name):
            model.forward(np.arange(300, 304, dtype=np.int32))


def test_loading_again_leaks_nothing(files: tuple[Path, Path]) -> None:
    counts = []
    for _ in range(5):
        open_gguf(*files)
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert counts[-1] == counts[1]


def test_pickles_as_its_arguments(files: tuple[Path, Path]) -> None:
    import pickle

    model = pickle.loads(pickle.dumps(gemma4.Model.from_pretrained(files[0], mmproj=files[1], num_threads=1)))
    assert "image" in model.modalities


# -- tokenizers that GGUF cannot express -------------------------------------------------------------------------------

TOKENIZER_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "kind": (lambda t: t["model"].update(type="Unigram"), "model.type"),
    "no bytes": (lambda t: t["model"].update(byte_fallback=False), "model.byte_fallback"),
    "dropout": (lambda t: t["model"].update(dropout=0.1), "model.dropout"),
    "normalizer": (lambda t: t.update(normalizer=None), "normalizer"),
    "pre-tokenizer": (lambda t: t.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer"),
    "decoder": (lambda t: t.update(decoder=None), "decoder"),
    "strips": (lambda t: t["added_tokens"][3].update(lstrip=True), "strips spaces"),
    "merge with a space": (lambda t: t["model"]["merges"].append(["a ", "b"]), "merge with a space"),
    "merge of three": (lambda t: t["model"]["merges"].append(["a", "b", "c"]), "pairs of tokens"),
    "id twice": (lambda t: t["model"]["vocab"].update(a=17), "share an id"),
    "id too large": (lambda t: t["model"]["vocab"].update(zzzzz=5000), f"id is not from 0 to {VOCAB - 1}"),
}


@pytest.mark.parametrize("name", TOKENIZER_FAULTS)
def test_refuses_to_write_another_tokenizer(name: str) -> None:
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text("utf-8"))
    edit, expected = TOKENIZER_FAULTS[name]
    edit(tokenizer)
    with pytest.raises(ModelFileError, match=expected):
        tokenizer_metadata(tokenizer, {}, VOCAB, "tokenizer.json")


def test_ids_without_a_token_get_a_filler(tmp_path: Path) -> None:
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text("utf-8"))
    metadata = tokenizer_metadata(tokenizer, {}, VOCAB + 31, "tokenizer.json")
    last = f"[PAD{VOCAB + 30}]"
    assert metadata["tokenizer.ggml.tokens"][VOCAB + 30] == last
    write_gguf(tmp_path / "x.gguf", metadata, [])
    file: GgufFile = read_gguf(tmp_path / "x.gguf")
    assert last in file.strings("tokenizer.ggml.tokens")
    engine = read_tokenizer(file).engine()
    assert engine.find(last) is None and engine.size == VOCAB
