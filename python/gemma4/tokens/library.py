"""Hugging Face's `tokenizers`, for a tokenizer.json of a form that the engine does not know, and for whoever wants it.

Knows: the library, which tokens control the model. Must not know: files, templates. Loading takes seconds for a
vocabulary of 262,144, so nothing here is imported before it is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from ..errors import ModelFileError
from .form import Added, TokenizerForm, is_control

__all__ = ["LibraryTokenizer", "build"]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_MAX_GROWTH = 64


class LibraryTokenizer:
    """What :class:`gemma4._core.Bpe` is, for any tokenizer.json."""

    def __init__(self, data: bytes, path: str) -> None:
        """Read a tokenizer.json.

        Raises:
            ModelFileError: it is malformed, or the library panics on it.
        """
        self._path = path
        with _typed(f"{path}: not a tokenizer"):
            self.backend = tokenizers.Tokenizer.from_buffer(data)
        for name in ("normalizer", "decoder"):
            step = getattr(self.backend, name)
            if step is not None and (growth := _growth(json.loads(step.__getstate__()))) > _MAX_GROWTH:
                raise ModelFileError(f"{path}: {name}: texts {growth} times as long, at most {_MAX_GROWTH} are allowed")
        decoder = self.backend.get_added_tokens_decoder()
        self.added = [Added(token.content, index, token.special) for index, token in decoder.items()]
        promote(self.backend, self.added)
        for token in self.added:
            if self.backend.token_to_id(token.text) != token.id:
                raise ModelFileError(f"{path}: the token {token.text[:40]!r} has two ids")
        vocab = self.backend.get_vocab(with_added_tokens=True)
        self.size = 1 + max(vocab.values(), default=-1)
        matches = ((_BYTE_TOKEN.fullmatch(token), index) for token, index in vocab.items())
        self._bytes = {index: int(match[1], 16) for match, index in matches if match}

    def encode(self, text: str) -> list[int]:
        with _typed(f"{self._path}: cannot encode"):
            return list(self.backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        with _typed(f"{self._path}: cannot decode"):
            return str(self.backend.decode(ids, skip_special_tokens=False))

    def find(self, token: str) -> int | None:
        index: int | None = self.backend.token_to_id(token)
        return index

    def token(self, index: int) -> str:
        return self.backend.id_to_token(index) or ""

    def byte(self, index: int) -> int:
        return self._bytes.get(index, -1)

    def pieces(self) -> list[bytes]:
        ids = [[index] for index in range(self.size)]
        with _typed(f"{self._path}: cannot decode"):
            texts: list[str] = self.backend.decode_batch(ids, skip_special_tokens=False)
        return [
            bytes([self._bytes[index]]) if index in self._bytes else text.encode() for index, text in enumerate(texts)
        ]


@contextmanager
def _typed(problem: str) -> Iterator[None]:
    """Whatever the library raises becomes a ModelFileError. A Rust panic is not an Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise ModelFileError(f"{problem}: {str(error)[:200]}") from None


def _growth(step: Any) -> int:
    """How many times as long a text can become, at most, by what is put in place of its characters."""
    grown = 1
    for part in step.values() if isinstance(step, dict) else step if isinstance(step, list) else ():
        grown *= _growth(part)
    for name in ("content", "prepend"):
        if isinstance(step, dict) and isinstance(step.get(name), str):
            grown *= max(1, len(step[name]))
    return grown


def promote(backend: tokenizers.Tokenizer, added: list[Added]) -> None:
    """Make every control token special, so that the library leaves it alone in plain text."""
    controls = [token.text for token in added if is_control(token.text)]
    backend.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text in controls])
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()


def build(form: TokenizerForm) -> tokenizers.Tokenizer:
    """The library's tokenizer of a form whose vocabulary has all its added tokens."""
    vocab = {text: index for index in range(len(form.tokens)) if (text := form.tokens[index])}
    merges = [_pair(text) for text in form.merges]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    for special, add in ((True, backend.add_special_tokens), (False, backend.add_tokens)):
        add([tokenizers.AddedToken(t.text, normalized=False) for t in form.added if t.special is special])
    return backend


def _pair(merge: str) -> tuple[str, str]:
    cut = merge.index(" ", 1)
    return merge[:cut], merge[cut + 1 :]
