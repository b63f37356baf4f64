"""config.json: the same sizes as the reference reads, and a typed error for whatever else stands there."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from gemma4 import ModelFileError
from gemma4.config import parse_config
from gemma4.jsonfile import parse_object, read_json

TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "vocab_size_per_layer_input": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 8,
    "hidden_size_per_layer_input": 8,
    "final_logit_softcapping": 30.0,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def config(**text: Any) -> dict[str, Any]:
    return {
        "model_type": "gemma4",
        "text_config": {**TEXT, "global_head_dim": 16, **text},
        "vision_config": dict(VISION),
        "boi_token_id": 17,
        "image_token_id": 18,
        "eoi_token_id": 19,
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "k is v": {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
    "global heads without k is v": {"num_global_key_value_heads": 1},
    "shared": {
        "num_kv_shared_layers": 3,
        "use_double_wide_mlp": True,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
    },
    "last layer sliding": {"layer_types": ["full_attention", "sliding_attention"] * 3},
    "experts": {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 12},
    "rope": {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": 7e5,
                "partial_rotary_factor": 0.5,
                "factor": 4.0,
            },
        }
    },
    "bidirectional": {"use_bidirectional_attention": "vision"},
    "no per-layer embeddings": {"hidden_size_per_layer_input": 0},
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("style", ["published", "per_layer_config"])
def test_same_as_the_reference(name: str, style: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    data = config(**copy.deepcopy(VARIANTS[name]))
    theirs = transformers.Gemma4Config(**copy.deepcopy(data))
    if style == "per_layer_config":
        theirs.save_pretrained(tmp_path)
        data = read_json(tmp_path / "config.json")
        assert "per_layer_config" in data["text_config"]
    ours = parse_config(data).core.text
    text = theirs.text_config
    assert (ours.vocab, ours.hidden, ours.window) == (text.vocab_size, text.hidden_size, text.sliding_window)
    assert ours.logit_cap == text.final_logit_softcapping
    assert len(ours.layers) == text.num_hidden_layers
    modes = text.kv_sharing_modes
    for index, layer in enumerate(ours.layers):
        kind, own = text.layer_types[index], text.per_layer_config[index]
        assert layer.sliding == (kind == "sliding_attention")
        assert (layer.head_dim, layer.kv_heads) == (own.head_dim, own.num_key_value_heads)
        assert layer.k_is_v == (text.attention_k_eq_v and not layer.sliding)
        assert (layer.kv_layer != index) == (modes[index] == "reuse")
        assert text.layer_types[layer.kv_layer] == kind
        assert modes[layer.kv_layer] != "reuse"
        wide = text.use_double_wide_mlp and modes[index] == "reuse"
        assert layer.ffn == text.intermediate_size * (2 if wide else 1)
        rope = text.rope_parameters[kind]
        share = rope.get("partial_rotary_factor", 1.0) if rope["rope_type"] == "proportional" else 1.0
        assert layer.rope_theta == rope["rope_theta"]
        assert layer.rope_pairs == int(share * own.head_dim // 2)
        assert layer.rope_factor == rope.get("factor", 1.0)
        assert layer.moe == text.enable_moe_block


def test_defaults_are_the_reference_s() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Gemma4TextConfig()
    ours = parse_config({"model_type": "gemma4_text"})
    text = ours.core.text
    assert ours.text_prefix == "model."
    assert ours.core.vision is None
    assert (text.vocab, text.hidden, text.heads) == (theirs.vocab_size, theirs.hidden_size, theirs.num_attention_heads)
    assert (text.context, text.ple_dim) == (theirs.max_position_embeddings, theirs.hidden_size_per_layer_input)
    assert [layer.sliding for layer in text.layers] == [kind == "sliding_attention" for kind in theirs.layer_types]
    assert {layer.head_dim for layer in text.layers} == {256, 512}
    vision = parse_config({**config(), "vision_config": {}}).core.vision
    theirs_vision = transformers.Gemma4VisionConfig()
    assert vision is not None
    assert (vision.hidden, vision.patch, vision.pool) == (
        theirs_vision.hidden_size,
        theirs_vision.patch_size,
        theirs_vision.pooling_kernel_size,
    )
    assert vision.positions == theirs_vision.position_embedding_size
    assert vision.rope_theta == theirs_vision.rope_parameters["rope_theta"]


def test_token_ids_and_ends() -> None:
    parsed = parse_config({**config(), "eos_token_id": [1, 16]})
    assert parsed.eos_ids == (1, 16)
    assert parsed.image is not None
    assert (parsed.image.open, parsed.image.soft, parsed.image.close) == (17, 18, 19)
    assert parse_config(config(eos_token_id=5)).eos_ids == (5,)
    # Ids that the vocabulary lacks are no picture's tokens; text still works.
    assert parse_config({**config(), "image_token_id": 258_880}).image is None


def test_unknown_fields_are_ignored() -> None:
    data = {**config(auto_map={"AutoModel": "evil.Model"}), "auto_map": {"AutoConfig": "x.y"}, "_name_or_path": "/etc"}
    assert parse_config(data).core.text.vocab == 64


HUGE = 10**9
BAD_TEXT: list[tuple[str, Any]] = [
    *(
        (name, value)
        for name in (
            "hidden_size",
            "num_hidden_layers",
            "vocab_size",
            "head_dim",
            "sliding_window",
            "num_attention_heads",
            "num_key_value_heads",
            "intermediate_size",
            "max_position_embeddings",
        )
        for value in (0, -1, True, 8.0, "8", None, [8], 10**18)
    ),
    ("num_hidden_layers", HUGE),
    ("head_dim", 7),
    ("num_key_value_heads", 3),
    ("rms_norm_eps", "small"),
    ("rms_norm_eps", -1),
    ("rms_norm_eps", True),
    ("final_logit_softcapping", 0),
    ("final_logit_softcapping", math.nan),
    ("hidden_activation", "relu"),
    ("attention_bias", True),
    ("attention_bias", 1),
    ("use_bidirectional_attention", "all"),
    ("num_kv_shared_layers", -1),
    ("num_kv_shared_layers", 7),
    ("num_kv_shared_layers", 6),
    ("layer_types", ["sliding_attention"] * 5),
    ("layer_types", ["sliding_attention"] * 5 + ["linear_attention"]),
    ("layer_types", "sliding_attention"),
    ("rope_parameters", {"rope_theta": 1e4}),
    ("rope_parameters", []),
    ("rope_parameters", {"sliding_attention": None, "full_attention": None}),
    ("rope_parameters", {"sliding_attention": {"rope_type": "yarn", "rope_theta": 1e4}}),
    ("rope_parameters", {"sliding_attention": {"rope_theta": 0}}),
    ("rope_parameters", {"sliding_attention": {"rope_theta": math.nan}}),
    ("enable_moe_block", True),  # without the number of experts
    ("attention_k_eq_v", "yes"),
    ("per_layer_config", []),
    ("per_layer_config", {"6": {"head_dim": 8}}),
    ("per_layer_config", {"-1": {"head_dim": 8}}),
    ("per_layer_config", {"x": {}}),
    ("per_layer_config", {"5": 3}),
    ("per_layer_config", {"5": {"head_dim": 9}}),
    ("per_layer_config", {"5": {"head_dim": True}}),
    ("per_layer_config", {"5": {"intermediate_size": 96}}),
    ("per_layer_config", {"5": {"skip": ["mlp"]}}),
    ("per_layer_config", {"0": {"head_dim": 16}}),  # sliding layers that differ
    ("vocab_size_per_layer_input", 63),  # tokens without a row
    ("pad_token_id", None),
    ("pad_token_id", 64),
    ("eos_token_id", [1, -1]),
    ("eos_token_id", "1"),
    ("eos_token_id", True),
]


@pytest.mark.parametrize(("name", "value"), BAD_TEXT)
def test_bad_text_fields_are_named(name: str, value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        parse_config(config(**{name: value}), "dir/config.json")
    message = str(caught.value)
    related = {"num_experts", "num_key_value_heads", "num_attention_heads", "head_dim"}
    assert message.startswith("dir/config.json: ")
    assert name in message or any(other in message for other in related)
    assert len(message) < 500


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in (
                "patch_size",
                "pooling_kernel_size",
                "hidden_size",
                "position_embedding_size",
                "num_hidden_layers",
                "head_dim",
            )
            for value in (0, -3, None, True, "3", 2.5)
        ),
        ("num_key_value_heads", 3),
        ("head_dim", 6),
        ("rope_parameters", {"rope_type": "yarn"}),
        ("rope_parameters", 3),
        ("hidden_activation", "silu"),
        ("attention_bias", True),
        ("use_clipped_linears", "true"),
        ("standardize", 1),
    ],
)
def test_bad_vision_fields_are_named(name: str, value: Any) -> None:
    data = config()
    data["vision_config"][name] = value
    with pytest.raises(ModelFileError, match=f"vision_config.*{name}"):
        parse_config(data)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"model_type": None}, "model_type"),
        ({"model_type": "gemma4_assistant"}, "drafter"),
        ({"text_config": None}, "text_config"),
        ({"text_config": []}, "text_config"),
        ({"vision_config": "x"}, "vision_config"),
        ({"audio_config": 3}, "audio_config"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"image_token_id": 17}, "image_token_id"),
        ({"image_token_id": -5}, "image_token_id"),
        ({"boi_token_id": "<|image>"}, "boi_token_id"),
    ],
)
def test_bad_top_fields_are_named(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ModelFileError, match=expected):
        parse_config({**config(), **change})


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"[1]", "array"),
        (b"{", "not JSON"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": {"b": 1, "c": 2, "b": 2}}', "twice"),
        (b'{"a": nan}', "not JSON"),
        (b'{"a": 01}', "not JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deeper"),
        (b"[" * 1_000_000, "deeper"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": 1} x', "not JSON"),
        (b"{'a': 1}", "not JSON"),
    ],
)
def test_strict_json(data: bytes, problem: str) -> None:
    with pytest.raises(ModelFileError, match=problem):
        parse_object(data, "config.json")


# What Python's writer writes, and what only other writers do.
NUMBERS = [10**30, -(10**400), 1e300, math.inf, -math.inf]


@pytest.mark.parametrize("value", NUMBERS)
def test_numbers_of_any_size_are_read(value: float) -> None:
    assert parse_object(json.dumps({"a": value}).encode(), "c") == {"a": value}


def test_what_python_cannot_read_is_read_as_infinite() -> None:
    assert math.isnan(parse_object(b'{"a": NaN}', "c")["a"])
    assert parse_object(b'{"a": [1e999, ' + b"9" * 100_000 + b"]}", "c") == {"a": [math.inf, math.inf]}


@pytest.mark.parametrize("value", [*NUMBERS, math.nan], ids=str)
def test_only_numbers_that_are_read_are_judged(value: float) -> None:
    def changed(**fields: float) -> dict[str, Any]:
        data = config()
        data["text_config"].update(fields)
        return parse_object(json.dumps(data).encode(), "config.json")

    parse_config(changed(initializer_range=value, some_note=value))
    for name in ("rms_norm_eps", "hidden_size", "final_logit_softcapping", "eos_token_id", "pad_token_id"):
        with pytest.raises(ModelFileError, match=name) as caught:
            parse_config(changed(**{name: value}))
        assert len(str(caught.value)) < 200


def test_brackets_in_strings_are_no_depth() -> None:
    text = "[{" * 500 + '\\"' + "[" * 500
    assert parse_object(json.dumps({"a": text}).encode(), "c") == {"a": text}


def test_files_that_are_no_config(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(ModelFileError, match="does not exist"):
        read_json(path)
    path.write_bytes(b" " * 10_000_001)
    with pytest.raises(ModelFileError, match="10000001 bytes"):
        read_json(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(ModelFileError, match="git lfs pull"):
        read_json(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ModelFileError, match="regular file"):
        read_json(path)
