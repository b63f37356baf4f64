"""Objects with boxes or points in the text that a model wrote.

The answer may be fenced, sit in prose, follow a thought, or be cut off anywhere; it is untrusted. This module knows
JSON and the grid; it must not know pixels, pictures or models.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple

from ..errors import DetectionParseError, RequestError
from ..tokens import markers
from .grid import GRID, shown

__all__ = ["Place", "parse", "parse_places", "parse_points"]

Span = tuple[int, int]

_MAX_DEPTH = 64  # an answer is three deep; anything deeper is noise and must not cost recursion

_THOUGHT = re.compile(rf"\s*(?:{re.escape(markers.CHANNEL)}|(?P<bare>thought\n))")


def parse(text: str) -> list[dict[str, Any]]:
    """The objects in a model's answer, in the order written.

    Takes bare JSON, a fenced block, JSON inside prose or after a thought, one object instead of a list, a wrapper such
    as ``{"boxes": [...]}``, and an answer cut off by the token limit, of which the complete objects are returned.
    Separate lists are joined, and what a later one repeats exactly is taken once.

    Returns:
        ``[{"label": str, "box_2d": [y1, x1, y2, x2]}]`` with integers from 0 to 1000; ``[]`` when the model says so.

    Raises:
        DetectionParseError: there is no JSON, an object lacks a field, or a box is outside the grid or inverted.
            ``raw_text`` holds the answer.

    >>> parse('Here: ```json\\n[{"box_2d": [10, 20, 30, 40], "label": "cat"}]\\n```')
    [{'label': 'cat', 'box_2d': [10, 20, 30, 40]}]
    """
    return [place.item for place in parse_places(text, "box_2d")]


def parse_points(text: str) -> list[dict[str, Any]]:
    """The points in a model's answer; takes and raises what :func:`parse` does.

    Returns:
        ``[{"label": str, "point": [y, x]}]`` with integers from 0 to 1000.

    >>> parse_points('[{"point": [500, 250], "label": "nose"}]')
    [{'label': 'nose', 'point': [500, 250]}]
    """
    return [place.item for place in parse_places(text, "point")]


class Place(NamedTuple):
    """An object of an answer, and where in the text it stands: ``(start, end)`` in characters."""

    item: dict[str, Any]
    """``{"label", "box_2d"}`` or ``{"label", "point"}``."""
    span: Span
    """Of its JSON."""
    label: Span
    """Of its label, without the quotes."""
    numbers: tuple[Span, ...]
    """Of its coordinates."""


def parse_places(text: str, key: str = "box_2d", inverted: bool = False) -> list[Place]:
    """As :func:`parse`, with the spans of every value; with `inverted`, boxes whose end is before their beginning are
    handed out, too.

    >>> parse_places('{"point": [1, 2], "label": "a"}', "point")
    [Place(item={'label': 'a', 'point': [1, 2]}, span=(0, 31), label=(28, 29), numbers=((11, 12), (14, 15)))]
    """
    if not isinstance(text, str):
        raise RequestError(f"the answer must be a str, not {type(text).__name__}")
    scanner = _Scanner(text, _after_thoughts(text))
    scanner.scan()

    answers = [(value, _items(value.content, key)) for value in scanner.values]
    broken = scanner.broken
    # A broken value followed by a complete list is a draft or a description of the format; otherwise objects are lost.
    if broken and not any(v.complete and items and v.start > broken[0] for v, items in answers):
        raise DetectionParseError(f"the answer's JSON is broken at character {broken[0]}: {broken[1]}", text)
    found: list[Place] = []
    seen: set[str] = set()
    for _, items in answers:
        fresh = [_checked_item(item, key, text, inverted) for item in items or []]
        found += [place for place in fresh if str(place.item) not in seen]
        seen.update(str(place.item) for place in fresh)
    if not found and scanner.cut:
        raise DetectionParseError("the answer is cut off before its first complete object", text)
    if all(items is None for _, items in answers):
        raise DetectionParseError(f"no JSON with {key} in the answer {shown(text[:100])}", text)
    return found


def _after_thoughts(text: str) -> int:
    """Where the answer begins: behind the thoughts at the start of ``text``, which may hold drafts.

    Elsewhere the markers are text: a label must not be able to hide the objects around it.
    """
    begin = 0
    # The opening marker may be the prompt's last token, and then the text begins with the channel's name.
    while opening := _THOUGHT.match(text, begin):
        closing = text.find(markers.CHANNEL_END, opening.end())
        if closing < 0:
            return begin if opening["bare"] else len(text)
        begin = closing + len(markers.CHANNEL_END)
    return begin


class _Object(dict[str, Any]):
    """A JSON object that knows where it and its values stand in the text, and which of its keys came twice."""

    start = end = 0
    repeated = ""

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        self.spans: dict[str, list[Span]] = {}
        """Of each key: the strings and numbers of its value."""


class _Value(NamedTuple):
    content: Any
    start: int
    complete: bool


@dataclass
class _Frame:
    """An open list or object of the scanner, and what it waits for: item (or key), colon, value, or after (a comma)."""

    content: Any
    start: int
    state: str = "item"
    key: str | None = None
    spans: list[Span] = field(default_factory=list)
    """Of a list's strings and numbers."""


