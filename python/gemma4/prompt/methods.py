"""The methods and functions of a chat template's language.

The list is that of published chat templates. Knows: methods of plain values, of loops and namespaces. Must not know:
filters, Jinja's syntax tree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NoReturn

from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import safe_range
from jinja2.utils import Namespace

from .language import METER, PLACE, Refused, TemplateRaised, _scalar, counted, joined, key, text

__all__ = ["GLOBALS", "METHODS", "MISSING", "attribute", "call", "replaced"]

_MAX_FORM = 200  # characters of a date's


def _split(value: str, sep: str | None = None, maxsplit: int = -1, *, cut: Callable[..., list[str]] = str.split) -> Any:
    meter = METER.get()
    room = meter.left // PLACE
    pieces = cut(value, sep, room if maxsplit < 0 else min(maxsplit, room))
    meter.step(PLACE * len(pieces) + (1 if value.isascii() else 4) * len(value))
    return pieces


def _strip(value: str, characters: str | None = None, *, cut: Callable[..., str] = str.strip) -> str:
    METER.get().step(len(characters or "") * len(value) // 16)
    METER.get().text(len(value), value.isascii())
    return cut(value, characters)


def replaced(value: str, old: str, new: str, count: int = -1) -> str:
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
        "replace": replaced,
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
