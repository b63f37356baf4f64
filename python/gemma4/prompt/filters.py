"""The filters and tests of a chat template's language.

The list is that of published chat templates. Knows: Jinja's own filters and tests. Must not know: methods, Jinja's
syntax tree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import jinja2
from jinja2 import filters, tests
from jinja2.runtime import Undefined

from .language import MARK, MAX_BITS, METER, Refused, binary, bits, compare, counted, joined, sliced, text
from .methods import METHODS, replaced

__all__ = ["FILTERS", "TESTS"]

_MAX_INDENT = 64


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
            bits(value)
        elif len(text(value)) > MAX_BITS // 4:
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
    return replaced(text(value), text(old), text(new), -1 if count is None else count)


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