class _Scanner:
    """Finds JSON values in any text in one pass: linear time, no recursion.

    The standard library's decoder does neither: it recurses, and trying it at each bracket takes quadratic time.
    """

    _opener = re.compile(r"[\[{]")
    _space = re.compile(r"[ \t\r\n]*")
    _string = re.compile(r'"[^"\\\r\n]*(?:\\[^\r\n][^"\\\r\n]*)*')  # without the closing quote: it never backtracks
    _number = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
    _word = re.compile(r"true|false|null")
    _cut = re.compile(r"[0-9.eE+-]+|[a-z]{1,4}|\\")  # what may be left of a token where an answer is cut off
    _not_finite = re.compile(r"-?(?:NaN|Infinity)")

    def __init__(self, text: str, begin: int) -> None:
        self.text, self.pos, self.end = text, begin, len(text)
        self.cut = False
        self.values: list[_Value] = []
        self.broken: tuple[int, str] | None = None
        self._stack: list[_Frame] = []

    def scan(self) -> None:
        while True:
            if not self._stack:
                opener = self._opener.search(self.text, self.pos)
                if opener is None:
                    return
                self.pos = opener.start()
                self._open()
                continue
            space = self._space.match(self.text, self.pos)
            self.pos = space.end() if space else self.pos
            if self.pos >= self.end:
                return self._abandon()
            if not self._step():
                self._fail()

    def _step(self) -> bool:
        """Takes one token; False where JSON does not allow it."""
        frame, char = self._stack[-1], self.text[self.pos]
        is_object = isinstance(frame.content, _Object)
        if char == ("}" if is_object else "]"):
            return frame.state in {"item", "after"} and self._close()
        if frame.state in {"after", "colon"}:
            if char != ("," if frame.state == "after" else ":"):
                return False
            frame.state = "item" if frame.state == "after" else "value"
            self.pos += 1
            return True
        if char == '"':
            return self._take_string(frame, is_key=is_object and frame.state == "item")
        if is_object and frame.state == "item":
            return False
        if char in "[{":
            return len(self._stack) < _MAX_DEPTH and self._open()
        return self._take_scalar(frame)

    def _take_string(self, frame: _Frame, is_key: bool) -> bool:
        body = self._string.match(self.text, self.pos)
        stop = body.end() if body else self.pos
        start, self.pos = self.pos, stop
        if stop >= self.end or self.text[stop] != '"':
            return False
        try:
            string = json.loads(self.text[start : stop + 1], strict=False)
        except ValueError:
            return False
        self.pos += 1
        # A lone surrogate can be neither printed nor saved.
        string = string.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if is_key:
            frame.key, frame.state = string, "colon"
        else:
            self._put(frame, string, [(start + 1, stop)])
        return True

    def _take_scalar(self, frame: _Frame) -> bool:
        number = self._number.match(self.text, self.pos)
        word = number or self._word.match(self.text, self.pos)
        if word is None:
            return False
        token = word.group()
        self.pos = word.end()
        if number is None:
            self._put(frame, {"true": True, "false": False, "null": None}[token], [])
        else:  # int() refuses thousands of digits, float() does not
            value = int(token) if len(token) < 16 and token.lstrip("-").isdigit() else float(token)
            self._put(frame, value, [word.span()])
        return True

    def _put(self, frame: _Frame, value: Any, spans: list[Span]) -> None:
        if isinstance(frame.content, _Object):
            assert frame.key is not None
            if frame.key in frame.content:
                frame.content.repeated = frame.key
            frame.content[frame.key] = value
            frame.content.spans[frame.key] = spans
        else:
            frame.content.append(value)
            frame.spans += spans
        frame.key, frame.state = None, "after"

    def _open(self) -> bool:
        self._stack.append(_Frame(_Object() if self.text[self.pos] == "{" else [], self.pos))
        self.pos += 1
        return True

    def _close(self) -> bool:
        self.pos += 1
        frame = self._stack.pop()
        if isinstance(frame.content, _Object):
            frame.content.start, frame.content.end = frame.start, self.pos
        if self._stack:
            self._put(self._stack[-1], frame.content, frame.spans)
        else:
            self.values.append(_Value(frame.content, frame.start, complete=True))
        return True

    def _fail(self) -> None:
        """Gives up the open value; the text goes on behind it, unless this is where the answer was cut."""
        cut = self._cut.match(self.text, self.pos)
        if self.pos >= self.end or (cut and cut.end() == self.end):
            self.pos = self.end
        elif self.broken is None and self._holds_object():
            self.broken = (self.pos, f"unexpected {shown(self.text[self.pos : self.pos + 20])}")
        self._abandon()

    def _holds_object(self) -> bool:
        """Whether giving up here would lose an object: one is open, or a list of them holds a NaN."""
        if any(isinstance(frame.content, _Object) and (frame.content or frame.key) for frame in self._stack):
            return True
        return bool(self._stack[0].content and self._not_finite.match(self.text, self.pos))

    def _abandon(self) -> None:
        """Keeps the complete objects of the open value."""
        # From the first object that could be an answer inwards, everything is part of an incomplete object.
        answers = {"box_2d", "point", "label"}
        outer = takewhile(lambda f: isinstance(f.content, list) or answers.isdisjoint(f.content), self._stack)
        whole = _Object((str(depth), frame.content) for depth, frame in enumerate(outer) if frame.content)
        if whole:
            self.values.append(_Value(whole, self._stack[0].start, complete=False))
        self.cut = self.pos >= self.end
        self._stack.clear()


