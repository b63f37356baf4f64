"""Files made to break whoever reads them: each is refused with a typed error that names file and field, soon and with
little memory. What was met, and its kin."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemma4
import gguf_py
import pytest
from gguf import GGUFValueType as Kind
from measured import measure

DEMO = Path(gemma4.__file__).parent / "demo_model"
GGUF = Path(__file__).parents[1] / "data" / "llama_cpp" / "e2b.gguf"
MANY = 1_000_000
DIGITS = int("1" + "0" * 4000)


def answer(source: Path) -> None:
    model = gemma4.Model.from_pretrained(source, num_threads=1)
    model.generate("Hello there", max_new_tokens=1, temperature=0)
    model.tokenizer.decode(model.tokenizer.encode("aaa"))


def check(source: Path, names: list[str]) -> None:
    """Refused, by messages that hold `names`."""
    outcome = measure(answer, source)
    outcome.check_refused("ModelFileError")
    for name in names:
        assert name in outcome.message, outcome.message


def copy(target: Path, without: str) -> Path:
    target.mkdir()
    for file in DEMO.iterdir():
        if file.name != without:
            shutil.copy(file, target)
    return target


# -- JSON --------------------------------------------------------------------------------------------------------------


def put(*path: Any) -> Callable[[Any], None]:
    """Sets the last of `path` at the place that the others lead to."""
    *steps, last, value = path

    def edit(data: Any) -> None:
        for step in steps:
            data = data[step]
        data[last] = value

    return edit


def added(count: int, text: str = "<x{}>", **fields: Any) -> Callable[[Any], None]:
    def edit(data: Any) -> None:
        first = len(data["model"]["vocab"])
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for index in range(count):
            data["added_tokens"].append({"id": first + index, "content": text.format(index), **plain, **fields})

    return edit


def both(*edits: Callable[[Any], None]) -> Callable[[Any], None]:
    def edit(data: Any) -> None:
        for one in edits:
            one(data)

    return edit


def vocabulary(data: Any) -> None:
    data["model"]["vocab"].update({f"zz{index}": 1900 for index in range(MANY // 2)})


def replacing(content: str, times: int) -> list[dict[str, Any]]:
    return [{"type": "Replace", "pattern": {"String": "a"}, "content": content}] * times


CONFIG, GENERATION, PROCESSOR = "config.json", "generation_config.json", "processor_config.json"
TOKENIZER, NAMES, INDEX = "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"

# file, what is done to it, what the message names beside the file
FIELDS: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "a huge rescale factor": (PROCESSOR, put("image_processor", "rescale_factor", DIGITS), "rescale_factor"),
    "a section that is 0": (PROCESSOR, put("image_processor", 0), "image_processor"),
    "a section that is false": (PROCESSOR, put("video_processor", False), "video_processor"),
    "ears that are a list": (PROCESSOR, put("feature_extractor", []), "feature_extractor"),
    "an endless floor": (PROCESSOR, put("feature_extractor", "mel_floor", math.inf), "mel_floor"),
    "a layer for everyone": (CONFIG, put("text_config", "layer_types", ["full_attention"] * 100_000), "layer_types"),
    "a width too wide": (CONFIG, put("text_config", "hidden_size", 1 << 19), "hidden_size"),
    "eternity": (CONFIG, put("text_config", "max_position_embeddings", 1 << 30), "max_position_embeddings"),
    "a theta below 1": (CONFIG, put("vision_config", "rope_parameters", {"rope_theta": 0.5}), "rope_theta"),
    "a thousand digits": (CONFIG, put("text_config", "num_hidden_layers", DIGITS), "num_hidden_layers"),
    "another width": (CONFIG, put("text_config", "hidden_size", 64), "model.language_model."),
    "lists in lists": (CONFIG, put("x", [[]] * (MANY // 2)), "bytes"),
    "empty lists": (GENERATION, put("x", [[]] * 400_000), "arrays and objects"),
    "bans of many": (GENERATION, put("suppress_tokens", [-1] * 100_000), "suppress_tokens"),
    "a name that is a number": (NAMES, put("bos_token", 2), "bos_token"),
    "a name in a list": (NAMES, put("eos_token", ["<eos>"]), "eos_token"),
    "a name without text": (NAMES, put("pad_token", {"id": 0}), "pad_token"),
    "half a character as a name": (NAMES, put("bos_token", "\ud800"), "bos_token"),
    "a template of nothing": (PROCESSOR, put("chat_template", "{% if 0 %}x{% endif %}"), "chat template"),
    "half a character as a template": (PROCESSOR, put("chat_template", "\ud800"), "chat_template"),
    "many added tokens": (TOKENIZER, added(66_000), "added_tokens"),
    "long added tokens": (TOKENIZER, added(1000, "x" * 900 + "{}"), "added_tokens"),
    "much added text": (TOKENIZER, added(2000, " " * 900 + "{}", special=False), "added_tokens"),
    "half a character": (TOKENIZER, added(1, "\ud800"), ""),
    "one id for all": (TOKENIZER, vocabulary, "each id once"),
    "unknown merges": (TOKENIZER, lambda data: data["model"]["merges"].extend([["q", "zzq"]] * 1000), "merges"),
    "a tower of normalizers": (
        TOKENIZER,
        put("normalizer", {"type": "Sequence", "normalizers": replacing("a" * 1000, 4)}),
        "normalizer",
    ),
    "a tower of decoders": (
        TOKENIZER,
        put("decoder", {"type": "Sequence", "decoders": replacing("a" * 1000, 3)}),
        "decoder",
    ),
    "a panic while decoding": (
        TOKENIZER,
        put("decoder", {"type": "Strip", "content": "a", "start": 10**18, "stop": 10**18}),
        "decode",
    ),
    "no unknown token": (
        TOKENIZER,
        put("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "zz"}),
        "encode",
    ),
    "tensors without end": (INDEX, put("weight_map", {f"x{i}": "model.safetensors" for i in range(100_000)}), "100000"),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name: str, tmp_path: Path) -> None:
    file, edit, named = FIELDS[name]
    directory = copy(tmp_path / "model", without=file)
    data = json.loads((DEMO / file).read_text()) if (DEMO / file).exists() else {}
    edit(data)
    (directory / file).write_text(json.dumps(data))
    check(directory, [str(directory / ("" if name == "another width" else file)), named])


# -- safetensors -------------------------------------------------------------------------------------------------------

HEADERS: dict[str, tuple[Callable[[], str], str]] = {
    "many tensors": (
        lambda: "{" + ",".join(f'"{i}":{{"dtype":"F32","shape":[],"data_offsets":[0,4]}}' for i in range(70_000)) + "}",
        "tensors, at most",
    ),
    "much metadata": (lambda: '{"__metadata__":{"a":"' + "x" * 11_000_000 + '"}}', "length"),
    "empty lists": (lambda: '{"a":[' + "[]," * MANY + "[]]}", "arrays and objects"),
    "a long shape": (
        lambda: json.dumps({"x": {"dtype": "F32", "shape": [1] * MANY, "data_offsets": [0, 4]}}),
        "tensor x",
    ),
    "half a character": (lambda: '{"\\ud800":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', "a name must have"),
    "a huge offset": (
        lambda: json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, DIGITS]}}),
        "data_offsets",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_safetensors(name: str, tmp_path: Path) -> None:
    header, named = HEADERS[name]
    directory = copy(tmp_path / "model", without="model.safetensors")
    data = header().encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data + bytes(4))
    check(directory, [str(directory / "model.safetensors"), named])


# -- GGUF --------------------------------------------------------------------------------------------------------------

T = "tokenizer.ggml."


def key(name: str, value: Any, kind: Kind, element: Kind | None = None) -> Callable[[gguf_py.Keys, Any], None]:
    def edit(keys: gguf_py.Keys, _: Any) -> None:
        keys[name] = (value, kind, element)

    return edit


def with_tokens(count: int, kind: int) -> Callable[[gguf_py.Keys, Any], None]:
    def edit(keys: gguf_py.Keys, _: Any) -> None:
        for name, more in (("tokens", [f"zz{i}" for i in range(count)]), ("token_type", [kind] * count)):
            value, array, element = keys[T + name]
            keys[T + name] = ([*value, *more], array, element)
        del keys[T + "scores"]

    return edit


def token_type(value: int) -> Callable[[gguf_py.Keys, Any], None]:
    def edit(keys: gguf_py.Keys, _: Any) -> None:
        count = len(keys[T + "tokens"][0])
        keys[T + "token_type"] = ([value] * count, Kind.ARRAY, Kind.INT32)

    return edit


KEYS: dict[str, tuple[Callable[[gguf_py.Keys, Any], None], str]] = {
    "a model that is an array": (key(T + "model", [1, 2], Kind.ARRAY, Kind.INT32), T + "model"),
    "an array of temperatures": (key("general.sampling.temp", [0.5], Kind.ARRAY, Kind.FLOAT32), "sampling.temp"),
    "top_k as words": (key("general.sampling.top_k", ["a"], Kind.ARRAY, Kind.STRING), "sampling.top_k"),
    "an infinite top_p": (key("general.sampling.top_p", math.inf, Kind.FLOAT32), "sampling.top_p"),
    "types that are none": (token_type(9), "token_type"),
    "types below 0": (token_type(-1), "token_type"),
    "control tokens": (with_tokens(66_000, 3), T + "tokens"),
    "a long template": (key("tokenizer.chat_template", "a" * 5_000_000, Kind.STRING), "chat_template"),
    "an empty template": (key("tokenizer.chat_template", "", Kind.STRING), "chat_template"),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_gguf_keys(name: str, tmp_path: Path) -> None:
    edit, named = KEYS[name]
    check(gguf_py.rewrite(tmp_path / "x.gguf", GGUF, edit=edit), [str(tmp_path / "x.gguf"), named])


def test_gguf_ids_without_end(tmp_path: Path) -> None:
    name, count = T + "eos_token_ids", 2_000_003
    entry = text(name) + struct.pack("<IIQ", 9, 5, count) + bytes(4 * count)
    assert len(entry) % 32 == 0  # so that all behind it stays aligned
    data = GGUF.read_bytes()
    keys = int.from_bytes(data[16:24], "little") + 1
    (tmp_path / "x.gguf").write_bytes(data[:16] + struct.pack("<Q", keys) + entry + data[24:])
    check(tmp_path / "x.gguf", [str(tmp_path / "x.gguf"), name])


def raw(keys: int, tensors: int, more: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + more


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


CONTAINERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "many keys": (lambda: raw(70_000, 0, b"".join(text(f"k{i}") + b"\7\0\0\0\1" for i in range(70_000))), "keys"),
    "many tensors": (
        lambda: raw(
            0, 40_000, b"".join(text(f"t{i}") + struct.pack("<IQIQ", 1, 8, 0, 32 * i) for i in range(40_000))
        ),
        "tensors",
    ),
    "a long array": (
        lambda: raw(1, 0, text("k") + struct.pack("<IIQ", 9, 7, 100 * MANY) + bytes(100 * MANY)),
        "key 'k'",
    ),
    "strings of nothing": (
        lambda: raw(1, 0, text("k") + struct.pack("<IIQ", 9, 8, 20 * MANY) + bytes(160 * MANY)),
        "strings in key 'k'",
    ),
    "an array of arrays": (lambda: raw(1, 0, text("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(64)), "key 'k'"),
    "a declared array": (lambda: raw(1, 0, text("k") + struct.pack("<IIQ", 9, 4, 1 << 61) + bytes(64)), "key 'k'"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_gguf_containers(name: str, tmp_path: Path) -> None:
    data, named = CONTAINERS[name]
    path = tmp_path / "x.gguf"
    path.write_bytes(data())
    check(path, [str(path), named])


def test_the_good_files_load(tmp_path: Path) -> None:
    for source in (copy(tmp_path / "model", without=""), gguf_py.rewrite(tmp_path / "x.gguf", GGUF)):
        assert not measure(answer, source).error
