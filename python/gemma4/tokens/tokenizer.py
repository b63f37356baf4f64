"""Text to token ids and back.

Knows: which tokens control the model, UTF-8. Must not know: how a tokenizer is stored, chat templates, media, sampling.

Text from users and text from the checkpoint's own template are told apart: :meth:`Tokenizer.encode` never yields a
control token, whatever the text holds; control tokens come from :meth:`Tokenizer.encode_marked`, where the template
wrote them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError, RequestError
from ..jsonfile import is_text, type_name
from .form import is_control
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Detokenizer", "Tokenizer"]


class Tokenizer:
    """The checkpoint's tokenizer. Safe to use from many threads.

    >>> import gemma4
    >>> tokenizer = gemma4.Model.from_pretrained("demo").tokenizer
    >>> tokenizer.decode(tokenizer.encode("a red circle"))
    'a red circle'
    >>> tokenizer.id_of("<turn|>") in tokenizer.encode("<turn|>")
    False
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        names: Mapping[str, str] | None = None,
        reopen: Callable[[], Tokenizer] | None = None,
    ) -> None:
        """Of a checkpoint's, see :attr:`gemma4.Model.tokenizer`.

        Args:
            vocabulary: what encodes.
            names: what tokenizer_config.json calls the control tokens, from :func:`special_tokens`.
            reopen: gives the same tokenizer in another process; can be pickled. None for one that cannot.
        """
        self._named = dict(names or {})
        self._reopen = reopen
        self._backend = vocabulary.backend
        self._engine, added = vocabulary.encoder, vocabulary.added
        self.vocab_size: int = self._engine.size
        self.controls: dict[str, int] = {token.text: token.id for token in added if is_control(token.text)}
        self._special = frozenset(token.id for token in added if token.special)
        self._control_ids = frozenset(self.controls.values())
        # Lengths of those that begin with a character, the longest first. One pattern for all takes seconds to compile.
        lengths: dict[str, set[int]] = {}
        for text in self.controls:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        self.control_starts = frozenset(lengths)
        self._start = re.compile("|".join(map(re.escape, lengths)) or r"(?!)")
        self._pieces: dict[int, str] = {}  # those that were asked for: the likeliest ids are the same again and again

    # -- encoding ------------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of a text, without a beginning-of-sequence token.

        Args:
            text: any string without lone surrogates.
            allow_special: read `<turn|>` and its like as the control tokens they name. Never set it for text that you
                did not write yourself.

        Raises:
            RequestError: not a string, or a lone surrogate in it.
        """
        check_text(text, "text")
        if allow_special:
            return self.encode_marked(text)
        return self._encode_plain(text)

    def encode_marked(self, rendered: str, shield: str = "") -> list[int]:
        """Ids of a rendered template, its control tokens included.

        Args:
            rendered: the template's output.
            shield: a character that the caller put into user text so that it forms no control token; removed here.
        """
        ids: list[int] = []
        position = 0
        for begin, end in self._controls_in(rendered):
            ids += self._encode_plain(_unshield(rendered[position:begin], shield))
            ids.append(self.controls[rendered[begin:end]])
            position = end
        return ids + self._encode_plain(_unshield(rendered[position:], shield))

    def _controls_in(self, text: str) -> Iterator[tuple[int, int]]:
        """[begin, end) of the control tokens in a text, the longest at every place."""
        at = 0
        while found := self._start.search(text, at):
            begin = found.start()
            ends = (begin + length for length in self._lengths[text[begin]])
            end = next((end for end in ends if text[begin:end] in self.controls), None)
            if end is not None:
                yield begin, end
            at = end or begin + 1

    def _encode_plain(self, text: str) -> list[int]:
        if not text:
            return []
        ids = self._engine.encode(text)
        if self._control_ids.isdisjoint(ids):
            return ids
        # The vocabulary can spell a control token with ordinary pieces: encode character by character.
        ids = [index for char in text for index in self._engine.encode(char)]
        if not self._control_ids.isdisjoint(ids) and not self._is_unknown(ids):
            raise RequestError("the text holds a character that this tokenizer can only encode as a control token")
        return ids

    def _is_unknown(self, ids: Sequence[int]) -> bool:
        """Whether the control tokens in `ids` are all the unknown token, which text may yield."""
        return self._control_ids.intersection(ids) <= {self.controls.get("<unk>", -1)}

    # -- decoding ------------------------------------------------------------------------------------------------------

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of token ids. Bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: token ids; those outside the vocabulary are refused.
            skip_special: leave control tokens out of the text.

        Raises:
            RequestError: an id that the vocabulary lacks.
        """
        checked = [self.check_id(index) for index in ids]
        if skip_special:
            return self._engine.decode([index for index in checked if index not in self._special])
        parts: list[str] = []  # control tokens are written as they are, the text between them is decoded
        start = 0
        for position, index in enumerate(checked):
            if index in self._control_ids:
                parts += [self._engine.decode(checked[start:position]), self.token(index)]
                start = position + 1
        return "".join([*parts, self._engine.decode(checked[start:])])

    def is_special(self, index: int) -> bool:
        """Whether :meth:`decode` leaves this id out."""
        return index in self._special

    def is_byte(self, index: int) -> bool:
        """Whether the id stands for a byte, so that its text depends on its neighbours."""
        return self._engine.byte(index) >= 0

    def byte(self, index: int) -> bytes:
        """The byte that an id stands for; empty for all other ids."""
        value = self._engine.byte(index)
        return bytes([value]) if value >= 0 else b""

    def token_bytes(self) -> list[bytes]:
        """What each id, in order, adds to a text: spaces for `▁`, the byte of a byte token, nothing where there is no
        token. The decoder treats every token alone."""
        return self._engine.pieces()

    def piece(self, index: int) -> str:
        """One id alone, to be read by people: its text; a byte and a control token as the vocabulary writes them.

        >>> import gemma4
        >>> tokenizer = gemma4.Model.from_pretrained("demo").tokenizer
        >>> tokenizer.piece(tokenizer.id_of("<turn|>")), tokenizer.piece(tokenizer.id_of("<0x0A>"))
        ('<turn|>', '<0x0A>')
        """
        text = self._pieces.get(index)
        if text is None:
            written = index >= self.vocab_size or index in self._control_ids or self.is_byte(index)
            text = self.token(index) if written else self._engine.decode([index])
            self._pieces[index] = text
        return text

    # -- names ---------------------------------------------------------------------------------------------------------

    def check_id(self, index: int) -> int:
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < self.vocab_size:
            raise RequestError(f"token id {index!r} is outside the vocabulary (0 to {self.vocab_size - 1})")
        return int(index)

    def id_of(self, token: str) -> int | None:
        """The id of a token as it is written in the vocabulary, or None."""
        return self._engine.find(token)

    def token(self, index: int) -> str:
        """A token as it is written in the vocabulary."""
        return self._engine.token(index)

    def special_token(self, name: str) -> str | None:
        """A token named in `tokenizer_config.json`, such as `"bos_token"`; None if it has no such name."""
        return self._named.get(name)

    @property
    def special_tokens(self) -> dict[str, str]:
        """All of them, name to text.

        >>> import gemma4
        >>> gemma4.Model.from_pretrained("demo").tokenizer.special_tokens["bos_token"]
        '<bos>'
        """
        return dict(self._named)

    @property
    def backend(self) -> tokenizers.Tokenizer:
        """The same as a `tokenizers.Tokenizer`, made at every call: seconds for a vocabulary of 262,144."""
        return self._backend()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reopen is None:
            raise TypeError("a tokenizer that was not opened from a file cannot be pickled")
        return self._reopen, ()

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"<gemma4.Tokenizer of {self.vocab_size} tokens, {len(self.controls)} of them control>"


