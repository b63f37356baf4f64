"""Adapters on this machine: what is refused and by which name, which one a request gets, and what is kept of it.

What an adapter computes is compared with PEFT's own in oracle/test_adapters.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import ModelFileError, RequestError
from numpy.typing import NDArray
from PIL import Image

DEMO = Path(gemma4.__file__).parent / "demo_model"
HIDDEN, RANK = 128, 4
Tensors = dict[str, NDArray[Any]]


def key(module: str, part: str) -> str:
    return f"base_model.model.model.language_model.{module}.lora_{part}.weight"


def pair(module: str, width: int, seed: int = 0, rank: int = RANK, inner: int = HIDDEN) -> Tensors:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, inner**-0.5, (rank, inner)), rng.normal(0, 0.2, (width, rank))
    return {key(module, "A"): a.astype(np.float32), key(module, "B"): b.astype(np.float32)}


def usual(seed: int = 0) -> Tensors:
    layers = json.loads((DEMO / "config.json").read_text())["text_config"]
    widths = [gemma4.Model.from_pretrained("demo").tensors[f"model.language_model.layers.{i}.self_attn.q_proj.weight"]
              for i in range(layers["num_hidden_layers"])]  # fmt: skip
    return {
        name: tensor
        for i, q in enumerate(widths)
        for name, tensor in pair(f"layers.{i}.self_attn.q_proj", len(q), seed + i).items()
    }


def write(folder: Path, tensors: Tensors, **fields: Any) -> Path:
    """As PEFT does it, without PEFT."""
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "bias": "none", "target_modules": ["q_proj"], **fields}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in tensors.items():
        kind = {"float32": "F32", "float16": "F16", "int32": "I32"}[tensor.dtype.name]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    data = b"".join(tensor.tobytes() for tensor in tensors.values())
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


def load(adapter: Any) -> gemma4.Model:
    return gemma4.Model.from_pretrained("demo", num_threads=1, adapter=adapter)


IDS = np.arange(300, 330, dtype=np.int32)


def logits(model: gemma4.Model, **options: Any) -> NDArray[np.float32]:
    return np.array(model.forward(IDS, **options))


# -- which one a request gets ------------------------------------------------------------------------------------------


def test_one_alone_is_the_default(tmp_path: Path) -> None:
    plain, model = logits(load(None)), load(write(tmp_path, usual()))
    assert model.adapters == ("default",)
    changed = logits(model)
    assert np.abs(changed - plain).max() > 0.1
    assert np.array_equal(logits(model, adapter="default"), changed)
    assert np.array_equal(logits(model, adapter=False), plain)


def test_names_wait_to_be_asked_for(tmp_path: Path) -> None:
    plain = logits(load(None))
    given = {name: write(tmp_path / name, usual(seed)) for seed, name in ((0, "a"), (100, "b"))}
    model = load(given)
    assert np.array_equal(logits(model), plain)
    a, b = logits(model, adapter="a"), logits(model, adapter="b")
    assert min(np.abs(x - y).max() for x, y in ((a, b), (a, plain), (b, plain))) > 0.1
    assert np.array_equal(logits(load(given["b"])), b)


def test_every_call_takes_one(tmp_path: Path) -> None:
    """Answers and scores are those of a model that was loaded with the adapter alone."""
    path = write(tmp_path, usual())
    alone, model = load(path), load({"a": path})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8))
    greedy: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0}
    for call in (
        lambda m, **o: m.generate("Hello", **greedy, **o).token_ids.tolist(),
        lambda m, **o: [chunk.text for chunk in m.stream("Hello", **greedy, **o)],
        lambda m, **o: m.chat().send("Hello", **greedy, **o).token_ids.tolist(),
        lambda m, **o: m.score("Hello", **o).logprobs[1:].tolist(),
        lambda m, **o: m.detect(image, "red circle", max_new_tokens=64, **o).raw_text,
        lambda m, **o: m.point(image, "red circle", max_new_tokens=64, **o).raw_text,
        lambda m, **o: m.encode_image(image, **o).tolist(),
    ):
        assert call(model, adapter="a") == call(alone)
        assert call(model) == call(alone, adapter=False)


@pytest.mark.filterwarnings("ignore:the answer")
def test_texts_of_pictures_and_sounds_take_one(tmp_path: Path) -> None:
    path = write(tmp_path, usual())
    alone, model = load(path), load({"a": path})
    image, sound = np.full((96, 96, 3), 200, np.uint8), np.zeros(8_000, np.float32)
    for call in (
        lambda m, **o: m.caption(image, max_new_tokens=4, **o),
        lambda m, **o: m.read(image, max_new_tokens=4, **o),
        lambda m, **o: m.transcribe(sound, max_new_tokens=4, **o),
        lambda m, **o: m.translate(sound, max_new_tokens=4, **o),
    ):
        assert call(model, adapter="a") == call(alone)


@pytest.mark.filterwarnings("ignore:the answer")
def test_lists_take_one(tmp_path: Path) -> None:
    path = write(tmp_path, usual())
    alone, model = load(path), load({"a": path})
    draw = np.random.default_rng(1)
    images = [draw.integers(0, 255, (96, 80 + 16 * i, 3), np.uint8) for i in range(3)]
    sounds = [draw.normal(0, 0.1, 6_000 + 2_000 * i).astype(np.float32) for i in range(2)]
    for given, call in (
        (["Hello", "Hi", "Ho"], lambda m, x, **o: m.generate(x, max_new_tokens=6, temperature=0, **o)),
        (images, lambda m, x, **o: m.caption(x, max_new_tokens=4, **o)),
        (images, lambda m, x, **o: m.detect(x, "red circle", max_new_tokens=64, **o)),
        (sounds, lambda m, x, **o: m.transcribe(x, max_new_tokens=4, **o)),
    ):
        together = call(model, given, adapter="a")
        for one, got in zip(given, together, strict=True):
            assert str(got) == str(call(alone, one))
    for rows, image in zip(model.encode_image(images, adapter="a"), images, strict=True):
        assert np.array_equal(rows, alone.encode_image(image))


def test_requests_with_different_adapters_are_computed_together(tmp_path: Path) -> None:
    """Each gets what it would get alone, also where the prompts and pictures of several are the same."""
    given = {name: write(tmp_path / name, usual(seed)) for seed, name in ((0, "a"), (100, "b"))}
    model = load(given)
    alone = gemma4.Model.from_pretrained("demo", cache_bytes=0, adapter=given)
    picture = np.random.default_rng(2).integers(0, 255, (96, 96, 3), np.uint8)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "Describe the image."}]
    prompts: list[Any] = ["Hello", [{"role": "user", "content": content}], "Count to ten, and say each number twice."]
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0, "ignore_eos": True, "logprobs": True}
    asked = [(prompt, adapter) for prompt in prompts for adapter in (False, "a", "b", "a", None)]

    async def all_at_once() -> list[gemma4.GenerationResult]:
        return await asyncio.gather(*(model.agenerate(one, adapter=adapter, **options) for one, adapter in asked))

    for _ in range(2):
        for (prompt, adapter), out in zip(asked, asyncio.run(all_at_once()), strict=True):
            expected = alone.generate(prompt, adapter=adapter, **options)
            assert out.token_ids.tolist() == expected.token_ids.tolist()
            assert np.array_equal(out.logprobs, expected.logprobs)


@pytest.mark.parametrize("wanted", ["c", "", True, 3, b"a"])
def test_one_that_there_is_not(tmp_path: Path, wanted: Any) -> None:
    model = load({"a": write(tmp_path, usual())})
    with pytest.raises(RequestError, match="adapter: "):
        model.generate("Hello", adapter=wanted)
    with pytest.raises(RequestError, match="adapter: "):
        model.forward(IDS, adapter=wanted)


def test_a_model_without_any(gemma4_model: Any) -> None:
    assert gemma4_model.adapters == ()
    with pytest.raises(RequestError, match="'a' is not one that the model was loaded with"):
        gemma4_model.generate("Hello", adapter="a")


@pytest.mark.parametrize("given", [3, {}, {"": "x"}, {1: "x"}, [], b"x", {"a": None}])
def test_no_adapter(given: Any) -> None:
    with pytest.raises(RequestError, match="adapter: expected"):
        load(given)


def test_a_model_travels_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", usual())
    monkeypatch.chdir(tmp_path)
    model = load({"a": "a"})
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(logits(again, adapter="a"), logits(model, adapter="a"))


def test_a_file_that_changed(tmp_path: Path) -> None:
    model = load(write(tmp_path, usual()))
    os.utime(tmp_path / "adapter_model.safetensors", (1, 1))
    with pytest.raises(gemma4.ModelFileChanged, match=r"adapter_model\.safetensors"):
        model.forward(IDS)
    model.forward(IDS, adapter=False)


# -- what is kept between prompts --------------------------------------------------------------------------------------


def test_a_conversation_never_reads_anothers_keys(tmp_path: Path) -> None:
    """Turns that change the adapter are those of a fresh model; turns that keep it reuse what there is."""
    model = load({name: write(tmp_path / name, usual(seed)) for seed, name in ((0, "a"), (100, "b"))})
    chat = model.chat()
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0}
    for turn, (adapter, reused) in enumerate(
        [("a", False), ("a", True), ("b", False), (None, False), (False, True), ("a", False), ("a", True)]
    ):
        history = [*chat.messages, {"role": "user", "content": f"Hello {turn}"}]
        got = chat.send(f"Hello {turn}", adapter=adapter, **options)
        assert got.token_ids.tolist() == model.generate(history, adapter=adapter, **options).token_ids.tolist()
        assert (chat.reused_tokens > 0) == reused, turn


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "LOHA"), ("peft_type", None), ("bias", "all"), ("bias", "lora_only"), ("lora_bias", True),
        ("modules_to_save", ["lm_head"]), ("trainable_token_indices", [3]), ("layer_replication", [[0, 2]]),
        ("fan_in_fan_out", True), ("alora_invocation_tokens", [1, 2]), ("use_qalora", True), ("arrow_config", {"a": 1}),
        ("megatron_config", {"a": 1}), ("something_new", 1), ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_16"), ("init_lora_weights", "olora"), ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"), ("init_lora_weights", 3), ("r", 0), ("r", True), ("r", "8"), ("r", 1 << 40),
        ("lora_alpha", None), ("lora_alpha", float("nan")), ("lora_alpha", 10**400), ("use_rslora", 1),
        ("use_dora", "yes"), ("rank_pattern", [1]), ("rank_pattern", {"q_proj": 0}), ("alpha_pattern", {"q_proj": "1"}),
        ("alpha_pattern", {"(a+)+$": 1}), ("alpha_pattern", {".*.*.*.*": 1}), ("alpha_pattern", {"(": 1}),
        ("alpha_pattern", {"(?=a)": 1}), ("alpha_pattern", {"a{9}{9}{9}": 1}), ("rank_pattern", {"x" * 400 + ".*": 1}),
    ],
)  # fmt: skip
def test_fields(tmp_path: Path, field: str, value: Any) -> None:
    write(tmp_path, pair("layers.0.self_attn.q_proj", 128), **{field: value})
    with pytest.raises(ModelFileError, match=rf"adapter_config\.json: {field}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "fields", "message"),
    [
        ({}, {}, "holds no tensors"),
        (pair("layers.99.self_attn.q_proj", 128), {}, r"1 changes of linears .*: layers\.99\.self_attn\.q_proj \("),
        (pair("layers.0.self_attn.q_prj", 128), {}, r"layers\.0\.self_attn\.q_prj \("),
        (pair("layers.0.self_attn.q_proj", 77), {}, r"q_proj\.lora_B\.weight: expected \(\d+, 4\), found \(77, 4\)"),
        (pair("layers.0.mlp.up_proj", 77, inner=5), {}, r"lora_A\.weight: expected \(4, 128\), found \(4, 5\)"),
        (pair("layers.0.self_attn.q_proj", 128), {"r": 5}, r"lora_A\.weight: expected \(5, 128\), found \(4, 128\)"),
        (pair("layers.0.self_attn.q_proj", 128), {"use_dora": True}, "there is no lora_magnitude_vector"),
        (pair("embed_tokens", 128), {}, r"embed_tokens \("),
        ({key("layers.0.self_attn.q_proj", "A"): np.zeros((4, 128), np.float32)}, {}, "there is no lora_B beside"),
        ({"base_model.model.lm_head.weight": np.zeros((4, 8), np.float32)}, {}, "modules_to_save"),
        ({key("x.embed_tokens", "A").replace("lora_A.weight", "lora_embedding_A"): np.zeros((4, 8), np.float32)}, {},
         "changes of embeddings are not supported"),
        ({key("layers.0.mlp.up_proj", "B").replace("weight", "bias"): np.zeros(4, np.float32)}, {}, "biases"),
        ({key("layers.0.mlp.up_proj", "C"): np.zeros((4, 4), np.float32)}, {}, "a part that PEFT's LoRA does not have"),
        ({**pair("layers.0.mlp.up_proj", 8), **{name.replace("model.model.language_model.", "model.model."): tensor
         for name, tensor in pair("layers.0.mlp.up_proj", 8).items()}}, {}, "the second of its module"),
        (pair("vision_tower.encoder.layers.0.self_attn.q_proj", 64), {}, r"vision_tower\.encoder.*q_proj \("),
        (pair("layers.0.experts", 8), {}, "no parameter of this model's experts"),
        ({name: tensor.astype(np.int32) for name, tensor in pair("layers.0.mlp.up_proj", 8).items()}, {}, "dtype I32"),
        ({**pair("layers.0.self_attn.q_proj", 128), key("layers.0.self_attn.q_proj", "magnitude_vector"):
          np.ones(128, np.float32)}, {}, "has no use_dora"),
    ],
)  # fmt: skip
def test_tensors(tmp_path: Path, tensors: Tensors, fields: dict[str, Any], message: str) -> None:
    write(tmp_path, tensors, **fields)
    with pytest.raises(ModelFileError, match=rf"adapter_model\.safetensors: .*{message}"):
        load(tmp_path)


def test_an_impossible_magnitude(tmp_path: Path) -> None:
    tensors = usual()
    for name in list(tensors):
        if name.endswith("B.weight"):
            module = name.removeprefix("base_model.model.model.language_model.").removesuffix(".lora_B.weight")
            tensors[key(module, "magnitude_vector")] = np.full(len(tensors[name]), np.nan, np.float32)
    with pytest.raises(ModelFileError, match=r"lora_magnitude_vector\.weight\[0\]: the magnitude"):
        load(write(tmp_path, tensors, use_dora=True))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such directory; an adapter is one with"):
        load(tmp_path / "nothing")
    with pytest.raises(ModelFileError, match=r"adapter_config\.json: does not exist"):
        load(tmp_path)
    write(tmp_path, usual())
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"adapter_model\.safetensors: does not exist"):
        load(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80")
    with pytest.raises(ModelFileError, match=r"adapter_model\.bin: pickled tensors are not read"):
        load(tmp_path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = write(tmp_path, usual()) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelFileError, match=r"adapter_model\.safetensors: tensor .*bytes are missing"):
        load(tmp_path)


def test_patterns_are_quick(tmp_path: Path) -> None:
    """The largest that are read, over all modules."""
    many = {f"layers.{i}.self_attn.nothing": 4 for i in range(5000)}
    write(tmp_path, usual(), rank_pattern=many, alpha_pattern={".*a.*b": 3, r"layers\.\d+\.self_attn\.q_proj": 16})
    changed = logits(load(tmp_path))
    assert np.array_equal(changed, logits(load(write(tmp_path, usual(), lora_alpha=16))))
