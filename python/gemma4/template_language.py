"""What a chat template may compute, and what that costs: its filters, tests, methods and operators.

Knows: plain values (texts, numbers, lists, dicts), Jinja's own filters, a budget for one render. Must not know: Jinja's
syntax tree, messages, files.

The list is that of published chat templates. Everything a template does passes through a function here, which asks the
meter for the memory that the result will take before it is made, and for the places of a nested value before anything
walks through it: a value that holds itself many times over has few objects, but its text has not.
"""

from __future__ import annotations

import json
import operator
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import filters, tests
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import safe_range
from jinja2.utils import Namespace

__all__ = [
    "FILTERS", "GLOBALS", "MARK", "METER", "METHODS", "MISSING", "TESTS", "Meter", "Refused", "TemplateRaised",
    "attribute", "binary", "built", "call", "compared", "concat", "counted", "joined", "key", "sliced", "text", "unary",
]  # fmt: skip

MAX_TEXT = 16_000_000  # characters of any text
MAX_BYTES = 128 << 20  # of all that a render builds, whether or not it keeps it
MAX_SECONDS = 1.0  # of its thread's time

_PLACE = 64  # bytes of an element and of what holds it; also counted for every step, so that their number ends
_MAX_BITS = 4096  # of an integer
_MAX_INDENT = 64
_MAX_FORM = 200  # characters of a date's


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
        self.left -= size + _PLACE
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
        self.step(_PLACE * count)

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
                characters += 8 + _bits(item) // 3
            elif item is None or isinstance(item, float | Undefined):
                characters += 32
            else:
                raise Refused(getattr(item, "problem", f"shows or compares a {type(item).__name__.lstrip('_')}"))
        return characters + 2 * places, places, deepest


METER: ContextVar[Meter] = ContextVar("meter of the render")
MARK: ContextVar[str] = ContextVar("character that is no part of the texts", default="")


def _bits(value: int) -> int:
    bits = value.bit_length()
    if bits > _MAX_BITS:
        raise Refused(f"an integer of more than {_MAX_BITS} bits")
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
        meter.step((_PLACE + 16 * outputs) * size())
        return list(items)
    room = meter.left // _PLACE
    kept = list(islice(items, room + 1))
    meter.step((_PLACE + 16 * outputs) * len(kept))
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
            _bits(side)
    sequences = [side for side in (left, right) if isinstance(side, str | list | tuple)]
    if kind == "+" and len(sequences) == 2 and type(left) is type(right):
        _grow(left, len(left) + len(right), left, right)
    elif kind == "*" and len(sequences) == 1:
        times = right if sequences[0] is left else left
        if isinstance(times, int):
            _grow(sequences[0], len(sequences[0]) * max(times, 0), sequences[0])
    elif sequences and kind not in "+*":
        raise Refused(f"{kind!r} of a {type(sequences[0]).__name__}")
    meter.step()
    return _ARITHMETIC[kind](left, right)


def unary(kind: str, value: Any) -> Any:
    binary("+", 0, value)  # which has its limits, and numbers only
    return -value if kind == "-" else +value


def _grow(kind: Any, size: int, *parts: Any) -> None:
    if isinstance(kind, str):
        METER.get().text(size, all(part.isascii() for part in parts))
    else:
        METER.get().places(size)


# ----------------------------------------------------------------------------------------------------------------------
# methods


def _split(value: str, sep: str | None = None, maxsplit: int = -1, *, cut: Callable[..., list[str]] = str.split) -> Any:
    meter = METER.get()
    room = meter.left // _PLACE
    pieces = cut(value, sep, room if maxsplit < 0 else min(maxsplit, room))
    meter.step(_PLACE * len(pieces) + (1 if value.isascii() else 4) * len(value))
    return pieces


