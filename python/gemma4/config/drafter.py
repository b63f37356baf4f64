"""config.json of a drafter, turned into the engine's `DrafterConfig`, and whether it fits a model.

Knows: the field names and defaults of the published drafters. Must not know: tensors, how guesses are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import _core
from ..errors import ModelFileError
from .model import UNIFIED_DEFAULTS, ParsedConfig
from .section import MAX_WIDTH, Section
from .text import text_config

__all__ = ["parse_drafter"]

_KINDS = ("gemma4_assistant", "gemma4_unified_assistant")
_WIDTHS = dict(zip(_KINDS, (1536, 3840), strict=True))  # of the targets, where the file does not say
# What a drafter's layers do not have, and how that is said; all keys and values are the target's.
_NEUTRAL: dict[str, Any] = {
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 0,
    "enable_moe_block": False,
    "use_double_wide_mlp": False,
}


def parse_drafter(data: Mapping[str, Any], source: str, target: ParsedConfig) -> _core.DrafterConfig:
    """Check a drafter's config against itself and against its target's.

    Args:
        data: the JSON object.
        source: the file's name, for messages.
        target: of the model that the drafter is to guess for.

    Raises:
        ModelFileError: a field is missing, has the wrong type, is out of range, or does not fit the target.
    """
    top = Section(data, source, "")
    kind = top.text("model_type", None)
    if kind not in _KINDS:
        raise top.error("model_type", f"expected a drafter, {' or '.join(map(repr, _KINDS))}, found {kind!r:.60}")
    text = top.section("text_config")
    if text is None:
        raise top.error("text_config", "expected an object, found nothing")
    unified = kind == _KINDS[1]
    drafter = _core.DrafterConfig()
    drafter.text = text_config(_query_only(text, unified))
    drafter.text.tied_embeddings = top.boolean("tie_word_embeddings", True)
    drafter.target_hidden = top.integer("backbone_hidden_size", _WIDTHS[kind], 1, MAX_WIDTH)
    if top.boolean("use_ordered_embeddings", False):
        drafter.centroids = top.integer("num_centroids", 2048, 1, drafter.text.vocab)
        drafter.centroids_used = top.integer("centroid_intermediate_top_k", 32, 1, drafter.centroids)
        if drafter.text.vocab % drafter.centroids:
            raise top.error("num_centroids", f"{drafter.text.vocab} tokens are no multiple of {drafter.centroids}")
    _check_fit(top, text, drafter, target.core.text)
    return drafter


def _query_only(text: Section, unified: bool) -> Section:
    """The fields as those of a decoder whose layers read their own keys: whose they read is known with the target."""
    for name, neutral in _NEUTRAL.items():
        if not unified and text.given(name) and text.data[name] != neutral:
            raise text.error(name, f"expected {str(neutral).lower()} in a drafter, found {str(text.data[name])[:40]}")
    layers, shared = text.data.get("num_hidden_layers"), text.data.get("num_kv_shared_layers")
    if shared not in (None, 0, layers):
        raise text.error("num_kv_shared_layers", f"expected all {str(layers)[:40]} layers, found {str(shared)[:40]}")
    defaults = UNIFIED_DEFAULTS if unified else {}
    return Section({**defaults, **text.data, **_NEUTRAL, "num_kv_shared_layers": 0}, text.source, text.path)


def _check_fit(top: Section, text: Section, drafter: _core.DrafterConfig, target: _core.TextConfig) -> None:
    """Whether the drafter reads what the target has."""

    def unfit(section: Section, name: str, own: int, wanted: int, of: str = "") -> ModelFileError:
        return section.error(name, f"is {own}{of}, but that of the model is {wanted}: a drafter of another model")

    own = drafter.text
    if drafter.target_hidden != target.hidden:
        raise unfit(top, "backbone_hidden_size", drafter.target_hidden, target.hidden)
    if own.vocab != target.vocab:
        raise unfit(text, "vocab_size", own.vocab, target.vocab)
    if own.window != target.window:
        raise unfit(text, "sliding_window", own.window, target.window)
    for index, layer in enumerate(own.layers):
        read = [of for i, of in enumerate(target.layers) if of.kv_layer == i and of.sliding == layer.sliding]
        if not read:
            raise text.error("layer_types", f"the model has no keys and values of the kind that layer {index} reads")
        if layer.head_dim != read[-1].head_dim:
            name = "head_dim" if layer.sliding else "global_head_dim"
            raise unfit(text, name, layer.head_dim, read[-1].head_dim, f" in layer {index}")
        if layer.kv_heads != read[-1].kv_heads:
            name = "num_key_value_heads" if layer.sliding else "num_global_key_value_heads"
            raise unfit(text, name, layer.kv_heads, read[-1].kv_heads, f" in layer {index}")
