"""Which quantized safetensors directories the engine computes with, and why it refuses the others.

Knows: `quantization_config` as publishers write it. Must not know: tensors' bytes, what a tensor is for.

Two are taken as they are:

- `quant_method: "gemma"`: quants of 2, 4 or 8 bits with one scale a row, embeddings too; what a product reads and
  writes may be rounded to a lattice of 256 quants. How many bits a matrix has, its own tensors say.
- `compressed-tensors` in the form `pack-quantized`: symmetric quants of 4 bits, a scale for each group of a row or for
  the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import _core
from ..errors import ModelFileError, RequestError
from ..jsonfile import type_name

__all__ = ["QUANTS", "check", "refuse_other_dtype"]

QUANTS = frozenset({"U8", "I8", "I32", "I64"})
"""The dtypes of safetensors that only a quantized checkpoint has."""

_BITS = (2, 4, 8)
_INSTEAD = (
    "take the checkpoint in bf16 that it was made from, or one that is published in 4 bits: a `-qat-q4_0-gguf` file, "
    "a `-qat-w4a16-ct` directory"
)
_ASKED = {  # of the weights of a group
    "num_bits": (4,),
    "type": ("int",),
    "symmetric": (True,),
    "dynamic": (False, None),
    "strategy": ("group", "channel", None),
    "actorder": (None, "static", "weight"),  # these leave the order of the columns as it is
    "block_structure": (None,),
}


def check(config: Mapping[str, Any], source: str) -> bool:
    """Whether a config.json is that of a quantized checkpoint.

    Args:
        config: the JSON object.
        source: the file's name, for messages.

    Raises:
        ModelFileError: it is one, of a kind that is not supported; names the kind and what to take instead.
    """
    text = config.get("text_config")
    for holder, path in ((config, ""), (text if isinstance(text, dict) else {}, "text_config.")):
        for name in ("quantization_config", "quantization"):
            found = holder.get(name)
            if found is not None:
                _check(found, f"{source}: {path}{name}")
                return True
    return False


def refuse_other_dtype(store: _core.TensorStore, dtype: str) -> None:
    """Raises RequestError where the matrices of a quantized checkpoint are asked for in another format."""
    if any(store.dtype(name) in QUANTS for name in store.names()):
        raise RequestError(
            f"dtype: {dtype!r} asked of a checkpoint that is quantized already; 'auto' computes with its own quants. "
            f"For another format, {_INSTEAD}"
        )


def _check(found: Any, where: str) -> None:
    if not isinstance(found, dict):
        raise ModelFileError(f"{where}: expected an object, found {type_name(found)}")
    method = found.get("quant_method")
    if method == "gemma":
        _check_gemma(found, where)
    elif method == "compressed-tensors":
        _check_compressed(found, where)
    elif method is None and {"bits", "group_size"} <= set(found):
        raise _unsupported(where, "groups as MLX packs them")
    else:
        algorithm = found.get("quant_algo")
        kind = method if algorithm is None else f"{method} {algorithm}"
        raise _unsupported(f"{where}.quant_method", str(kind)[:80])


def _check_gemma(found: dict[str, Any], where: str) -> None:
    modules = found.get("module_quant_configs") or {}
    if not isinstance(modules, dict) or not all(isinstance(options, dict) for options in modules.values()):
        raise ModelFileError(f"{where}.module_quant_configs: expected an object of objects, found {type_name(modules)}")
    for options, path in ((found, ""), *((options, "module_quant_configs.") for options in modules.values())):
        bits = options.get("num_bits", 4)
        if type(bits) is not int or bits not in _BITS:
            raise ModelFileError(f"{where}.{path}num_bits: expected 2, 4 or 8, found {str(bits)[:40]}")


def _check_compressed(found: dict[str, Any], where: str) -> None:
    form = found.get("format")
    if form != "pack-quantized":
        raise _unsupported(f"{where}.format", f"compressed-tensors {str(form)[:80]}")
    groups = found.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise ModelFileError(f"{where}.config_groups: expected an object of groups, found {type_name(groups)}")
    for name, group in groups.items():
        at = f"{where}.config_groups.{name[:40]}"
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict):
            raise ModelFileError(f"{at}.weights: expected an object, found {type_name(weights)}")
        for part in ("input_activations", "output_activations"):
            if group.get(part) is not None:
                raise _unsupported(f"{at}.{part}", "compressed-tensors with quantized activations")
        if group.get("format") not in (None, form):
            raise _unsupported(f"{at}.format", f"compressed-tensors {str(group['format'])[:80]}")
        for field, expected in _ASKED.items():
            value = weights.get(field)
            if not any(value is item or (type(value) is type(item) and value == item) for item in expected):
                raise _unsupported(f"{at}.weights.{field}", f"compressed-tensors pack-quantized of {str(value)[:40]}")
    for part in ("kv_cache_scheme", "sparsity_config", "transform_config"):
        if found.get(part):
            raise _unsupported(f"{where}.{part}", f"compressed-tensors with a {part}")


def _unsupported(where: str, kind: str) -> ModelFileError:
    return ModelFileError(f"{where}: {kind} is not supported; {_INSTEAD}")
