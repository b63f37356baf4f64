"""Adapters as PEFT saves them: adapter_config.json, and the two thin matrices of each linear that it changes in
adapter_model.safetensors.

Knows: PEFT's fields, and its names of a model's linears. Must not know: which linears a model has (the engine does),
requests. What would give other answers than PEFT's own is refused by the name of its field.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .. import _core
from ..config import ParsedConfig
from ..errors import ModelFileError, RequestError
from ..jsonfile import present, read_json, type_name
from .safetensors import open_file

__all__ = ["AdapterFiles", "open_adapter"]

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_MOST_RANK = 1 << 16
_MOST_PATTERNS = 1 << 14
_MOST_PATTERN = 300  # characters

# Of these fields nothing depends once an adapter is trained; all others must be what they are when nobody sets them.
_ASIDE = frozenset({
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config",
    "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules",
    "target_parameters", "task_type",
})  # fmt: skip
_READ = frozenset({
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "init_lora_weights",
})  # fmt: skip
_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to begin that leave the model's own weights alone."""

_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<part>A|B|magnitude_vector)"
    r"(?:\.(?!weight$)[^.]+)?(?P<weight>\.weight)?"
)
# What a trainer calls the decoder: within the whole model, alone, and in older layouts.
_DECODER = re.compile(r"(?:model\.)?(?:language_model\.)?(?:model\.)?")
# PEFT wraps a module for each of its parameters, the second around the first.
_EXPERTS = re.compile(r"(layers\.\d+\.experts)((?:\.base_layer)*)")


class Part(NamedTuple):
    """The change of one linear, as the engine takes it."""

    module: str
    """Its name, without what comes before `layers.`, `vision_tower.` and so on."""
    a: str
    b: str
    rank: int
    scale: float
    magnitude: str
    """Empty without."""


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter that is on this machine; that it fits a model is the engine's to say."""

    where: str
    """What messages call its tensors' file."""
    store: _core.TensorStore
    parts: list[Part]


class _Settings(NamedTuple):
    """What adapter_config.json says."""

    rank: Callable[[str], int]
    """Of a module, by the name that it has in the trainer's model."""
    alpha: Callable[[str], float]
    rslora: bool
    dora: bool

    def scale(self, module: str) -> float:
        rank = self.rank(module)
        return self.alpha(module) / (math.sqrt(rank) if self.rslora else rank)


def open_adapter(source: Any, parsed: ParsedConfig) -> AdapterFiles:
    """The adapter in a directory.

    Args:
        source: the directory.
        parsed: the model's config, which tells the two kinds of experts' matrices apart.

    Raises:
        ModelFileError: a file is missing or malformed, or the adapter is of a kind that is not supported; names the
            file, and the field or the tensor.
    """
    if not isinstance(source, str | os.PathLike) or not isinstance(os.fspath(source), str):
        raise RequestError(f"adapter: expected the path of a directory, found {type(source).__name__}")
    path = Path(os.fspath(source)).expanduser()
    if not path.is_dir():
        raise ModelFileError(f"{path}: no such directory; an adapter is one with {CONFIG} and {WEIGHTS}")
    settings = _read_settings(path / CONFIG)
    if not present(path / WEIGHTS) and present(path / PICKLED):
        raise ModelFileError(f"{path / PICKLED}: pickled tensors are not read; save it again, as {WEIGHTS}")
    store = open_file(path / WEIGHTS)
    parts = _parts(store, settings, parsed, str(path / WEIGHTS))
    return AdapterFiles(str(path / WEIGHTS), store, parts)


# -- adapter_config.json -----------------------------------------------------------------------------------------------


def _read_settings(path: Path) -> _Settings:
    data = read_json(path)
    kind = data.get("peft_type")
    if kind != "LORA":
        raise ModelFileError(f"{path}: peft_type: only 'LORA' is supported, found {str(kind)[:40]!r}")
    for name, value in data.items():
        if name not in _ASIDE | _READ and value not in (None, False, 0, "", [], {}) and (name, value) != (
            "bias", "none",
        ):  # fmt: skip
            raise ModelFileError(f"{path}: {name[:80]}: it is not supported, found {str(value)[:60]!r}")
    begun = data.get("init_lora_weights", True)
    if not any(begun is known or (isinstance(begun, str) and begun == known) for known in _INITS):
        raise ModelFileError(
            f"{path}: init_lora_weights: {str(begun)[:40]!r} changes the model's own weights, which is not supported; "
            "PEFT saves a plain adapter with path_initial_model_for_weight_conversion"
        )
    for name in ("use_rslora", "use_dora"):
        if not isinstance(data.get(name, False), bool):
            raise ModelFileError(f"{path}: {name}: expected true or false, found {type_name(data[name])}")

    def rank(value: Any, name: str) -> int:
        if type(value) is not int or not 1 <= value <= _MOST_RANK:
            raise ModelFileError(f"{path}: {name}: expected 1 to {_MOST_RANK}, found {str(value)[:40]}")
        return value

    def alpha(value: Any, name: str) -> float:
        if type(value) not in (int, float) or not abs(value) <= 1e30:
            raise ModelFileError(f"{path}: {name}: expected a number, found {str(value)[:40]}")
        return float(value)

    return _Settings(
        _by_module(data, "r", "rank_pattern", rank, path),
        _by_module(data, "lora_alpha", "alpha_pattern", alpha, path),
        data.get("use_rslora", False),
        data.get("use_dora", False),
    )