def _items(value: Any, key: str) -> list[Any] | None:
    """What ``value`` puts forward as its answer, or None when it is not an answer; anything but objects is wrong."""
    if isinstance(value, _Object) and key not in value:
        parts = [part for v in value.values() if (part := _items(v, key)) is not None]
        if any(parts) or (parts and "label" not in value):
            return [item for part in parts for item in part]  # a wrapper such as {"boxes": [...]}
        return [value] if "label" in value else None
    if isinstance(value, _Object):
        return [value]
    if not isinstance(value, list):
        return None
    answers = [_items(element, key) for element in value]
    if value and all(answer is None for answer in answers):
        return None
    return [
        item
        for element, answer in zip(value, answers, strict=True)
        for item in ([element] if answer is None else answer)
    ]


def _checked_item(item: Any, key: str, text: str, inverted: bool) -> Place:
    """One object, or the error that says what is wrong with it."""
    if not isinstance(item, _Object):
        raise DetectionParseError(f"the answer's list holds {shown(item)} where an object should stand", text)
    where = f"the object {shown(dict(item))}"
    for name in ("label", key):
        if name not in item:
            raise DetectionParseError(f"{where} has no {name}", text)
    if item.repeated in {"label", key}:
        raise DetectionParseError(f"{where} has {item.repeated} twice", text)
    label, numbers = item["label"], item[key]
    if not isinstance(label, str):
        raise DetectionParseError(f"{where} has a label that is not a string", text)
    count = 4 if key == "box_2d" else 2
    integral = isinstance(numbers, list) and all(
        type(n) is int or (type(n) is float and n.is_integer()) for n in numbers
    )
    if not integral or len(numbers) != count:
        raise DetectionParseError(f"{key} {shown(numbers)} of {label[:40]!r} must be {count} integers", text)
    if not all(0 <= n <= GRID for n in numbers):
        raise DetectionParseError(f"{key} {shown(numbers)} of {label[:40]!r} lies outside the grid 0 to {GRID}", text)
    if not inverted and count == 4 and (numbers[2] < numbers[0] or numbers[3] < numbers[1]):
        raise DetectionParseError(f"box_2d {shown(numbers)} of {label[:40]!r} is inverted", text)
    found = {"label": label, key: [int(n) for n in numbers]}
    return Place(found, (item.start, item.end), item.spans["label"][0], tuple(item.spans[key]))