class Detokenizer:
    """Turns ids into text as they come; the pieces joined are exactly the text of all ids at once.

    Every piece is valid UTF-8. A character spelled in bytes comes when its last byte is known, that is with the next
    token that is not a byte; broken bytes become U+FFFD only then.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes: list[int] = []

    def push(self, index: int) -> str:
        """The text that this id completes; empty while a character is unfinished, and for ids without a token, which
        a model whose vocabulary is padded may choose."""
        if index >= self._tokenizer.vocab_size or self._tokenizer.is_special(index):
            return ""
        self._bytes.append(index)
        return "" if self._tokenizer.is_byte(index) else self.finish()

    def finish(self) -> str:
        """What is left, once no id follows."""
        ids, self._bytes = self._bytes, []
        return self._tokenizer.decode(ids) if ids else ""


def check_text(text: Any, name: str) -> str:
    """A string that can be encoded. Raises RequestError naming `name` otherwise."""
    if not isinstance(text, str):
        raise RequestError(f"{name}: expected a string, found {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(f"{name}: a lone surrogate at position {error.start} is no text") from None
    return text


def special_tokens(config: Mapping[str, Any], where: str) -> dict[str, str]:
    """What the fields named `…_token` call the control tokens; `add_bos_token` and its like are no names."""
    named: dict[str, str] = {}
    for name, value in config.items():
        if not name.endswith("_token") or name.startswith("add_") or value is None:
            continue
        text = value.get("content") if isinstance(value, dict) else value
        if not isinstance(text, str) or not is_text(text):
            raise ModelFileError(f"{where}: {name[:80]}: expected a token's text, found {type_name(text)}")
        named[name] = text
    return named


def _unshield(text: str, shield: str) -> str:
    return text.replace(shield, "") if shield else text


def as_ids(ids: Any, vocab_size: int) -> NDArray[np.int32]:
    """(T,) int32 token ids from any integer array-like, each checked against the vocabulary.

    Raises:
        RequestError: not a one-dimensional array of integers, empty, or an id outside the vocabulary.
    """
    array = np.asarray(ids)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise RequestError(f"token ids: expected integers of shape (T,), found {array.dtype} {array.shape}")
    if array.size == 0:
        raise RequestError("token ids: at least one is needed")
    if int(array.min()) < 0 or int(array.max()) >= vocab_size:
        wrong = array[(array < 0) | (array >= vocab_size)][0]
        raise RequestError(f"token id {wrong} is outside the vocabulary (0 to {vocab_size - 1})")
    return np.ascontiguousarray(array, dtype=np.int32)
