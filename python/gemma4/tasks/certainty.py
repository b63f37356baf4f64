"""How sure a model is of a place that it names: from the probabilities of its answer's tokens.

Knows: where in an answer the values stand, which tokens could have stood there. Must not know: pictures, pixels,
questions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..answer import GenerationResult
from ..boxes import Place, iou

__all__ = ["TOP", "Certainty", "certainties"]

TOP = 32
"""Of the most likely tokens: enough for every number that is near."""
_IOU = 0.5  # with the true box, of a box that is right
_NEAR_POINT = 10  # grid steps, a hundredth of the picture's side, of a point that is
_MOST = 16  # of the likeliest numbers for an edge, of which all combinations are looked at
_NEAR = 40  # grid steps: the numbers whose mean is an edge

_Numbers = list[tuple[float, float]]
"""Probabilities and the numbers that have them."""
_Token = tuple[int, int, int]
"""Its characters in the answer's text, from and to, and its position among the tokens."""


@dataclass(frozen=True)
class Certainty:
    """What the model knows about one place."""

    score: float
    """Probability, from 0 to 1, that there is one more place, that it has this label, and that it is where it is said
    to be: that a box has an IoU of 0.5 with the true one, that a point is near. A model spreads a coordinate over
    neighbouring numbers, all of which are right. A box on a more certain one, of the same name, is likely that object
    once more."""
    name: str
    """The label; of names that were asked for the one that fits best."""
    label: float
    """Probability of the label alone; of a name that the model did not write at most this."""
    written: tuple[float, ...]
    """The coordinates."""
    expected: tuple[float, ...]
    """What each coordinate is in the mean over the near numbers: finer than the grid."""


class Names(NamedTuple):
    """Labels that were asked for; none for any."""

    names: Sequence[str] = ()
    kinds: bool = False
    """Whether a label that ends in a name is one of its kind, as a blue star is a star."""


_ANY = Names()


def certainties(out: GenerationResult, places: Sequence[Place], asked: Names = _ANY) -> list[Certainty]:
    """Of each place of an answer that was made with `logprobs=TOP`, in the order of the text."""
    spans = [(begin, end, position) for position, (begin, end) in enumerate(out.token_spans) if begin < end]
    found, since, at = [], 0, 0
    for place in places:
        tokens = []
        while at < len(spans) and spans[at][0] < place.span[1]:
            tokens.append(spans[at])
            at += 1
        found.append(_certainty(out, place, tokens, since, asked))
        since = place.span[1]
    return _each_once(found)


def _each_once(found: Sequence[Certainty]) -> list[Certainty]:
    """The same with the score of a box, the less certain later, multiplied by the probability that it is of another
    object than those before under its name: 1 less what it has in common with each (the linear decay of Soft-NMS, Bodla
    et al. 2017), as far as that one is right. A box that ends before it begins has no score to be multiplied."""
    once = list(found)
    before: dict[str, list[Certainty]] = {}  # by name
    for index in sorted(range(len(found)), key=lambda index: -found[index].score):
        sure = found[index]
        if len(sure.written) != 4 or sure.score == 0:
            continue
        others = before.setdefault(sure.name.casefold(), [])
        common = iou([other.written for other in others], sure.written)
        repeats = np.array([other.score for other in others]) * np.where(common >= _IOU, common, 0)
        once[index] = replace(sure, score=sure.score * float(np.prod(1 - repeats)))
        others.append(once[index])
    return once


def _certainty(out: GenerationResult, place: Place, tokens: list[_Token], since: int, asked: Names) -> Certainty:
    """Of a place whose text is made of tokens, the first of which may begin before `since`."""
    assert out.logprobs is not None
    first = min(place.label[0], place.numbers[0][0])
    written = [token for token in tokens if _meet(token[:2], place.label)]
    said = _Said(out, written, place.label)
    label, name = max(
        ((said.chance(name, asked.kinds), name) for name in asked.names),
        key=lambda one: (one[0], len(one[1])),
        default=(_reached(out, written), place.item["label"]),
    )
    # What says that the list goes on.
    more = [(begin, end, at) for begin, end, at in tokens if since <= begin and end <= first]
    sure = label * _reached(out, [token for token in more if token not in written])
    edges = [
        _outcomes(out, [token for token in tokens if _meet(token[:2], number)], number) for number in place.numbers
    ]
    values = tuple(float(out.text[start:stop]) for start, stop in place.numbers)
    near = _iou_chance(edges, values) if len(values) == 4 else _near_chance(edges, values)
    expected = tuple(_mean(edge, value) for edge, value in zip(edges, values, strict=True))
    return Certainty(min(1.0, sure * near), name, min(1.0, label), values, expected)


def _near_chance(edges: list[_Numbers], values: Sequence[float]) -> float:
    """Probability that each coordinate is near its value."""
    return math.prod(
        sum(p for p, n in edge if abs(n - v) <= _NEAR_POINT) for edge, v in zip(edges, values, strict=True)
    )


