"""config.json of a drafter: the engine's sizes, and a refusal by name of whatever does not fit its model."""

from __future__ import annotations

from typing import Any

import pytest
from gemma4 import ModelFileError
from gemma4.config import ParsedConfig, parse_config, parse_drafter

MODEL: dict[str, Any] = {
    "vocab_size": 64,
    "vocab_size_per_layer_input": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "global_head_dim": 16,
    "sliding_window": 8,
    "hidden_size_per_layer_input": 8,
}
# What a drafter of that model says of itself, with the published field names.
TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "vocab_size_per_layer_input": 0,
    "hidden_size": 20,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "global_head_dim": 16,
    "sliding_window": 8,
}


def model(kind: str = "gemma4", **text: Any) -> ParsedConfig:
    return parse_config({"model_type": kind, "text_config": {**MODEL, **text}})


def drafter(text: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    return {
        "model_type": "gemma4_assistant",
        "backbone_hidden_size": 32,
        "text_config": {**TEXT, **(text or {})},
        "use_ordered_embeddings": True,
        "num_centroids": 16,
        "centroid_intermediate_top_k": 4,
        **top,
    }


@pytest.fixture
def target() -> ParsedConfig:
    return model()


def test_sizes(target: ParsedConfig) -> None:
    core = parse_drafter(drafter(), "config.json", target)
    assert (core.target_hidden, core.centroids, core.centroids_used) == (32, 16, 4)
    assert [layer.sliding for layer in core.text.layers] == [True, True, True, False]
    assert [layer.head_dim for layer in core.text.layers] == [8, 8, 8, 16]
    assert core.text.ple_dim == 0 and core.text.tied_embeddings


def test_dense_head(target: ParsedConfig) -> None:
    core = parse_drafter(drafter(use_ordered_embeddings=False, tie_word_embeddings=False), "config.json", target)
    assert core.centroids == 0 and not core.text.tied_embeddings


def test_unified_says_less() -> None:
    """The fields that its layers do not have are not in its file."""
    target = model("gemma4_unified")
    data = drafter(model_type="gemma4_unified_assistant")
    for name in ("hidden_size_per_layer_input", "vocab_size_per_layer_input", "num_kv_shared_layers"):
        del data["text_config"][name]
    assert parse_drafter(data, "config.json", target).text.ple_dim == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ({"vocab_size": 48}, "text_config.vocab_size"),
        ({"sliding_window": 9}, "text_config.sliding_window"),
        ({"head_dim": 16}, "text_config.head_dim"),
        ({"global_head_dim": 24}, "text_config.global_head_dim"),
        ({"num_key_value_heads": 1}, "text_config.num_key_value_heads"),
        ({"num_attention_heads": 3}, "text_config.num_key_value_heads"),
        ({"num_kv_shared_layers": 2}, "text_config.num_kv_shared_layers"),
        ({"hidden_size_per_layer_input": 8}, "text_config.hidden_size_per_layer_input"),
        ({"enable_moe_block": True}, "text_config.enable_moe_block"),
        ({"use_double_wide_mlp": True}, "text_config.use_double_wide_mlp"),
        ({"num_hidden_layers": 0, "num_kv_shared_layers": 0}, "text_config.num_hidden_layers"),
        ({"hidden_size": "wide"}, "text_config.hidden_size"),
    ],
)
def test_unfit_layers_are_named(target: ParsedConfig, text: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelFileError, match=f"^drafter/config.json: {named}: "):
        parse_drafter(drafter(text), "drafter/config.json", target)


@pytest.mark.parametrize(
    "top",
    [
        {"model_type": "gemma4"},
        {"model_type": None},
        {"text_config": None},
        {"backbone_hidden_size": 33},
        {"backbone_hidden_size": None},
        {"use_ordered_embeddings": 1},
        {"num_centroids": 0},
        {"num_centroids": 7},
        {"num_centroids": 65},
        {"centroid_intermediate_top_k": 17},
        {"centroid_intermediate_top_k": 0},
        {"tie_word_embeddings": "no"},
    ],
)
def test_bad_fields_are_named(target: ParsedConfig, top: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match=f"^config.json: {next(iter(top))}: "):
        parse_drafter(drafter(**top), "config.json", target)


def test_a_kind_of_layer_that_the_model_lacks() -> None:
    """A model of global layers alone has nothing for sliding ones."""
    target = model(layer_types=["full_attention"] * 6)
    with pytest.raises(ModelFileError, match=r"text_config\.layer_types"):
        parse_drafter(drafter(), "config.json", target)
