"""What a chat template may compute with, and what that costs: values, operators, a meter.

Knows: plain values (texts, numbers, lists, dicts), a budget for one render. Must not know: Jinja's syntax tree,
messages, files.

The list is that of published chat templates. Everything a template does passes through a function here, which asks the
meter for the memory that the result will take before it is made, and for the places of a nested value before anything
walks through it: a value that holds itself many times over has few objects, but its text has not.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, ItemsView, Iterable, KeysView, Mapping, ValuesView
from contextvars import ContextVar
from itertools import islice
from typing import Any

import jinja2
from jinja2.runtime import Undefined

__all__ = [
    "MARK",
    "MAX_BITS",
    "METER",
    "PLACE",
    "Meter",
    "Refused",
    "TemplateRaised",
    "binary",
    "bits",
    "built",
    "compare",
    "compared",
    "concat",
    "counted",
    "grow",
    "joined",
    "key",
    "sliced",
    "text",
    "unary",
]

MAX_TEXT = 16_000_000  # characters of any text
MAX_BYTES = 128 << 20  # of all that a render builds, whether or not it keeps it
MAX_SECONDS = 1.0  # of its thread's time

PLACE = 64  # bytes of an element and of what holds it; also counted for every step, so that their number ends
MAX_BITS = 4096  # of an integer


class Refused(jinja2.exceptions.TemplateRuntimeError):
    """The template wants more than a render may cost, or what no template may have."""


class TemplateRaised(jinja2.exceptions.TemplateError):
    """The template itself refused the conversation."""


class Meter:
    """Counts what one render costs."""

    def __init__(self) -> None:
        self.left = MAX_BYTES
        self._steps = 0
        self._end = time.thread_time() + MAX_SECONDS

    def step(self, size: int = 0) -> None:
        """One step that builds `size` bytes."""
        self.left -= size + PLACE
        if self.left < 0:
            raise Refused(f"builds more than {MAX_BYTES >> 20} MB")
        self._steps += 1
        if self._steps % 32 == 0 or size > 1 << 20:
            self.check_time()

    def check_time(self) -> None:
        if time.thread_time() > self._end:
            raise Refused(f"takes longer than {MAX_SECONDS:g} s")

    def text(self, characters: int, ascii_only: bool) -> None:
        """A step that builds a text."""
        if characters > MAX_TEXT:
            raise Refused(f"builds a text of more than {MAX_TEXT} characters")
        self.step(characters if ascii_only else 4 * characters)

    def places(self, count: int) -> None:
        """A step that builds or visits so many elements."""
        self.step(PLACE * count)

    def nested(self, value: Any) -> tuple[int, int, int]:
        """Visits every place in a value: (characters that show it, places, depth). Raises Refused if it is not data."""
        characters, places, deepest = 0, 1, 0
        pending = [(value, 1)]
        while pending:
            item, depth = pending.pop()
            deepest = max(deepest, depth)
            if isinstance(item, str):
                characters += len(item) + 4
            elif isinstance(item, dict | list | tuple | KeysView | ValuesView | ItemsView):
                self.places(len(item))
                places += len(item)
                if isinstance(item, dict):
                    pending += ((key, depth) for key in item)
                    item = item.values()
                pending += ((one, depth + 1) for one in item)
                characters += 24
            elif isinstance(item, int):
                characters += 8 + bits(item) // 3
            elif item is None or isinstance(item, float | Undefined):
                characters += 32
            else:
                raise Refused(getattr(item, "problem", f"shows or compares a {type(item).__name__.lstrip('_')}"))
        return characters + 2 * places, places, deepest


METER: ContextVar[Meter] = ContextVar("meter of the render")
MARK: ContextVar[str] = ContextVar("character that is no part of the texts", default="")


def bits(value: int) -> int:
    bits = value.bit_length()
    if bits > MAX_BITS:
        raise Refused(f"an integer of more than {MAX_BITS} bits")
    return bits


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def key(value: Any) -> Any:
    """A value that a dict may be asked for: the hash of a nested tuple can take for ever."""
    if not _scalar(value) and not isinstance(value, Undefined):
        raise Refused(f"a key is a {type(value).__name__}")
    return value


def text(value: Any) -> str:
    """As it is shown."""
    meter = METER.get()
    if isinstance(value, str):
        meter.step()
        return value
    if not _scalar(value) or isinstance(value, int):
        characters, _, _ = meter.nested(value)
        meter.text(10 * characters, True)  # a character may be written as \U0010ffff
    return str(value)


def concat(parts: Iterable[str]) -> str:
    """What a macro or a block has written."""
    return joined(parts if isinstance(parts, list) else list(parts))


def joined(parts: list[Any], between: str = "") -> str:
    texts = [part if isinstance(part, str) else text(part) for part in parts]
    size = sum(map(len, texts)) + len(between) * len(texts)
    METER.get().text(size, between.isascii() and all(map(str.isascii, texts)))
    return between.join(texts)


def counted(items: Any, outputs: int = 0) -> list[Any]:
    """The items of a loop, each of which may write `outputs` pieces."""
    size = getattr(items, "__len__", None)
    meter = METER.get()
    if size is not None:
        meter.step((PLACE + 16 * outputs) * size())
        return list(items)
    room = meter.left // PLACE
    kept = list(islice(items, room + 1))
    meter.step((PLACE + 16 * outputs) * len(kept))
    return kept


def built(items: Any) -> Any:
    """A list, tuple or dict that the template spells."""
    METER.get().places(len(items))
    return items


def sliced(value: Any, start: Any, stop: Any, step: Any) -> Any:
    if isinstance(value, str):
        METER.get().text(len(value), value.isascii())
    elif isinstance(value, list | tuple | range):
        METER.get().places(len(value))
    elif not isinstance(value, Undefined):
        raise Refused(f"a slice of a {type(value).__name__}")
    return value[start:stop:step]


# ----------------------------------------------------------------------------------------------------------------------
# operators

_ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
}

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


def compare(left: Any, kind: str, right: Any) -> Any:
    """One comparison, by Jinja's name of the operator."""
    if kind in ("in", "notin"):
        return _contains(right, left) is (kind == "in")
    meter = METER.get()
    if isinstance(left, str) and isinstance(right, str):
        meter.step(min(len(left), len(right)) // 64)
    else:
        for side in (left, right):
            if not _scalar(side) and not isinstance(side, Undefined):
                meter.nested(side)
        meter.step()
    return _ORDER[kind](left, right)


def compared(values: list[Any], *kinds: str) -> Any:
    """`a < b < c`, all of which are computed."""
    result: Any = True
    for left, kind, right in zip(values, kinds, values[1:], strict=False):
        result = compare(left, kind, right)
        if not result:
            break
    return result


def _contains(whole: Any, part: Any) -> bool:
    meter = METER.get()
    if isinstance(whole, str):
        meter.step(len(whole) // 16)
        return part in whole
    if isinstance(whole, Mapping | KeysView):
        meter.step()
        return key(part) in whole
    if isinstance(whole, Undefined) or (isinstance(whole, range) and isinstance(part, int)):
        meter.step()
        return part in whole
    if not _scalar(part):
        meter.nested(part)
    items = whole if isinstance(whole, list | tuple) else counted(whole)
    if not all(map(_scalar, items[:64])) or len(items) > 64:
        meter.nested(items)
    return part in items


def binary(kind: str, left: Any, right: Any) -> Any:
    """`left kind right` for an arithmetic operator."""
    meter = METER.get()
    for side in (left, right):
        if isinstance(side, int):
            bits(side)
    sequences = [side for side in (left, right) if isinstance(side, str | list | tuple)]
    if kind == "+" and len(sequences) == 2 and type(left) is type(right):
        grow(left, len(left) + len(right), left, right)
    elif kind == "*" and len(sequences) == 1:
        times = right if sequences[0] is left else left
        if isinstance(times, int):
            grow(sequences[0], len(sequences[0]) * max(times, 0), sequences[0])
    elif sequences and kind not in "+*":
        raise Refused(f"{kind!r} of a {type(sequences[0]).__name__}")
    meter.step()
    return _ARITHMETIC[kind](left, right)


def unary(kind: str, value: Any) -> Any:
    binary("+", 0, value)  # which has its limits, and numbers only
    return -value if kind == "-" else +value


def grow(kind: Any, size: int, *parts: Any) -> None:
    if isinstance(kind, str):
        METER.get().text(size, all(part.isascii() for part in parts))
    else:
        METER.get().places(size)