def _by_module(
    data: Mapping[str, Any], name: str, patterns: str, check: Callable[[Any, str], Any], path: Path
) -> Callable[[str], Any]:
    """The value of a module: that of the first pattern which fits the end of its name, or the one for all."""
    default = check(data.get(name, 8), name)
    found = data.get(patterns) or {}
    if not isinstance(found, dict) or len(found) > _MOST_PATTERNS:
        raise ModelFileError(f"{path}: {patterns}: expected an object, found {type_name(found)}")
    values = [(_pattern(key, f"{path}: {patterns}"), check(value, f"{patterns}: {key[:80]!r}"))
              for key, value in found.items()]  # fmt: skip

    def of(module: str) -> Any:
        return next((value for fits, value in values if fits(module)), default)

    return of


def _pattern(text: str, where: str) -> Callable[[str], bool]:
    """Whether a pattern fits a module, as PEFT sees it. A pattern is a regular expression of an untrusted file: those
    that could take Python's matcher longer than microseconds are refused."""
    if re.fullmatch(r"[\w.]*", text, re.ASCII):
        # Of a name: a dot stands for any character, but no two modules differ there.
        return lambda module: module == text or module.endswith(f".{text}")
    unbounded = len(re.findall(r"(?<!\\)[*+{]", text))
    if len(text) > _MOST_PATTERN or unbounded > 2 or re.search(r"\)[*+{]|\(\?", text):
        raise ModelFileError(f"{where}: {text[:80]!r} is too involved; name the modules")
    try:
        compiled = re.compile(rf"(.*\.)?({text})$")
    except (re.error, RecursionError, OverflowError):
        raise ModelFileError(f"{where}: {text[:80]!r} is no regular expression") from None
    return lambda module: compiled.match(module) is not None


# -- adapter_model.safetensors -----------------------------------------------------------------------------------------


def _parts(store: _core.TensorStore, settings: _Settings, parsed: ParsedConfig, where: str) -> list[Part]:
    found: dict[str, dict[str, str]] = {}
    spelled: dict[str, str] = {}
    for name in store.names():
        match = _KEY.fullmatch(name)
        if match is None or (match["weight"] is None and match["part"] != "magnitude_vector"):
            raise ModelFileError(f"{where}: tensor {name[:120]!r}: {_why(name)}")
        module = _DECODER.sub("", match["module"], count=1)
        if found.setdefault(module, {}).setdefault(match["part"], name) != name:
            raise ModelFileError(
                f"{where}: tensor {name[:120]!r}: the second of its module; one adapter a file is read"
            )
        spelled[module] = match["module"]
    if not found:
        raise ModelFileError(f"{where}: holds no tensors")
    parts = []
    for module, tensors in found.items():
        for part in ("A", "B", *(["magnitude_vector"] if settings.dora else [])):
            if part not in tensors:
                there = next(iter(tensors.values()))
                raise ModelFileError(f"{where}: tensor {there[:120]!r}: there is no lora_{part} beside it")
        if not settings.dora and "magnitude_vector" in tensors:
            raise ModelFileError(f"{where}: tensor {tensors['magnitude_vector'][:120]!r}: {CONFIG} has no use_dora")
        name, trained = module, spelled[module]
        experts = _EXPERTS.fullmatch(module)
        if experts is not None:
            parameter = _parameter(store, tensors["A"], tensors["B"], parsed, where)
            name, trained = (f"{text.removesuffix(experts[2])}.{parameter}" for text in (module, trained))
        parts.append(
            Part(name, tensors["A"], tensors["B"], settings.rank(trained), settings.scale(trained),
                 tensors.get("magnitude_vector", ""))
        )  # fmt: skip
    return parts


def _parameter(store: _core.TensorStore, a: str, b: str, parsed: ParsedConfig, where: str) -> str:
    """Which of the experts' two parameters a pair of matrices changes: their names do not say it."""
    text, seen = parsed.core.text, (store.shape(a)[-1], store.shape(b)[0])
    sides = {"gate_up_proj": (text.hidden, 2 * text.expert_ffn), "down_proj": (text.expert_ffn, text.hidden)}
    for name, expected in sides.items():
        if seen == expected:
            return name
    raise ModelFileError(
        f"{where}: tensor {a[:120]!r}: from {seen[0]} to {seen[1]} channels is no parameter of this model's experts "
        f"({', '.join(f'{name}: {sides[name][0]} to {sides[name][1]}' for name in sides)})"
    )


def _why(name: str) -> str:
    """Why a tensor cannot be used."""
    if "lora_embedding_" in name:
        return "changes of embeddings are not supported"
    if ".base_layer." in name:
        return "weights of the model itself; PEFT leaves them out with save_pretrained(…, save_embedding_layers=False)"
    if name.endswith(".bias"):
        return "changes of biases are not supported"
    if ".lora_" in name:
        return "a part that PEFT's LoRA does not have"
    return "no part of a LoRA adapter: whole weights (modules_to_save) are not supported"
