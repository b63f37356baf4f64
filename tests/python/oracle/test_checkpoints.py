"""The checkpoints themselves: every mechanism is present and matters, so that the comparisons prove something.

Only the reference runs here.
"""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from .prompts import Prompt, picture, text_ids
from .reference import Reference
from .tolerance import PROMISED, relative_error
from .variants import VARIANTS, Variant

# Switching a mechanism off must move the result by this much of the largest value: 20 times what is promised, 200 times
# what is reached.
VISIBLE = 20 * PROMISED


def _fill(suffix: str, value: float) -> Callable[[Any], None]:
    """Overwrites all parameters and buffers whose name ends with `suffix`."""

    def apply(model: Any) -> None:
        found = [t for name, t in [*model.named_parameters(), *model.named_buffers()] if name.endswith(suffix)]
        assert found, suffix
        with torch.no_grad():
            for tensor in found:
                tensor.fill_(value)

    return apply


def _configure(**fields: Any) -> Callable[[Any], None]:
    def apply(model: Any) -> None:
        for name, value in fields.items():
            assert hasattr(model.config.text_config, name)
            setattr(model.config.text_config, name, value)

    return apply


def _no_value_norm(model: Any) -> None:
    for layer in model.model.language_model.layers:
        if hasattr(layer.self_attn, "v_norm"):
            layer.self_attn.v_norm = torch.nn.Identity()


def _single_wide(model: Any) -> None:
    """The second half of the double-wide MLPs is dropped."""
    text = model.config.text_config
    with torch.no_grad():
        for layer in model.model.language_model.layers[-text.num_kv_shared_layers :]:
            assert layer.mlp.down_proj.weight.shape[1] == 2 * text.intermediate_size
            layer.mlp.down_proj.weight[:, text.intermediate_size :] = 0


def _other_source(model: Any) -> None:
    """The readers get another owner's keys and values: the one before the right one of its type."""
    layers, text = model.model.language_model.layers, model.config.text_config
    owners = [i for i, kind in enumerate(text.kv_sharing_modes) if kind != "reuse"]
    stores = [i for i in owners if text.layer_types[i] == "sliding_attention"]
    layers[stores[-1]].self_attn.store_full_length_kv = False
    layers[stores[-2]].self_attn.store_full_length_kv = True


TEXT_ABLATIONS: dict[str, tuple[Callable[[Any], None], set[str]]] = {
    "layer scalar": (_fill("layer_scalar", 1.0), set(VARIANTS)),
    "soft-cap": (_configure(final_logit_softcapping=None), set(VARIANTS)),
    "window": (_configure(sliding_window=64), set(VARIANTS)),
    "sliding rotation": (_fill("sliding_attention_inv_freq", 0.0), set(VARIANTS)),
    "global rotation": (_fill("full_attention_inv_freq", 0.0), set(VARIANTS)),
    "q norm": (_fill("q_norm.weight", 0.4), set(VARIANTS)),
    "k norm": (_fill("k_norm.weight", 0.4), set(VARIANTS)),
    "v norm": (_no_value_norm, set(VARIANTS)),
    "norm before attention": (_fill("input_layernorm.weight", 1.0), set(VARIANTS)),
    "norm after attention": (_fill("post_attention_layernorm.weight", 0.6), set(VARIANTS)),
    "norm after the MLP": (_fill("post_feedforward_layernorm.weight", 0.6), set(VARIANTS)),
    "final norm": (_fill("language_model.norm.weight", 28.0), set(VARIANTS)),
    "per-layer table": (_fill("embed_tokens_per_layer.weight", 0.0), {"e2b", "e4b"}),
    "per-layer projection": (_fill("per_layer_model_projection.weight", 0.0), {"e2b", "e4b"}),
    "per-layer norm": (_fill("per_layer_projection_norm.weight", 1.0), {"e2b", "e4b"}),
    "double-wide MLP": (_single_wide, {"e2b"}),
    "source of shared keys": (_other_source, {"e2b", "e4b"}),
    "router scale": (_fill("router.scale", 1.5 * math.sqrt(72)), {"26b-a4b"}),
    "expert scale": (_fill("per_expert_scale", 1.0), {"26b-a4b"}),
    "experts": (_fill("experts.down_proj", 0.0), {"26b-a4b"}),
    "dense branch": (_fill("mlp.down_proj.weight", 0.0), {"26b-a4b"}),
    "number of experts": (_configure(top_k_experts=2), {"26b-a4b"}),
}
INF = float("inf")
VISION_ABLATIONS: dict[str, tuple[Callable[[Any], None], set[str]]] = {
    "lower input bound": (_fill("input_min", -INF), {"e2b", "e4b"}),
    "upper input bound": (_fill("input_max", INF), {"e2b", "e4b"}),
    "lower output bound": (_fill("output_min", -INF), {"e2b", "e4b"}),
    "upper output bound": (_fill("output_max", INF), {"e2b", "e4b"}),
    "std bias": (_fill("std_bias", 0.0), {"26b-a4b", "31b"}),
    "std scale": (_fill("std_scale", 0.1), {"26b-a4b", "31b"}),
    "position table": (_fill("position_embedding_table", 0.0), set(VARIANTS)),
    "rotation": (_fill("vision_tower.encoder.rotary_emb.inv_freq", 0.0), set(VARIANTS)),
}


