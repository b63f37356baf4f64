"""A GGUF file of llama.cpp's `gemma4` architecture as a checkpoint: the same configuration and tensor names that a
directory with safetensors has.

Knows: what llama.cpp's keys and tensors mean. Must not know: how a GGUF file is laid out, how the engine computes.
Tensors are registered where they lie in the mapped file. Copied are only the few that the file arranges differently
(the patch embedding, small vectors of the audio encoder) and constants that it leaves out.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

from .. import _core
from ..errors import ModelFileError, RequestError
from ..gguf_recipe import ENCODER
from ..jsonfile import parse_object
from ..tokens import Vocabulary, markers, vocabulary_of
from .container import GgufFile, GgufTensor
from .encoders import audio_config, complete_bounds, is_unified, register_encoder, soft_width, vision_config
from .filenames import pick_encoders
from .metadata import OWN, SUPPRESS
from .names import TEXT_PREFIX, hf_name
from .ollama import as_llama_cpp
from .split import read_split
from .vocabulary import read_tokenizer, special_tokens

__all__ = ["GgufCheckpoint", "open_gguf"]

_ARCH = "gemma4"
_SPARE = "gguf."  # where tensors are registered that are read only here
_UNROTATED = 1e29  # frequencies divided by more than this stand still
_ROPE = "rope_freqs.weight"
_SAMPLING = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}
_LAYERS = {True: "sliding_attention", False: "full_attention"}


@dataclass(frozen=True)
class _Part:
    """One file of a checkpoint's directory, in memory."""

    name: str
    data: bytes | None

    def is_file(self) -> bool:
        return self.data is not None

    exists = is_file

    def stat(self) -> Any:
        return SimpleNamespace(st_size=len(self.data or b""))

    def open(self, mode: str) -> IO[bytes]:
        return io.BytesIO(self.data or b"")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class GgufCheckpoint:
    """GGUF files as the directory of a published checkpoint: `checkpoint / "config.json"` can be read."""

    path: Path
    config: dict[str, Any] = field(repr=False)
    """As config.json."""
    generation: dict[str, Any] = field(repr=False)
    """As generation_config.json."""
    processor: dict[str, Any] = field(repr=False)
    """As processor_config.json; empty where nothing differs from the defaults."""
    tokenizer_config: dict[str, Any] = field(repr=False)
    """As tokenizer_config.json, with the chat template."""
    tokenizer: Vocabulary = field(repr=False)
    """As tokenizer.json."""
    store: _core.TensorStore = field(repr=False)
    """Every tensor under the name that the published checkpoints give it."""

    def is_dir(self) -> bool:
        return True

    def __truediv__(self, name: str) -> _Part:
        parts: dict[str, Any] = {
            "config.json": self.config,
            "generation_config.json": self.generation,
            "processor_config.json": self.processor or None,
            "tokenizer_config.json": self.tokenizer_config,
            "tokenizer.json": {},  # there is one, but it comes from `tokenizer`
        }
        content = parts.get(name)
        return _Part(f"{self.path}: {name}", None if content is None else json.dumps(content).encode())

    def __str__(self) -> str:
        return str(self.path)


