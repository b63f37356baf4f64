"""The checkpoint's chat template, rendered as the untrusted program it is.

Knows: Jinja, limits on what one render may cost. Must not know: tokens, media, models.

The environment offers what transformers offers to templates (`raise_exception`, `strftime_now`, `tojson` without HTML
escapes, `{% generation %}`, loop controls, trimmed blocks). Beyond Jinja's immutable sandbox, every loop turn and call
counts against a budget, and no operation may build a text larger than the output may be.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from .errors import ModelFileError, RequestError

__all__ = ["ChatTemplate"]

MAX_TEMPLATE = 1_000_000  # characters of source
MAX_OUTPUT = 16_000_000  # characters of any text a render builds
MAX_STEPS = 2_000_000  # loop turns and calls of a render
MAX_SECONDS = 2.0

_GROWING_METHODS = {"center", "expandtabs", "join", "ljust", "replace", "rjust", "translate", "zfill"}
_GROWING_FILTERS = ("center", "indent", "join", "replace")
_REMOVED_FILTERS = (
    "batch",
    "format",
    "pprint",
    "slice",
    "urlize",
    "wordwrap",
    "xmlattr",
)  # no chat template needs them
_WIDE = re.compile(r"\d{4,}|\{[^{}]*\{")  # a width of thousands, or one that is an argument
_MAX_BITS = 4096  # of an integer in an operation


class _Refused(jinja2.exceptions.TemplateRuntimeError):
    """The template wants more than a render may cost."""


class _Meter:
    """Counts what one render costs."""

    def __init__(self) -> None:
        self.steps = 0
        self.deadline = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise _Refused(f"more than {MAX_STEPS} loop turns and calls")
        if self.steps % 16 == 0 and time.monotonic() > self.deadline:
            raise _Refused(f"took longer than {MAX_SECONDS:g} s")


_METER: ContextVar[_Meter] = ContextVar("meter of the render")
_MARK: ContextVar[str] = ContextVar("character that is no part of the texts", default="")


def _limit(characters: float) -> None:
    if characters > MAX_OUTPUT:
        raise _Refused(f"wants to build a text of more than {MAX_OUTPUT} characters")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 1


def _check_growth(values: Iterable[Any]) -> None:
    """Bounds the product of the sizes, which no text method exceeds; a number counts as a width."""
    product = 1.0
    for value in values:
        if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
            product *= max(1, sum(map(len, value)))
        elif isinstance(value, str | list | tuple):
            product *= max(1, len(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            product *= max(1, abs(value))
    _limit(product)


class _Guards(NodeTransformer):
    """Wraps every loop's iterable and every `~` in a filter of ours."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(cast(nodes.Expr, node.iter), "_counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_joined")


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` marks the assistant's part for training; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension])
        self.filters["tojson"] = _tojson
        self.filters["dictsort"] = _dictsort
        self.filters["_counted"] = _counted
        self.filters["_joined"] = _joined
        for name in _GROWING_FILTERS:
            self.filters[name] = _bounded_filter(self.filters[name])
        for name in _REMOVED_FILTERS:
            del self.filters[name]
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self.globals["namespace"] = _Namespace
        self.globals.pop("lipsum", None)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for kind in (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends):
            if next(tree.find_all(kind), None) is not None:
                raise jinja2.TemplateSyntaxError("a chat template cannot load other templates", 1)
        guarded: nodes.Template = _Guards().visit(tree)
        return guarded

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        _METER.get().step()
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str) and getattr(obj, "__name__", "") in _GROWING_METHODS:
            _check_growth([owner, *args, *kwargs.values()])
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and _WIDE.search(getattr(value, "__self__", "")):
            raise _Refused("a format with such a width is not allowed")
        return wrapped

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _METER.get().step()
        if operator == "**":
            raise _Refused("powers are not allowed")
        if any(isinstance(side, int) and side.bit_length() > _MAX_BITS for side in (left, right)):
            raise _Refused(f"an integer of more than {_MAX_BITS} bits")
        if operator == "+":
            _limit(_size(left) + _size(right))
        elif isinstance(left, str | list | tuple) or isinstance(right, str | list | tuple):
            if operator == "%":
                raise _Refused("'%' on texts is not allowed")
            _check_growth([left, right])
        return super().call_binop(context, operator, left, right)


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    meter = _METER.get()
    for item in items:
        meter.step()
        yield item


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without attributes that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        for name in dict(*args[1:], **kwargs):
            _Namespace._check(name)
        jinja2.utils.Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


class _TemplateRaised(jinja2.exceptions.TemplateError):
    """The template itself refused the conversation."""


def _raise_exception(message: Any = "") -> NoReturn:
    raise _TemplateRaised(str(message))


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    if (len(indent) if isinstance(indent, str) else indent or 0) > 64:
        raise _Refused("tojson: indent is at most 64")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _dictsort(
    value: Mapping[Any, Any], case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> list[tuple[Any, Any]]:
    """Jinja's, blind to the mark."""
    if by not in ("key", "value"):
        raise jinja2.exceptions.FilterArgumentError("dictsort: by is 'key' or 'value'")
    mark, position = _MARK.get(), ("key", "value").index(by)

    def order(item: tuple[Any, Any]) -> Any:
        chosen = item[position]
        if not isinstance(chosen, str):
            return chosen
        plain = chosen.replace(mark, "") if mark else chosen
        return plain if case_sensitive else plain.lower()

    return sorted(value.items(), key=order, reverse=reverse)


def _joined(parts: list[Any]) -> str:
    texts = [str(part) for part in parts]
    _limit(sum(map(len, texts)))
    return "".join(texts)


def _bounded_filter(original: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _check_growth([*args, *kwargs.values()])
        return original(*args, **kwargs)

    for mark in ("jinja_pass_arg",):  # whether Jinja passes its context first
        if hasattr(original, mark):
            setattr(bounded, mark, getattr(original, mark))
    return bounded


class ChatTemplate:
    """A compiled chat template.

    >>> ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}", "t").render(
    ...     {"messages": [{"role": "user", "content": "hi"}]})
    'user: hi'
    """

    def __init__(self, source: str, where: str) -> None:
        """Compile a template.

        Args:
            source: the template's text.
            where: the file it comes from, for messages.

        Raises:
            ModelFileError: not a template, or too large.
        """
        self.source = source
        self.where = where
        if len(source) > MAX_TEMPLATE:
            raise ModelFileError(f"{where}: chat template of {len(source)} characters, at most {MAX_TEMPLATE} are read")
        try:
            self._template = _Environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ModelFileError(f"{where}: chat template: {str(error)[:300]}") from None
        except (RecursionError, SyntaxError, ValueError, OverflowError, MemoryError, LookupError) as error:
            raise ModelFileError(f"{where}: chat template cannot be compiled: {type(error).__name__}") from None

    def render(self, variables: Mapping[str, Any], mark: str = "") -> str:
        """The text for a conversation.

        Args:
            variables: plain data (dicts, lists, texts, numbers) only; the template can reach everything in it.
            mark: a character in their texts that sorting must not see.

        Raises:
            RequestError: the template refuses the conversation (`raise_exception`).
            ModelFileError: it fails otherwise, or costs too much.
        """
        meter = _Meter()
        outer, outer_mark = _METER.set(meter), _MARK.set(mark)
        pieces: list[str] = []
        total = 0
        try:
            for piece in self._template.generate(**variables):
                meter.step()
                total += len(piece)
                _limit(total)
                pieces.append(piece)
        except _TemplateRaised as error:
            raise RequestError(f"the chat template refuses these messages: {str(error)[:300]}") from None
        except jinja2.TemplateError as error:
            raise ModelFileError(f"{self.where}: chat template: {str(error)[:300]}") from None
        except (
            ArithmeticError,
            LookupError,
            MemoryError,
            RecursionError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            problem = f"{type(error).__name__}: {str(error)[:200]}".replace(" at 0x", " at ")
            raise ModelFileError(f"{self.where}: chat template: {problem}") from None
        finally:
            _METER.reset(outer)
            _MARK.reset(outer_mark)
        return "".join(pieces)
