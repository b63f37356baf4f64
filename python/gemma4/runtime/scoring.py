"""How likely a model finds a prompt, token by token.

Knows: sessions, logits. Must not know: messages, pictures, sampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..answer import TokenLogprob, named
from ..tokens import Tokenizer

__all__ = ["Media", "Scores", "score"]

_ROWS = 64  # positions whose logits are held at once; 67 MB for a vocabulary of 262,144

Media = tuple[int, NDArray[np.float32], bool]
"""Where soft tokens begin in a prompt, their (n, hidden) rows, and whether they are a picture's."""


@dataclass(frozen=True)
class Scores:
    """The log-probabilities of a prompt's tokens, each given all that comes before it."""

    token_ids: NDArray[np.int32]
    """(T,)"""
    logprobs: NDArray[np.float32]
    """(T,); NaN for the first token, which nothing precedes, and for the placeholders of media."""
    top_logprobs: list[list[TokenLogprob]] | None = field(default=None, repr=False)
    """For each token, the most likely ones in its place, most likely first; empty where `logprobs` is NaN. None unless
    asked for."""


def score(
    session: _core.Sequence, ids: NDArray[np.int32], media: Sequence[Media], top: int, tokenizer: Tokenizer | None
) -> Scores:
    """Scores of ids (T,) in an empty session; `top`: how many of the most likely tokens to name at each place."""
    logprobs = np.full(len(ids), np.nan, dtype=np.float32)
    likeliest: list[list[TokenLogprob]] = [[] for _ in ids]
    placeholder = np.zeros(len(ids), dtype=bool)  # placeholders
    for start, rows, _ in media:
        placeholder[start : start + len(rows)] = True
    for begin, end in _pieces(placeholder):
        soft = [_core.SoftTokens(start - begin, rows, image) for start, rows, image in media if begin <= start < end]
        logits = session.prefill(ids[begin:end], soft, "last" if placeholder[begin] else "all")
        assert logits is not None
        first = end - len(logits)  # the position of the first row
        for position in range(first + 1, min(end + 1, len(ids))):  # a row is about the next position
            if not placeholder[position]:
                row = logits[position - 1 - first]
                best = _core.top_logprobs(row, max(top, 1))
                logprobs[position] = row[ids[position]] - row[best[0][0]] + best[0][1]
                likeliest[position] = named(best[:top], tokenizer)
    return Scores(ids, logprobs, likeliest if top else None)


def _pieces(placeholder: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(begin, end) of the parts to compute at once: media in one piece, as their tokens may see each other; text in
    pieces whose logits fit in memory."""
    edges = [0, *(np.flatnonzero(placeholder[1:] != placeholder[:-1]) + 1).tolist(), len(placeholder)]
    for begin, end in pairwise(edges):
        step = end - begin if placeholder[begin] else _ROWS
        yield from ((at, min(at + step, end)) for at in range(begin, end, step))