def open_gguf(path: str | Path, mmproj: str | Path | None = None, beside: Sequence[Path] = ()) -> GgufCheckpoint:
    """Read and check a GGUF file, all parts of it, and map its tensors.

    Args:
        path: a file with the architecture `gemma4`, any part of a split one, or one with text and encoders.
        mmproj: the file with the vision and audio encoders that belongs to it.
        beside: files with encoders, of which the one that fits the model is taken if `mmproj` is None.

    Raises:
        ModelFileError: a file is missing, malformed, of another architecture, or asks for what is not supported.
        RequestError: `path` and `mmproj` are the wrong way round, or several of `beside` fit.
    """
    file = as_llama_cpp(read_split(path))
    _check_architecture(file)
    encoders = _encoders(file, mmproj, beside)
    unified = encoders is not None and is_unified(encoders)
    form = read_tokenizer(file)
    ids = {token.text: token.id for token in form.added}
    names: dict[str, Any] = special_tokens(file, ids)
    store = _core.TensorStore()
    _register(store, file, unified)
    text = _text_config(file, _divisors(store, file))
    _complete_text(store, file, text)
    config: dict[str, Any] = {
        "model_type": "gemma4_unified" if unified else "gemma4",
        "architectures": [f"Gemma4{'Unified' if unified else ''}ForConditionalGeneration"],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "eos_token_id": _ends(file, ids),
        "text_config": text,
        **_media_tokens(ids),
    }
    processor: dict[str, Any] = {}
    if encoders is not None:
        config["vision_config"] = vision_config(encoders)
        config["audio_config"] = audio_config(encoders)
        if config["vision_config"] is None and config["audio_config"] is None:
            raise _keyless(encoders)
        if encoders is not file:
            _register(store, encoders, unified)
        complete_bounds(store, encoders)
        budget = encoders.metadata.get(OWN + "max_soft_tokens")
        processor = {} if budget is None else {"image_processor": {"max_soft_tokens": budget}}
    store.validate()
    if "tokenizer.chat_template" in file.metadata:
        names["chat_template"] = file.text("tokenizer.chat_template")
    return GgufCheckpoint(
        path=file.path,
        config=config,
        generation=_generation(file, config["eos_token_id"]),
        processor=processor,
        tokenizer_config=names,
        tokenizer=vocabulary_of(lambda: read_tokenizer(as_llama_cpp(read_split(path)))),
        store=store,
    )


def _check_architecture(file: GgufFile) -> None:
    found = file.text("general.architecture")
    if found == "clip":
        raise RequestError(f"{file.path}: holds encoders, not a language model; give it as mmproj=")
    if found == "gemma4-assistant":
        raise file.error("general.architecture", "a drafter; give it as drafter= beside the model it belongs to")
    if found != _ARCH:
        raise file.error("general.architecture", f"expected {_ARCH!r}, found {found[:40]!r}")


def _encoders(file: GgufFile, mmproj: str | Path | None, beside: Sequence[Path]) -> GgufFile | None:
    """The file with the encoders: the one that is named, the model itself, or the one beside it that fits."""
    if mmproj is not None:
        encoders = read_split(mmproj)
        found = encoders.text("general.architecture")
        if found == _ARCH:
            raise RequestError(f"mmproj: {encoders.path} holds a language model, not encoders")
        if found != "clip":
            raise encoders.error("general.architecture", f"expected 'clip', found {found[:40]!r}")
        if soft_width(encoders) not in (None, _hidden(file)):
            raise RequestError(
                f"mmproj: {encoders.path} makes soft tokens of {soft_width(encoders)} numbers, "
                f"those of {file.path.name} have {_hidden(file)}"
            )
        return encoders
    if any(ENCODER.fullmatch(name) for name in file.tensors):
        return file
    fitting = {path.name: read_split(path) for path in beside}
    fitting = {name: candidate for name, candidate in fitting.items() if soft_width(candidate) == _hidden(file)}
    picked = pick_encoders(file.path.name, list(fitting))
    return None if picked is None else fitting[picked]


def _keyless(file: GgufFile) -> ModelFileError:
    name = next((repr(name) for name in file.tensors if ENCODER.fullmatch(name)), "none")
    return ModelFileError(f"{file.path}: tensor {name}: of an encoder, without the keys that describe one")


def _hidden(file: GgufFile) -> int:
    return file.integer(_key("embedding_length"))


# -- tensors -----------------------------------------------------------------------------------------------------------


