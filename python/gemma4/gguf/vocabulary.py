"""The tokenizer of a checkpoint as GGUF metadata, and back.

Knows: llama.cpp's `gemma4` vocabulary keys and the tokenizer of the published checkpoints: byte-pair merges over text
whose spaces are `▁`, bytes as a last resort, control tokens cut out before. Must not know: tensors, prompts.
Both directions are exact: a tokenizer that this pair of formats cannot both express is refused, not approximated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ModelFileError
from ..tokens import Added, TokenizerForm, check_added, deviations, markers
from .container import GgufFile

__all__ = ["read_tokenizer", "special_tokens", "tokenizer_metadata"]

_KEY = "tokenizer.ggml."
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 3, 4, 5, 6
_SCORE = -1000.0  # merges decide, not scores; llama.cpp's converter writes this too
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
# Control tokens that llama.cpp shows as text, because its parser of answers looks for them there.
_VISIBLE = frozenset(
    (
        markers.CHANNEL,
        markers.CHANNEL_END,
        markers.CALL,
        markers.CALL_END,
        markers.RESPONSE,
        markers.RESPONSE_END,
        markers.QUOTE,
    )
)
# name in tokenizer_config.json -> key of its id
_SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "mask_token": "mask_token_id",
}
# What tokenizer_config.json calls the other control tokens; GGUF knows them by their text alone.
_NAMES = {
    "audio_token": markers.AUDIO,
    "boa_token": markers.AUDIO_BEGIN,
    "eoa_token": markers.AUDIO_END,
    "image_token": markers.IMAGE,
    "boi_token": markers.IMAGE_BEGIN,
    "eoi_token": markers.IMAGE_END,
    "video_token": markers.VIDEO,
    "sot_token": markers.TURN,
    "eot_token": markers.TURN_END,
    "soc_token": markers.CHANNEL,
    "eoc_token": markers.CHANNEL_END,
    "think_token": markers.THINK,
    "escape_token": markers.QUOTE,
    "std_token": markers.TOOL,
    "etd_token": markers.TOOL_END,
    "stc_token": markers.CALL,
    "etc_token": markers.CALL_END,
    "str_token": markers.RESPONSE,
    "etr_token": markers.RESPONSE_END,
}

# -- tokenizer.json -> GGUF ------------------------------------------------------------------------------------------


def tokenizer_metadata(
    tokenizer: Mapping[str, Any], config: Mapping[str, Any], vocab_size: int, source: str
) -> dict[str, Any]:
    """GGUF metadata of a tokenizer.

    Args:
        tokenizer: the object in tokenizer.json.
        config: the object in tokenizer_config.json, for the names of the special tokens.
        vocab_size: rows of the embedding table; ids without a token get a filler that no text can yield.
        source: the file's name, for messages.

    Raises:
        ModelFileError: the tokenizer does something that llama.cpp's `gemma4` vocabulary does not.
    """
    model = _checked_model(tokenizer, source)
    added = _checked_added(tokenizer.get("added_tokens") or [], source)
    vocab: dict[str, int] = {**model["vocab"], **{token["content"]: token["id"] for token in added}}
    by_id = {index: text for text, index in vocab.items()}
    if len(by_id) != len(vocab) or min(by_id) < 0 or max(by_id) >= vocab_size:
        raise ModelFileError(f"{source}: vocab: two tokens share an id, or an id is not from 0 to {vocab_size - 1}")
    special = {token["content"]: token["special"] for token in added}
    tokens = [by_id.get(index, f"[PAD{index}]") for index in range(vocab_size)]
    if len(set(tokens)) != len(tokens):
        raise ModelFileError(f"{source}: vocab: holds a token named like a filler ([PAD…])")
    types = [_type_of(text, special) if index in by_id else _UNUSED for index, text in enumerate(tokens)]
    metadata: dict[str, Any] = {
        _KEY + "model": "gemma4",
        _KEY + "tokens": tokens,
        _KEY + "scores": np.full(vocab_size, _SCORE, np.float32),
        _KEY + "token_type": np.array(types, np.int32),
        _KEY + "merges": [_merge(pair, source) for pair in model["merges"]],
    }
    for name, key in _SPECIAL.items():
        text = config.get(name)
        text = text.get("content") if isinstance(text, Mapping) else text
        if isinstance(text, str) and text in vocab:
            metadata[_KEY + key] = vocab[text]
    return {**metadata, _KEY + "add_space_prefix": False, _KEY + "add_bos_token": True}


def _checked_model(tokenizer: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    model = tokenizer.get("model")
    if not isinstance(model, Mapping):
        raise ModelFileError(f"{source}: model: expected an object")
    for name, wanted, found in deviations(tokenizer, model):
        raise ModelFileError(
            f"{source}: {name}: a GGUF file of Gemma 4 can only express {wanted!r}, found {str(found)[:80]}"
        )
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, Mapping) or not vocab or not all(type(index) is int for index in vocab.values()):
        raise ModelFileError(f"{source}: model.vocab: expected an object of token to id")
    if not isinstance(merges, list):
        raise ModelFileError(f"{source}: model.merges: expected an array")
    return model


def _checked_added(added: Any, source: str) -> list[Mapping[str, Any]]:
    for token in added:
        flags = [token.get(name) for name in ("single_word", "lstrip", "rstrip", "normalized")]
        if any(flags) or type(token.get("id")) is not int or not isinstance(token.get("content"), str):
            raise ModelFileError(
                f"{source}: added_tokens: {str(token.get('content'))[:40]!r}: a GGUF file cannot express a token that "
                "strips spaces, wants whole words or is matched after normalization"
            )
        if not token.get("special") and token["content"] in _VISIBLE:
            raise ModelFileError(f"{source}: added_tokens: {token['content']!r} must be special")
    return list(added)


def _type_of(text: str, special: Mapping[str, bool]) -> int:
    if text in special:
        return _CONTROL if special[text] and text not in _VISIBLE else _USER_DEFINED
    return _BYTE if _BYTE_TOKEN.fullmatch(text) else _NORMAL


def _merge(pair: Any, source: str) -> str:
    parts = pair.split(" ", 1) if isinstance(pair, str) else pair
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(p, str) and p for p in parts):
        raise ModelFileError(f"{source}: model.merges: expected pairs of tokens, found {str(pair)[:60]}")
    if " " in parts[0] + parts[1]:
        raise ModelFileError(f"{source}: model.merges: a GGUF file cannot express a merge with a space: {pair!r}")
    return f"{parts[0]} {parts[1]}"


# -- GGUF -> the form of a tokenizer -----------------------------------------------------------------------------------


def read_tokenizer(file: GgufFile) -> TokenizerForm:
    """The tokenizer of a GGUF file, equal to the one it was made from.

    Raises:
        ModelFileError: not a `gemma4` vocabulary, or one whose parts contradict each other.
    """
    kind = file.text(_KEY + "model")
    if kind != "gemma4":
        raise file.error(_KEY + "model", f"expected 'gemma4', found {kind[:40]!r}")
    tokens, merges = file.strings(_KEY + "tokens"), file.strings(_KEY + "merges")
    types = file.array(_KEY + "token_type", "iu", len(tokens))
    odd = np.flatnonzero((types < 0) | (types > _BYTE))
    if odd.size:
        raise file.error(_KEY + "token_type", f"expected 0 to {_BYTE}, found {types[odd[0]]} for token {odd[0]}")
    if "" in tokens:
        raise file.error(_KEY + "tokens", "a token is empty")
    if _KEY + "scores" in file.metadata:  # llama.cpp reads them, merges make them meaningless
        file.array(_KEY + "scores", "f", len(tokens))
    for index in np.flatnonzero(types == _BYTE).tolist():
        if not _BYTE_TOKEN.fullmatch(tokens[index]):
            raise file.error(_KEY + "tokens", f"token {index} is said to be a byte but reads {tokens[index][:40]!r}")
    found = np.flatnonzero((types == _CONTROL) | (types == _USER_DEFINED)).tolist()
    check_added([tokens[i] for i in found], f"{file.path}: {_KEY}tokens")
    added = [Added(tokens[i], i, bool(types[i] == _CONTROL) or tokens[i] in _VISIBLE) for i in found]
    unused = np.flatnonzero(types == _UNUSED).astype(np.int32)
    names = (f"{file.path}: {_KEY}tokens", f"{file.path}: {_KEY}merges", f"{file.path}: {_KEY}tokens")
    return TokenizerForm(tokens.without(unused) if unused.size else tokens, merges, added, names)


def special_tokens(file: GgufFile, ids: Mapping[str, int]) -> dict[str, str]:
    """What tokenizer_config.json would say, name to text.

    Args:
        file: with the ids of some.
        ids: of all added tokens, the others are known by their text.
    """
    tokens = file.strings(_KEY + "tokens")
    names = {name: text for name, text in _NAMES.items() if text in ids}
    for name, key in _SPECIAL.items():
        if _KEY + key in file.metadata:
            names[name] = tokens[file.integer(_KEY + key, high=len(tokens) - 1)]
    return names
