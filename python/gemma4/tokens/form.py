"""The form that the family's tokenizers have: byte-pair merges over a whole text whose spaces are `▁`, bytes for what
the vocabulary lacks, added tokens cut out before.

Knows: tokenizer.json. Must not know: GGUF, how a text is encoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .. import _core
from ..errors import ModelFileError
from ..jsonfile import parse_object

__all__ = ["Added", "TokenizerForm", "deviations", "is_control", "read_form"]

# What stands around the vocabulary in tokenizer.json: every field with the values that it may have. The first is what
# the published checkpoints say; without a pre-tokenizer, nothing is different, as no space is left to split at.
_PIPELINE: dict[str, tuple[Any, ...]] = {
    "normalizer": ({"type": "Replace", "pattern": {"String": " "}, "content": "▁"},),
    "pre_tokenizer": (
        {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        None,
    ),
    "decoder": (
        {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
    ),
}
_MODEL: dict[str, tuple[Any, ...]] = {
    "type": ("BPE",),
    "dropout": (None,),
    "unk_token": ("<unk>",),
    "continuing_subword_prefix": (None,),
    "end_of_word_suffix": (None,),
    "fuse_unk": (True,),
    "byte_fallback": (True,),
    "ignore_merges": (False,),
}
# Added tokens that are ordinary text: runs of white space, and the HTML tags in Gemma's vocabulary. All others control.
_TEXT_TOKEN = re.compile(
    r"[\s▁]+|</?(?:table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|strong|em|b|i|u|s|sub|sup|code)>"
)
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


class Added(NamedTuple):
    """A token that is found in a text before the text is encoded."""

    text: str
    id: int
    special: bool
    """Whether decoding leaves it out."""


@dataclass(frozen=True)
class TokenizerForm:
    """What tells one tokenizer of the family from another, wherever it was read."""

    tokens: _core.Strings
    """The text of every id; empty where there is none."""
    merges: _core.Strings
    """`"left right"`, those that come first go first."""
    added: list[Added]
    """Those that `tokens` lacks have the ids behind it, in order."""
    names: tuple[str, str, str]
    """What messages call these three."""

    def engine(self) -> _core.Bpe:
        """What encodes and decodes. Text that spells a control token stays text.

        Raises:
            ModelFileError: a token appears twice, or a merge or an added token does not fit the vocabulary.
        """
        added = [(token.text, token.id, token.special or is_control(token.text)) for token in self.added]
        return _core.Bpe(self.tokens, self.merges, added, self.names)


def is_control(text: str) -> bool:
    """Whether an added token controls the model, so that no text may become it.

    >>> is_control("<turn|>"), is_control("<table>")
    (True, False)
    """
    return _TEXT_TOKEN.fullmatch(text) is None


def deviations(tokenizer: Mapping[str, Any], model: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Every field of tokenizer.json and its model that is not of the form: its name, what it should be, what it is."""
    for prefix, found, form in (("", tokenizer, _PIPELINE), ("model.", model, _MODEL)):
        for name, values in form.items():
            value = found.get(name, False if values[0] is False else None)
            if value not in values:
                yield prefix + name, values[0], value


def read_form(data: bytes, path: str) -> TokenizerForm | None:
    """The form of a tokenizer.json, or None if it has another, or is malformed in some way.

    Its vocabulary and merges, a million strings in 30 MB, are read by the engine; Python sees what is left.
    """
    parts = _core.cut_vocabulary(data)
    if parts is None:
        return None
    rest, tokens, merges = parts
    try:
        tokenizer = parse_object(rest, path)
    except ModelFileError:  # its line numbers would not be the file's
        return None
    if tokenizer.get("version", "1.0") != "1.0" or any(deviations(tokenizer, tokenizer["model"])):
        return None
    added = _added(tokenizer.get("added_tokens") or [])
    if added is None or not _adds_nothing(tokenizer.get("post_processor")):
        return None
    names = (f"{path}: model.vocab", f"{path}: model.merges", f"{path}: added_tokens")
    return TokenizerForm(tokens, merges, added, names)


def _added(entries: Any) -> list[Added] | None:
    added: list[Added] = []
    for entry in entries if isinstance(entries, list) else [None]:
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or not isinstance(entry.get("content"), str):
            return None
        special = entry.get("special")
        flags = [entry.get(name) for name in _FLAGS]
        # A control token is never found in a text, so it does not matter how it would be.
        if not isinstance(special, bool) or (any(flags) and not is_control(entry["content"])):
            return None
        added.append(Added(entry["content"], entry["id"], special))
    texts = {token.text for token in added}
    plain = len(texts) == len(added) and all(0 <= token.id < 1 << 31 for token in added)
    return added if plain else None


def _adds_nothing(processor: Any) -> bool:
    """Whether, special tokens aside, this leaves a text's ids as they are."""
    if not isinstance(processor, dict):
        return processor is None
    pieces = processor.get("single")
    if processor.get("type") != "TemplateProcessing" or not isinstance(pieces, list):
        return False
    names = [(name, value) for piece in pieces if isinstance(piece, dict) for name, value in piece.items()]
    texts = [value.get("id") for name, value in names if name == "Sequence" and isinstance(value, dict)]
    return texts == ["A"]