def _register(store: _core.TensorStore, file: GgufFile, unified: bool) -> None:
    """Every tensor of every part, under the name of the published checkpoints."""
    for part in file.containers:
        number = store.add_file(str(part.path), part.data_start, part.alignment)
        for tensor in part.tensors.values():
            if ENCODER.fullmatch(tensor.name):
                register_encoder(store, part, tensor, number, unified)
            else:
                _register_text(store, part, tensor, number)


def _register_text(store: _core.TensorStore, file: GgufFile, tensor: GgufTensor, number: int) -> None:
    name = hf_name(tensor.name)
    if name is None and (tensor.name == _ROPE or tensor.name.endswith(".attn_qkv.weight")):
        name = _SPARE + tensor.name
    if name is None or not name.startswith((TEXT_PREFIX, "lm_head", _SPARE)):
        raise ModelFileError(f"{file.path}: tensor {tensor.name!r}: not a tensor of this architecture")
    store.add(name, tensor.dtype, tensor.shape, number, tensor.begin, tensor.end)


def _divisors(store: _core.TensorStore, file: GgufFile) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of the rotation frequencies of global layers."""
    rope = file.tensors.get(_ROPE)
    if rope is None or rope.dtype != "F32" or len(rope.shape) != 1:
        raise ModelFileError(f"{file.path}: tensor {_ROPE!r}: expected a vector of F32, found {_found(rope)}")
    divisors = np.array(store.array(_SPARE + _ROPE))
    store.forget(_SPARE + _ROPE)
    return divisors


def _found(tensor: GgufTensor | None) -> str:
    return "nothing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


def _complete_text(store: _core.TensorStore, file: GgufFile, text: dict[str, Any]) -> None:
    """What the published checkpoints have and this file does not: scalars of one, q, k and v apart."""
    one = np.ones(1, np.float32).view(np.uint8)
    for index, kind in enumerate(text["layer_types"]):
        at = f"{TEXT_PREFIX}layers.{index}."
        if f"blk.{index}.layer_output_scale.weight" not in file.tensors:
            store.add_owned(at + "layer_scalar", "F32", [1], one)
        fused = f"blk.{index}.attn_qkv.weight"
        if fused not in file.tensors:
            continue
        shape = {**text, **text["per_layer_config"].get(str(index), {})}
        kv = shape["num_key_value_heads"] * shape["head_dim"]
        first = 0
        for part, rows in (("q", text["num_attention_heads"] * shape["head_dim"]), ("k", kv), ("v", kv)):
            store.add_rows(f"{at}self_attn.{part}_proj.weight", _SPARE + fused, first, first + rows)
            first += rows
        store.forget(_SPARE + fused)
        if file.tensors[fused].shape[0] != first:
            raise ModelFileError(f"{file.path}: tensor {fused!r}: expected {first} rows in a {kind} layer")


# -- config.json -------------------------------------------------------------------------------------------------------


def _text_config(file: GgufFile, rope: Any) -> dict[str, Any]:
    layers = file.integer(_key("block_count"), low=1, high=1024)
    sliding = [bool(value) for value in file.array(_key("attention.sliding_window_pattern"), "biu", layers)]
    if sliding[-1]:
        raise file.error(_key("attention.sliding_window_pattern"), "the last layer must be global")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelFileError(f"{file.path}: tensor 'token_embd.weight': expected a matrix, found {_found(embedding)}")
    vocab = embedding.shape[0]
    if len(file.strings("tokenizer.ggml.tokens")) > vocab:
        raise file.error("tokenizer.ggml.tokens", f"has more tokens than the {vocab} rows of token_embd.weight")
    ple = file.integer(_key("embedding_length_per_layer_input"), 0)
    return {
        "model_type": "gemma4_text",
        "vocab_size": vocab,
        "hidden_size": file.integer(_key("embedding_length")),
        "num_hidden_layers": layers,
        "layer_types": [_LAYERS[value] for value in sliding],
        "max_position_embeddings": file.integer(_key("context_length")),
        "sliding_window": file.integer(_key("attention.sliding_window")),
        "rms_norm_eps": file.real(_key("attention.layer_norm_rms_epsilon")),
        "final_logit_softcapping": _cap(file),
        "hidden_size_per_layer_input": ple,
        "vocab_size_per_layer_input": vocab,
        "pad_token_id": file.integer("tokenizer.ggml.padding_token_id", 0, 0, vocab - 1),
        "hidden_activation": "gelu_pytorch_tanh",
        # No key of llama.cpp's says it; the published models without per-layer embeddings are the ones that do.
        "use_bidirectional_attention": "vision" if file.boolean(OWN + "bidirectional_images", ple == 0) else None,
        **_heads(file, sliding),
        **_feed_forward(file, layers),
        **_experts(file),
        "rope_parameters": _rope(file, rope),
        "attention_k_eq_v": _k_is_v(file, sliding),
    }


def _key(name: str) -> str:
    return f"{_ARCH}.{name}"


def _cap(file: GgufFile) -> float | None:
    cap = file.real(_key("final_logit_softcapping"), 0.0)
    return cap or None


def _heads(file: GgufFile, sliding: list[bool]) -> dict[str, Any]:
    """Head counts and sizes: those of sliding layers, and for each other layer what differs there."""
    layers = len(sliding)
    heads = file.per_layer(_key("attention.head_count"), layers)
    if len(set(heads)) != 1:
        raise file.error(_key("attention.head_count"), "layers with different numbers of heads are not supported")
    kv_heads = file.per_layer(_key("attention.head_count_kv"), layers, heads[0])
    size = {False: file.integer(_key("attention.key_length"))}
    size[True] = file.integer(_key("attention.key_length_swa"), size[False])
    for kind, suffix in ((False, ""), (True, "_swa")):
        if file.integer(_key("attention.value_length" + suffix), size[kind]) != size[kind]:
            raise file.error(_key("attention.value_length" + suffix), f"must be that of the keys, {size[kind]}")
        if file.integer(_key("rope.dimension_count" + suffix), size[kind]) != size[kind]:
            raise file.error(_key("rope.dimension_count" + suffix), f"must be the size of a head, {size[kind]}")
    base = sliding.index(True) if True in sliding else 0
    common = {"head_dim": size[sliding[base]], "num_key_value_heads": kv_heads[base]}
    overrides = {}
    for index, kind in enumerate(sliding):
        own = {"head_dim": size[kind], "num_key_value_heads": kv_heads[index]}
        if own != common:
            overrides[str(index)] = own
    return {"num_attention_heads": heads[0], **common, "per_layer_config": overrides}


def _feed_forward(file: GgufFile, layers: int) -> dict[str, Any]:
    widths = file.per_layer(_key("feed_forward_length"), layers)
    shared = file.integer(_key("attention.shared_kv_layers"), 0, 0, layers)
    wide = len(set(widths)) > 1
    expected = [widths[0] * (2 if wide and index >= layers - shared else 1) for index in range(layers)]
    if widths != expected:
        raise file.error(
            _key("feed_forward_length"), "expected one width, or twice it in the layers that share keys and values"
        )
    return {"intermediate_size": widths[0], "num_kv_shared_layers": shared, "use_double_wide_mlp": wide}


def _experts(file: GgufFile) -> dict[str, Any]:
    count = file.integer(_key("expert_count"), 0)
    if not count:
        return {"enable_moe_block": False}
    return {
        "enable_moe_block": True,
        "num_experts": count,
        "top_k_experts": file.integer(_key("expert_used_count")),
        "moe_intermediate_size": file.integer(_key("expert_feed_forward_length")),
    }


def _rope(file: GgufFile, divisors: Any) -> dict[str, Any]:
    scaling = file.text(_key("rope.scaling.type"), "none")
    if scaling != "none" or file.real(_key("rope.scaling.factor"), 1.0) not in (0.0, 1.0):
        raise file.error(_key("rope.scaling.type"), f"scaled rotations ({scaling[:20]}) are not supported")
    theta = file.real(_key("rope.freq_base"))
    half = file.integer(_key("attention.key_length")) // 2
    pairs = int(np.count_nonzero(divisors < _UNROTATED))
    turning = divisors[:pairs]
    if len(divisors) != half or not (turning > 0).all() or (turning != turning[:1]).any():
        raise ModelFileError(
            f"{file.path}: tensor {_ROPE!r}: expected {half} divisors, equal for the pairs that rotate and then beyond "
            f"{_UNROTATED:g} for those that do not"
        )
    return {
        "sliding_attention": {
            "rope_type": "default", "rope_theta": file.real(_key("rope.freq_base_swa"), theta),
        },
        "full_attention": {
            "rope_type": "proportional", "rope_theta": theta,
            "partial_rotary_factor": rotary_fraction(pairs, 2 * half),
            "factor": float(turning[0]) if pairs else 1.0,
        },
    }  # fmt: skip


def rotary_fraction(pairs: int, head_dim: int) -> float:
    """The fraction of a head that rotates, such that rounding down gives back the number of pairs.

    >>> rotary_fraction(64, 512)
    0.25
    """
    fraction = 2 * pairs / head_dim
    return fraction if int(fraction * head_dim // 2) == pairs else math.nextafter(fraction, 2.0)


def _k_is_v(file: GgufFile, sliding: list[bool]) -> bool:
    """Whether global layers that own their keys have no values of their own."""
    owners = range(len(sliding) - file.integer(_key("attention.shared_kv_layers"), 0, 0, len(sliding)))
    missing = {
        f"blk.{index}.attn_v.weight" not in file.tensors and f"blk.{index}.attn_qkv.weight" not in file.tensors
        for index in owners
        if not sliding[index]
    }
    return missing == {True}


def _media_tokens(ids: dict[str, int]) -> dict[str, int]:
    names = {
        "boi_token_id": markers.IMAGE_BEGIN, "image_token_id": markers.IMAGE, "eoi_token_id": markers.IMAGE_END,
        "boa_token_id": markers.AUDIO_BEGIN, "audio_token_id": markers.AUDIO, "eoa_token_id": markers.AUDIO_END,
        "video_token_id": markers.VIDEO,
    }  # fmt: skip
    return {name: ids[text] for name, text in names.items() if text in ids}


# -- generation_config.json --------------------------------------------------------------------------------------------


def _ends(file: GgufFile, ids: dict[str, int]) -> list[int]:
    for key in (OWN + "eos_token_ids", "tokenizer.ggml.eos_token_ids"):
        if key in file.metadata:
            return [int(index) for index in file.array(key, "iu")]
    first = [file.integer("tokenizer.ggml.eos_token_id")] if "tokenizer.ggml.eos_token_id" in file.metadata else []
    return list(dict.fromkeys([*first, *(ids[text] for text in markers.ENDS if text in ids)]))


def _rounds_to(kept: Any, value: Any) -> bool:
    """Whether a key of 32 bits says the same."""
    return isinstance(kept, int | float) and np.float32(kept) == np.float32(value)


def _generation(file: GgufFile, ends: list[int]) -> dict[str, Any]:
    given = {name: file.metadata[key] for name, key in _SAMPLING.items() if key in file.metadata}
    sample = bool(given) and given.get("temperature", 1.0) != 0
    own = OWN + "generation_config"  # what there are no keys for; those win, as other tools change them
    kept = parse_object(file.text(own).encode(), f"{file.path}: {own}") if own in file.metadata else {}
    changed = {name: value for name, value in given.items() if not _rounds_to(kept.get(name), value)}
    generation = {"do_sample": sample, **kept, "eos_token_id": ends, **changed}
    if SUPPRESS in file.metadata:
        generation["suppress_tokens"] = [int(index) for index in file.array(SUPPRESS, "iu")]
    return generation