def _strip(value: str, characters: str | None = None, *, cut: Callable[..., str] = str.strip) -> str:
    METER.get().step(len(characters or "") * len(value) // 16)
    METER.get().text(len(value), value.isascii())
    return cut(value, characters)


def _replace(value: str, old: str, new: str, count: int = -1) -> str:
    found = value.count(old)
    if count >= 0:
        found = min(found, count)
    METER.get().text(len(value) + found * max(0, len(new) - len(old)), value.isascii() and new.isascii())
    return value.replace(old, new, count)


def _cased(value: str, *, change: Callable[[str], str]) -> str:
    METER.get().text(3 * len(value), value.isascii())
    return change(value)


def _asked(value: str, *arguments: Any, ask: Callable[..., Any]) -> Any:
    METER.get().step(len(value) // 16)
    if not all(_scalar(one) or isinstance(one, tuple) for one in arguments):
        raise Refused("an argument that is neither a text nor a number")
    return ask(value, *arguments)


def _join(value: str, parts: Any) -> str:
    items = counted(parts)
    if not all(isinstance(item, str) for item in items):
        raise TypeError("join: expected texts")
    return joined(items, value)


def _get(value: dict[Any, Any], name: Any, default: Any = None) -> Any:
    return value.get(key(name), default)


METHODS: dict[type, dict[str, Callable[..., Any]]] = {
    str: {
        "split": _split,
        "rsplit": partial(_split, cut=str.rsplit),
        "strip": _strip,
        "lstrip": partial(_strip, cut=str.lstrip),
        "rstrip": partial(_strip, cut=str.rstrip),
        "removeprefix": partial(_strip, cut=str.removeprefix),
        "removesuffix": partial(_strip, cut=str.removesuffix),
        "replace": _replace,
        "join": _join,
        **{name: partial(_cased, change=getattr(str, name)) for name in ("lower", "upper", "capitalize", "title")},
        **{
            name: partial(_asked, ask=getattr(str, name))
            for name in (
                "startswith", "endswith", "find", "rfind", "count", "isdigit", "isnumeric", "isalpha", "isalnum",
                "isspace", "isupper", "islower",
            )
        },
    },
    dict: {"get": _get, "items": dict.items, "keys": dict.keys, "values": dict.values},
    LoopContext: {"cycle": LoopContext.cycle},
}  # fmt: skip

_LOOP = frozenset(
    {"index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0", "previtem", "nextitem"}
)


MISSING = object()


@dataclass(frozen=True)
class _Unlisted:
    """A method that Python has and templates have not: it is there, but nothing can be done with it."""

    problem: str


def attribute(value: Any, name: str) -> Any:
    """`value.name` where that is a method, or something of a loop or a namespace; otherwise MISSING."""
    for kind, methods in METHODS.items():
        if isinstance(value, kind):
            if name in methods:
                return partial(methods[name], value)
            if kind is LoopContext and name in _LOOP:
                return getattr(value, name)
            if hasattr(kind, name):
                return _Unlisted(f"'.{name}' of a {kind.__name__} is nothing that a chat template may use")
    if isinstance(value, _Unlisted):
        raise Refused(value.problem)
    if isinstance(value, Namespace):
        attributes: Mapping[str, Any] = object.__getattribute__(value, "_Namespace__attrs")
        return attributes.get(name, MISSING)
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    return MISSING


def call(function: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Calls what is no macro."""
    METER.get().step()
    if isinstance(function, Undefined):
        return function(*arguments, **named)
    if isinstance(function, _Unlisted):
        raise Refused(function.problem)
    if not isinstance(function, partial) and not any(function is known for known in GLOBALS.values()):
        raise Refused(f"calls a {type(function).__name__}")
    return function(*arguments, **named)


# ----------------------------------------------------------------------------------------------------------------------
# functions


class _Namespace(Namespace):
    """Jinja's namespace without attributes that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        for name in dict(*args[1:], **kwargs):
            _Namespace._check(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: Any) -> None:
        if not isinstance(name, str) or name.startswith("_"):
            raise Refused(f"a namespace cannot hold {str(name)[:80]!r}")


def _raise_exception(message: Any = "") -> NoReturn:
    raise TemplateRaised(text(message))


def _strftime_now(form: str) -> str:
    if len(form) > _MAX_FORM:
        raise Refused(f"strftime_now: a form of more than {_MAX_FORM} characters")
    return datetime.now().strftime(form)


GLOBALS: dict[str, Any] = {
    "namespace": _Namespace,
    "range": safe_range,
    "raise_exception": _raise_exception,
    "strftime_now": _strftime_now,
}


# ----------------------------------------------------------------------------------------------------------------------
# filters


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    width = len(indent) if isinstance(indent, str) else indent or 0
    if width > _MAX_INDENT or any(len(one) > _MAX_INDENT for one in separators or ()):
        raise Refused(f"tojson: indent and separators are at most {_MAX_INDENT}")
    meter = METER.get()
    characters, places, depth = meter.nested(value)
    between = sum(map(len, separators)) if separators else 4
    meter.text((12 if ensure_ascii else 6) * characters + places * (width * depth + between), ensure_ascii)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _dictsort(
    value: Mapping[Any, Any], case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> list[tuple[Any, Any]]:
    """Jinja's, blind to the mark."""
    if by not in ("key", "value"):
        raise jinja2.exceptions.FilterArgumentError("dictsort: by is 'key' or 'value'")
    mark, position = MARK.get(), ("key", "value").index(by)

    def order(item: tuple[Any, Any]) -> Any:
        chosen = item[position]
        if not isinstance(chosen, str):
            return chosen
        plain = chosen.replace(mark, "") if mark else chosen
        return plain if case_sensitive else plain.lower()

    return sorted(_orderly(value.items()), key=order, reverse=reverse)


def _orderly(items: Any) -> list[Any]:
    """Items that are about to be compared with each other, each some twenty times."""
    kept = counted(items)
    meter = METER.get()
    characters, places, _ = meter.nested(kept)
    meter.step(characters + 20 * places)
    return kept


def _many(original: Callable[..., Any], take: Callable[[Any], list[Any]] = counted) -> Callable[..., Any]:
    """A filter of Jinja's over the items of a value; what it gives, if it is no single item, can be read once."""

    def over(first: Any, *rest: Any, **named: Any) -> Any:
        value, *rest = rest if passed else (first, *rest)  # type: ignore[assignment]
        before = (first,) if passed else ()
        return once(original(*before, take(value) if value else value, *rest, **named))  # Jinja lets None be empty

    def once(result: Any) -> Any:
        return iter(counted(result)) if isinstance(result, Iterator) else result

    passed = hasattr(original, "jinja_pass_arg")
    if passed:
        over.jinja_pass_arg = original.jinja_pass_arg  # type: ignore[attr-defined]
    return over


@jinja2.pass_environment
def _joined_filter(environment: Any, value: Any, d: Any = "", attribute: Any = None) -> str:
    items = counted(value)
    if attribute is not None:
        items = list(map(filters.make_attrgetter(environment, attribute), items))
    return joined(items, text(d))


def _indent(value: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    shown = text(value)
    wide = len(width) if isinstance(width, str) else width
    if not isinstance(wide, int) or not 0 <= wide <= _MAX_INDENT:
        raise Refused(f"indent: a width of at most {_MAX_INDENT}")
    METER.get().places(len(shown))  # of its lines, at most
    METER.get().text(len(shown) + wide * (shown.count("\n") + 2), shown.isascii())
    return filters.do_indent(shown, width, first, blank)


def _number(convert: Callable[..., Any]) -> Callable[..., Any]:
    def to_number(value: Any, *arguments: Any, **named: Any) -> Any:
        if isinstance(value, int):
            _bits(value)
        elif len(text(value)) > _MAX_BITS // 4:
            raise Refused("a number of so many digits")
        return convert(value, *arguments, **named)

    return to_number


def _reverse(value: Any) -> Any:
    return sliced(value, None, None, -1) if isinstance(value, str) else iter(counted(value)[::-1])


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, Undefined):
        return iter(())
    if not isinstance(value, Mapping):
        raise TypeError("items: expected a mapping")
    return iter(counted(value.items()))


def _of_text(method: str) -> Callable[..., Any]:
    def filtered(value: Any, *arguments: Any) -> Any:
        return METHODS[str][method](text(value), *arguments)

    return filtered


def _replace_filter(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    return _replace(text(value), text(old), text(new), -1 if count is None else count)


_GIVEN = filters.FILTERS

FILTERS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "capitalize": _of_text("capitalize"),
    "count": len,
    "d": _GIVEN["default"],
    "default": _GIVEN["default"],
    "dictsort": _dictsort,
    "first": _GIVEN["first"],
    "float": _number(filters.do_float),
    "indent": _indent,
    "int": _number(filters.do_int),
    "items": _items,
    "join": _joined_filter,
    "last": _many(_GIVEN["last"]),
    "length": len,
    "list": counted,
    "lower": _of_text("lower"),
    "map": _many(_GIVEN["map"]),
    "max": _many(_GIVEN["max"], _orderly),
    "min": _many(_GIVEN["min"], _orderly),
    "reject": _many(_GIVEN["reject"]),
    "rejectattr": _many(_GIVEN["rejectattr"]),
    "replace": _replace_filter,
    "reverse": _reverse,
    "safe": text,  # nothing is escaped here
    "select": _many(_GIVEN["select"]),
    "selectattr": _many(_GIVEN["selectattr"]),
    "sort": _many(_GIVEN["sort"], _orderly),
    "string": text,
    "tojson": _tojson,
    "trim": _of_text("strip"),
    "unique": _many(_GIVEN["unique"], _orderly),
    "upper": _of_text("upper"),
}


# ----------------------------------------------------------------------------------------------------------------------
# tests


def _comparison(kind: str) -> Callable[[Any, Any], Any]:
    return lambda left, right: compare(left, kind, right)


def _parity(rest: int) -> Callable[[Any], bool]:
    return lambda value: bool(binary("%", value, 2) == rest)


_COMPARISONS = {
    "eq": ("==", "equalto"),
    "ne": ("!=",),
    "lt": ("<", "lessthan"),
    "lteq": ("<=", "le"),
    "gt": (">", "greaterthan"),
    "gteq": (">=", "ge"),
    "in": (),
}

TESTS: dict[str, Callable[..., Any]] = {
    **{
        name: cast("Callable[..., Any]", tests.TESTS[name])
        for name in (
            "defined", "undefined", "none", "string", "mapping", "sequence", "iterable", "number", "integer", "float",
            "boolean", "true", "false",
        )
    },
    **{name: _comparison(kind) for kind, more in _COMPARISONS.items() for name in (kind, *more)},
    "odd": _parity(1),
    "even": _parity(0),
}  # fmt: skip
