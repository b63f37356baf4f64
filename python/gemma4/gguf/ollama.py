"""The spellings of Ollama's own converter, which writes text and encoders into one file, as llama.cpp's.

Knows: both sets of keys and names. Must not know: what they mean.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from .container import GgufFile

__all__ = ["CLAMPS", "as_llama_cpp"]

CLAMPS = "v.clamp_data"
"""(layers * 7 + 1, 4) the bounds of the vision encoder's matrices once more, in one tensor."""
_PLAIN = {
    "a.pre_encode.out.weight": "a.input_projection.weight",
    "mm.a.fc.weight": "a.pre_encode.out.weight",
    "mm.a.fc.bias": "a.pre_encode.out.bias",
}
_AUDIO_LAYER = {
    "ln1": "attn_pre_norm",
    "ln2": "attn_post_norm",
    "layer_pre_norm": "ln2",
    "linear_pos": "attn_k_rel",
}
_LAYER = re.compile(rf"(a\.blk\.\d+\.)({'|'.join(_AUDIO_LAYER)})(\.weight)")
_PROJECTORS = {"vision": "gemma4v", "audio": "gemma4a"}


def as_llama_cpp(file: GgufFile) -> GgufFile:
    """The same file with the keys and names that llama.cpp's converter would have given; as it is if it has them."""
    metadata = dict(file.metadata)
    spelled = [metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre")]
    if all(isinstance(name, str) for name in spelled) and spelled == ["llama", "gemma4"]:
        metadata["tokenizer.ggml.model"] = "gemma4"
    for modality, projector in _PROJECTORS.items():
        own = {key: value for key, value in metadata.items() if key.startswith(f"gemma4.{modality}.")}
        if own:
            metadata |= _spelled(own, modality)
            metadata.setdefault(f"clip.has_{modality}_encoder", True)
            metadata.setdefault(f"clip.{modality}.projector_type", projector)
    containers = [replace(part, metadata=metadata, tensors=_renamed(part)) for part in file.containers]
    if len(containers) == 1:
        return containers[0]
    tensors = {name: tensor for part in containers for name, tensor in part.tensors.items()}
    return replace(containers[0], tensors=tensors, parts=tuple(containers))


def _spelled(keys: dict[str, Any], modality: str) -> dict[str, Any]:
    return {f"clip.{modality}." + key.removeprefix(f"gemma4.{modality}."): value for key, value in keys.items()}


def _renamed(part: GgufFile) -> dict[str, Any]:
    if not any(name.endswith(".linear_pos.weight") for name in part.tensors):
        return part.tensors
    names = {
        name: _PLAIN.get(name) or _LAYER.sub(lambda match: match[1] + _AUDIO_LAYER[match[2]] + match[3], name)
        for name in part.tensors
    }
    return {names[name]: replace(tensor, name=names[name]) for name, tensor in part.tensors.items()}
