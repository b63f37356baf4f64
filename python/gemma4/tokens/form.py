"""The form that the family's tokenizers have: byte-pair merges over a whole text whose spaces are `▁`, bytes for what
the vocabulary lacks, added tokens cut out before.

Knows: tokenizer.json. Must not know: GGUF, how a text is encoded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .. import _core
from ..errors import ModelFileError
from ..jsonfile import is_text, parse_object

__all__ = [
    "MAX_TOKENIZER_BYTES",
    "MAX_TOKENIZER_CONFIG",
    "Added",
    "TokenizerForm",
    "check_added",
    "deviations",
    "is_control",
    "read_form",
]

# Several times what the published checkpoints have, and little enough to be read or refused in a second or two.
MAX_TOKENIZER_BYTES = 100_000_000
MAX_TOKENIZER_CONFIG = 5_000_000  # some list all added tokens once more
_MAX_ADDED = 1 << 16
_MAX_ADDED_CHARACTERS = 1 << 20
_MAX_REST = 12_000_000  # bytes beside vocabulary and merges: of so many added tokens
_MAX_OTHER = 5_000_000  # bytes that are left to the library to make sense of, which takes its time
_MAX_CONTROL = 128  # characters of one: every part of one is looked for where a text could complete it

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


def check_added(texts: Collection[Any], where: str) -> None:
    """Whether there are so few added tokens, and so short ones, that looking for them stays cheap. What is no string
    is not looked at.

    Raises:
        ModelFileError: there are more, or longer ones.
    """
    if len(texts) > _MAX_ADDED:
        raise ModelFileError(f"{where}: {len(texts)} added tokens, at most {_MAX_ADDED} are read")
    lengths = {text: len(text) for text in texts if isinstance(text, str)}
    if sum(lengths.values()) > _MAX_ADDED_CHARACTERS:
        raise ModelFileError(f"{where}: added tokens of more than {_MAX_ADDED_CHARACTERS} characters in all")
    for text, length in lengths.items():
        if length > _MAX_CONTROL and is_control(text):
            raise ModelFileError(f"{where}: {text[:40]!r}…: {length} characters, at most {_MAX_CONTROL} are allowed")


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

    Raises ModelFileError where it is so large that finding out would take seconds or gigabytes.

    Its vocabulary and merges, a million strings in 30 MB, are read by the engine; Python sees what is left.
    """
    parts = _core.cut_vocabulary(data)
    if parts is None:
        if len(data) > _MAX_OTHER:
            raise ModelFileError(
                f"{path}: {len(data)} bytes, but no whole vocabulary and merges of a byte-pair tokenizer, "
                "each token and each id once: truncated?"
            )
        return None
    rest, tokens, merges = parts
    if len(rest) > _MAX_REST:
        raise ModelFileError(f"{path}: {len(rest)} bytes beside vocabulary and merges, at most {_MAX_REST} are read")
    try:
        tokenizer = parse_object(rest, path)
    except ModelFileError:  # its line numbers would not be the file's
        return None
    entries = tokenizer.get("added_tokens")
    if isinstance(entries, list):
        contents = [entry.get("content") if isinstance(entry, dict) else None for entry in entries]
        check_added(contents, f"{path}: added_tokens")
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
    plain = len(texts) == len(added) and all(0 <= token.id < 1 << 31 and is_text(token.text) for token in added)
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
