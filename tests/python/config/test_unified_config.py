"""config.json of the unified model, which has no encoders: its own defaults and types, errors that name the field."""

from __future__ import annotations

from typing import Any

import pytest
from gemma4 import ModelFileError
from gemma4.config import PatchGrid, parse_config


def config(**sections: Any) -> dict[str, Any]:
    """The type's own defaults in everything that is not given."""
    return {"model_type": "gemma4_unified", "text_config": {}, "vision_config": {}, "audio_config": {}, **sections}


def test_defaults_of_the_type() -> None:
    """As `Gemma4UnifiedConfig` gives them."""
    parsed = parse_config(config())
    core, text = parsed.core, parsed.core.text
    assert (text.context, text.window, text.ple_dim, text.experts) == (262_144, 1024, 0, 0)
    assert text.bidirectional_images and text.whole_images
    assert core.vision is None and core.audio is None
    assert core.pixels is not None and core.samples is not None
    assert (core.pixels.side, core.pixels.width, core.pixels.positions) == (48, 3840, 1120)
    assert core.samples.frame == 640
    assert parsed.grid == PatchGrid(16, 3, 1120 * 48)
    assert parsed.text_prefix == "model.language_model."


def test_fields_that_the_type_lacks_are_ignored() -> None:
    other = {"hidden_size_per_layer_input": 256, "enable_moe_block": True, "vocab_size_per_layer_input": "x"}
    text = parse_config(config(text_config=other)).core.text
    assert (text.ple_dim, text.experts) == (0, 0)


def test_pictures_may_be_causal() -> None:
    text = parse_config(config(text_config={"use_bidirectional_attention": None})).core.text
    assert not text.bidirectional_images and not text.whole_images


def test_other_types_see_pictures_within_the_window() -> None:
    """The reference's two kinds of models differ in this."""
    plain = {"model_type": "gemma4", "text_config": {"use_bidirectional_attention": "vision"}}
    text = parse_config(plain).core.text
    assert text.bidirectional_images and not text.whole_images


def test_text_only() -> None:
    parsed = parse_config({"model_type": "gemma4_unified_text", "num_hidden_layers": 3})
    assert (parsed.core.text.context, len(parsed.core.text.layers)) == (262_144, 3)
    assert parsed.grid is None and parsed.core.samples is None and parsed.text_prefix == "model."


def test_a_frame_has_four_names() -> None:
    for name in ("audio_embed_dim", "audio_samples_per_token", "hidden_size", "output_proj_dims"):
        samples = parse_config(config(audio_config={name: 320})).core.samples
        assert samples is not None and samples.frame == 320


@pytest.mark.parametrize(
    ("section", "fields", "named"),
    [
        ("vision_config", {"patch_size": 0}, "patch_size"),
        ("vision_config", {"patch_size": 16.0}, "patch_size"),
        ("vision_config", {"pooling_kernel_size": 65}, "pooling_kernel_size"),
        ("vision_config", {"patch_size": 256, "pooling_kernel_size": 64}, "side"),
        ("vision_config", {"mm_embed_dim": "wide"}, "mm_embed_dim"),
        ("vision_config", {"mm_embed_dim": 64}, "output_proj_dims"),
        ("vision_config", {"output_proj_dims": 64}, "output_proj_dims"),
        ("vision_config", {"mm_posemb_size": 0}, "mm_posemb_size"),
        ("vision_config", {"mm_posemb_size": None}, "mm_posemb_size"),
        ("vision_config", {"model_patch_size": 32}, "model_patch_size"),
        ("vision_config", {"rms_norm_eps": -1}, "rms_norm_eps"),
        ("audio_config", {"audio_embed_dim": 0}, "audio_embed_dim"),
        ("audio_config", {"audio_embed_dim": True}, "audio_embed_dim"),
        ("audio_config", {"audio_embed_dim": 640, "audio_samples_per_token": 320}, "audio_samples_per_token"),
        ("audio_config", {"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ("text_config", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ("text_config", {"sliding_window": 0}, "sliding_window"),
    ],
)
def test_bad_fields_are_named(section: str, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelFileError, match=named):
        parse_config(config(**{section: fields}))


def test_drafters_are_later() -> None:
    with pytest.raises(ModelFileError, match="drafter"):
        parse_config({"model_type": "gemma4_unified_assistant"})