def _cases(table: dict[str, tuple[Callable[[Any], None], set[str]]]) -> list[Any]:
    return [pytest.param(v, what, id=f"{v}-{what}") for what, (_, names) in table.items() for v in sorted(names)]


@pytest.fixture(scope="module")
def reference_of(make_checkpoint: Callable[..., Path]) -> Callable[[str], Reference]:
    known: dict[str, Reference] = {}

    def get(name: str) -> Reference:
        if name not in known:
            known[name] = Reference(make_checkpoint(name))
        return known[name]

    return get


def _changed(reference: Reference, change: Callable[[Any], None]) -> Reference:
    other = copy.copy(reference)
    other.model = copy.deepcopy(reference.model)
    change(other.model)
    return other


@pytest.mark.parametrize(("name", "what"), _cases(TEXT_ABLATIONS))
def test_text_mechanism_matters(reference_of: Callable[[str], Reference], name: str, what: str) -> None:
    ids = text_ids(VARIANTS[name], 80)
    whole = reference_of(name)
    without = _changed(whole, TEXT_ABLATIONS[what][0])
    assert relative_error(without.logits(ids), whole.logits(ids)) > VISIBLE


@pytest.mark.parametrize(("name", "what"), _cases(VISION_ABLATIONS))
def test_vision_mechanism_matters(reference_of: Callable[[str], Reference], name: str, what: str) -> None:
    image = picture(50, 70)
    whole = reference_of(name)
    without = _changed(whole, VISION_ABLATIONS[what][0])
    assert relative_error(without.soft_tokens(image, 70), whole.soft_tokens(image, 70)) > VISIBLE


def test_pictures_matter(variant: Variant, reference: Reference, two_images: Prompt) -> None:
    """The pictures, their order of attention, and the pad row of the per-layer table all reach the last logits."""
    prompt = two_images
    whole = reference.logits(prompt.ids, prompt.images, prompt.budget)[-1:]
    swapped = reference.logits(prompt.ids, [image.rotate(180) for image in prompt.images], prompt.budget)[-1:]
    assert relative_error(swapped, whole) > VISIBLE
    if variant.bidirectional:
        causal = _changed(reference, _configure(use_bidirectional_attention=None))
        assert relative_error(causal.logits(prompt.ids, prompt.images, prompt.budget)[-1:], whole) > VISIBLE
    if variant.text["hidden_size_per_layer_input"]:

        def no_pad(model: Any) -> None:
            with torch.no_grad():
                model.model.language_model.embed_tokens_per_layer.weight[0] = 0

        other = _changed(reference, no_pad)
        assert relative_error(other.logits(prompt.ids, prompt.images, prompt.budget)[-1:], whole) > VISIBLE


def test_logits_reach_the_cap_and_do_not_repeat_the_input(variant: Variant, reference: Reference) -> None:
    ids = text_ids(variant, 190)
    logits = reference.logits(ids)
    raw = 30 * np.arctanh(logits.astype(np.float64) / 30)
    assert np.abs(raw).max() > 45
    best = logits.argmax(axis=1)
    assert len(set(best.tolist())) > 60
    assert (best == ids).mean() < 0.1
    assert len(set(reference.greedy(ids, 20))) >= 8


def test_config_styles(variant: Variant, checkpoint: Path, make_checkpoint: Callable[..., Path]) -> None:
    """`save_pretrained` writes `per_layer_config`; the published keys mean the same to the reference."""
    newer = json.loads((checkpoint / "config.json").read_text())["text_config"]
    published_dir = make_checkpoint(variant.name, published=True)
    published = json.loads((published_dir / "config.json").read_text())["text_config"]
    assert "per_layer_config" in newer and "global_head_dim" not in newer
    assert "per_layer_config" not in published and published["global_head_dim"] == variant.text["global_head_dim"]
    ids = text_ids(variant, 40)
    assert np.array_equal(Reference(published_dir).logits(ids), Reference(checkpoint).logits(ids))
