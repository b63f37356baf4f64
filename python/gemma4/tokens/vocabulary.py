"""What encodes and decodes, made from a tokenizer.json or from the form that another file gives.

Knows: which of the two, the engine's own or the library's, a tokenizer needs. Must not know: where files are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .. import _core
from .form import Added, TokenizerForm, read_form

if TYPE_CHECKING:
    import tokenizers

    from .library import LibraryTokenizer

__all__ = ["Vocabulary", "read_vocabulary", "vocabulary_of"]


class Vocabulary(NamedTuple):
    """What encodes. The texts of its merges, 9 MB of a vocabulary of 262,144, are not kept: hardly anybody asks for
    them."""

    encoder: _core.Bpe | LibraryTokenizer
    added: list[Added]
    backend: Callable[[], tokenizers.Tokenizer]
    """Makes the library's tokenizer of the same, from the file once more."""


def read_vocabulary(read: Callable[[], bytes], where: str) -> Vocabulary:
    """The vocabulary of a tokenizer.json.

    Args:
        read: gives its bytes, each time it is asked.
        where: what messages call it.

    Raises:
        ModelFileError: it is malformed.
    """
    data = read()
    form = read_form(data, where)
    if form is not None:
        return Vocabulary(form.engine(), form.added, lambda: _library(read(), where).backend)
    library = _library(data, where)
    return Vocabulary(library, library.added, lambda: _library(read(), where).backend)


def vocabulary_of(form: TokenizerForm, read: Callable[[], TokenizerForm]) -> Vocabulary:
    """The vocabulary of a form, which `read` gives once more.

    Raises:
        ModelFileError: a token appears twice, or a merge or an added token does not fit.
    """

    def backend() -> tokenizers.Tokenizer:
        from . import library

        again = read()
        built = library.build(again)
        library.promote(built, again.added)
        return built

    return Vocabulary(form.engine(), form.added, backend)


def _library(data: bytes, where: str) -> LibraryTokenizer:
    from .library import LibraryTokenizer  # here, because few tokenizers need it

    return LibraryTokenizer(data, where)