def _iou_chance(edges: list[_Numbers], values: Sequence[float]) -> float:
    """Probability that a box whose edges (y1, x1, y2, x2) are drawn from these numbers, each for itself, has an IoU of
    0.5 with the box that these values make. What is missing to a probability of 1 is far away."""
    likeliest = [np.array(sorted(edge, reverse=True)[:_MOST]) for edge in edges]  # (n, 2): probability, number
    chances, common, lengths = [], [], []
    for axis in (0, 1):
        first, last = likeliest[axis], likeliest[axis + 2]
        begin, end = first[:, None, 1], last[None, :, 1]
        chances.append((first[:, None, 0] * last[None, :, 0]).ravel())
        common.append(np.clip(np.minimum(end, values[axis + 2]) - np.maximum(begin, values[axis]), 0, None).ravel())
        lengths.append(np.clip(end - begin, 0, None).ravel())
    inside = np.outer(common[0], common[1])
    area = abs(values[2] - values[0]) * abs(values[3] - values[1])
    right = inside >= _IOU * (np.outer(lengths[0], lengths[1]) + area - inside)
    return (
        float(chances[0] @ right @ chances[1]) if area > 0 else math.prod(float(edge[:, 0].max()) for edge in likeliest)
    )


def _mean(edge: _Numbers, value: float) -> float:
    """Of the numbers near the value, weighted by their probability."""
    near = [(p, n) for p, n in edge if abs(n - value) <= _NEAR]
    mass = sum(p for p, _ in near)
    return sum(p * n for p, n in near) / mass if mass > 0 else value


def _reached(out: GenerationResult, tokens: Sequence[_Token]) -> float:
    """Probability of tokens after what comes before them."""
    assert out.logprobs is not None
    return math.exp(sum(float(out.logprobs[position]) for *_, position in tokens))


class _Said:
    """The label of a place, to be compared with many names."""

    def __init__(self, out: GenerationResult, tokens: Sequence[_Token], label: tuple[int, int]) -> None:
        """Written in characters `label` of an answer's text, by these tokens."""
        self._out, self._tokens, self._label = out, tokens, label
        self._written = out.text[slice(*label)].casefold()
        self._others: dict[int, list[tuple[str, float]]] = {}  # by the token that they could stand in place of

    def chance(self, name: str, kinds: bool) -> float:
        """Probability of a name in place of the label: of the tokens that both have, and of all that could have gone on
        with the name where they part. `kinds` as of :class:`Names`."""
        out, tokens, label, written = self._out, self._tokens, self._label, self._written
        wanted = json.dumps(name, ensure_ascii=False)[1:-1].casefold()
        head = written[-len(wanted) :] if kinds and written.endswith(" " + wanted) else written
        if head in (wanted, wanted + "s", wanted + "es") or wanted in (head + "s", head + "es"):
            return _reached(out, tokens)
        wanted += '"'  # ends there
        for count, (begin, end, _) in enumerate(tokens):
            said = max(begin, label[0]) - label[0]  # characters of the label before this token
            if wanted.startswith(out.text[label[0] + said : end].casefold(), said):
                continue
            rest = wanted[said:]
            fits = [p for text, p in self._instead(count) if rest.startswith(text) or text.startswith(rest)]
            return _reached(out, tokens[:count]) * sum(fits)
        return _reached(out, tokens)

    def _instead(self, count: int) -> list[tuple[str, float]]:
        """What could have stood in place of a token of the label: its part of the label, and its probability."""
        if count not in self._others:
            begin, _, position = self._tokens[count]
            left = self._out.text[begin : max(begin, self._label[0])]
            others = self._out.top_logprobs[position] if self._out.top_logprobs is not None else ()
            spelled = ((one.token[len(left) :].casefold(), one.logprob) for one in others if one.token.startswith(left))
            self._others[count] = [(text, math.exp(logprob)) for text, logprob in spelled if text]
        return self._others[count]


def _outcomes(out: GenerationResult, tokens: Sequence[_Token], number: tuple[int, int]) -> _Numbers:
    """The numbers that could have stood in place of one, with their probabilities: for each likely token in place of
    one of its tokens, after those before it, the middle of what it becomes with whatever digits would have followed."""
    assert out.logprobs is not None
    start, stop = number
    found, reached = [], 1.0  # probability of the tokens before
    for begin, end, position in tokens:
        first, last = max(begin, start), min(end, stop)  # the token's part of the number
        left, right = out.text[begin:first], out.text[last:end]
        for index, token, logprob in out.top_logprobs[position] if out.top_logprobs is not None else ():
            digits = token[len(left) : len(token) - len(right)]
            fits = token.startswith(left) and token.endswith(right) and digits.isascii() and digits.isdigit()
            if fits and index != int(out.token_ids[position]):
                written, open_digits = out.text[start:first] + digits, stop - last
                middle = (int(written + "0" * open_digits) + int(written + "9" * open_digits)) / 2
                found.append((reached * math.exp(logprob), middle))
        reached *= math.exp(float(out.logprobs[position]))
    return [*found, (reached, float(out.text[start:stop]))]


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two ranges of characters have any in common."""
    return one[0] < other[1] and one[1] > other[0]
