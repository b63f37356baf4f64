"""The checkpoint's chat template, rendered as the untrusted program it is.

Knows: Jinja, its syntax tree. Must not know: tokens, media, models.

Templates get what transformers gives them (`{% generation %}`, loop controls, trimmed blocks, the functions and filters
of :mod:`gemma4.prompt`) as far as published templates use it; the rest is refused by name before anything is
rendered. Jinja compiles what is left, after each operation in its tree was replaced by a function of that module, and
without computing anything itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from ..errors import ModelFileError, RequestError
from . import filters, language, methods

__all__ = ["ChatTemplate"]

MAX_TEMPLATE = 100_000  # characters of source; these three are several times those of the longest published ones
MAX_NODES = 8_000  # of its tree
MAX_DEPTH = 60  # of its tree

_STATEMENTS = (
    nodes.Template, nodes.Output, nodes.For, nodes.If, nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.With,
    nodes.Assign, nodes.AssignBlock, nodes.Break, nodes.Continue,
)  # fmt: skip
_EXPRESSIONS = (
    nodes.TemplateData, nodes.Name, nodes.NSRef, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair,
    nodes.Keyword, nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Call, nodes.Getitem, nodes.Getattr, nodes.Slice,
    nodes.Concat, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Add,
    nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod,
)  # fmt: skip
_METHODS = frozenset(name for known in methods.METHODS.values() for name in known)


def _check(tree: nodes.Template) -> None:
    """Refuses, by name, what no chat template uses."""
    pending: list[tuple[nodes.Node, int]] = [(tree, 1)]
    count = 0
    while pending:
        node, depth = pending.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise jinja2.TemplateSyntaxError(f"more than {MAX_NODES} expressions, or nested {MAX_DEPTH} deep", 1)
        if type(node) not in _STATEMENTS + _EXPRESSIONS:
            _refuse(node, f"{type(node).__name__.lower()!r}")
        if isinstance(node, nodes.For) and node.recursive:
            _refuse(node, "a recursive loop")
        if isinstance(node, nodes.Call | nodes.Filter | nodes.Test) and (node.dyn_args or node.dyn_kwargs):
            _refuse(node, "an argument with '*'")
        if isinstance(node, nodes.Filter) and node.name not in filters.FILTERS:
            _refuse(node, f"the filter {node.name!r}")
        if isinstance(node, nodes.Test) and node.name not in filters.TESTS:
            _refuse(node, f"the test {node.name!r}")
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr not in _METHODS:
            _refuse(node, f"the method {node.node.attr!r}")
        pending += ((child, depth + 1) for child in node.iter_child_nodes())


def _refuse(node: nodes.Node, what: str) -> None:
    raise jinja2.TemplateSyntaxError(
        f"line {node.lineno or 1}: {what[:200]} is nothing that a chat template may use", 1
    )


class _Guards(NodeTransformer):
    """Puts our functions, as filters, where Jinja would let Python compute; the others the environment is asked for."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        outputs = sum(1 for part in node.body for _ in part.find_all(nodes.Output)) + len(node.body)
        self.generic_visit(node)
        node.iter = _filtered(cast(nodes.Expr, node.iter), "counted", nodes.Const(outputs))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "joined")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        values = nodes.List([node.expr, *(operand.expr for operand in node.ops)], lineno=node.lineno)
        return _filtered(values, "compared", *(nodes.Const(operand.op) for operand in node.ops))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        if not isinstance(node.arg, nodes.Slice):
            return self._generic(node)
        ends = [node.arg.start, node.arg.stop, node.arg.step]
        value = self.visit(node.node)
        return _filtered(value, "sliced", *(nodes.Const(None) if end is None else self.visit(end) for end in ends))

    def visit_Slice(self, node: nodes.Slice) -> nodes.Node:
        _refuse(node, "a slice of several dimensions")
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _filtered(node.key, "key")
        return node

    def visit_List(self, node: nodes.List | nodes.Dict | nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") == "store" else _filtered(node, "built")

    visit_Dict = visit_Tuple = visit_List

    def _generic(self, node: nodes.Node) -> nodes.Node:
        self.generic_visit(node)
        return node


def _filtered(node: nodes.Expr, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, f" {name}", list(arguments), [], None, None, lineno=node.lineno)


# A name with a space is none that a template can spell.
_GUARDS: dict[str, Callable[..., Any]] = {
    " counted": language.counted,
    " joined": language.joined,
    " compared": language.compared,
    " sliced": language.sliced,
    " key": language.key,
    " built": language.built,
}


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` marks the assistant's part for training; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@jinja2.pass_context  # a context is there only at a render, so nothing is shown while the template is compiled
def _shown(_: Any, value: Any) -> str:
    return language.text(value)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])
    intercepted_unops = frozenset(["+", "-"])
    concat = staticmethod(language.concat)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_shown,
            extensions=[_Generation, LoopControlExtension],
        )
        self.filters = {**filters.FILTERS, **_GUARDS}
        self.tests = dict(filters.TESTS)
        self.globals = dict(methods.GLOBALS)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _check(tree)
        guarded: nodes.Template = _Guards().visit(tree)
        return guarded

    def getattr(self, obj: Any, attribute: str) -> Any:
        language.METER.get().step()
        found = methods.attribute(obj, attribute)
        if found is methods.MISSING:
            known = isinstance(obj, dict) and attribute in obj
            return obj[attribute] if known else self.undefined(obj=obj, name=attribute)
        return found

    def getitem(self, obj: Any, argument: Any) -> Any:
        language.METER.get().step()
        if isinstance(obj, Undefined):
            return obj[argument]
        if isinstance(obj, dict) and language.key(argument) in obj:
            return obj[argument]
        if isinstance(obj, str | list | tuple | range) and isinstance(argument, int):
            return (
                obj[argument] if -len(obj) <= argument < len(obj) else self.undefined(obj=obj, name=cast(Any, argument))
            )
        found = methods.attribute(obj, argument) if isinstance(argument, str) else methods.MISSING
        return self.undefined(obj=obj, name=argument) if found is methods.MISSING else found

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(obj, Macro):
            language.METER.get().step()
            return context.call(obj, *args, **kwargs)
        for added in ("_loop_vars", "_block_vars"):  # by Jinja, for functions that want the context
            kwargs.pop(added, None)
        return methods.call(obj, args, kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        return language.binary(operator, left, right)

    def call_unop(self, context: Any, operator: str, arg: Any) -> Any:
        return language.unary(operator, arg)


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
            ModelFileError: not a template, too large, or it uses what no chat template may use.
        """
        self.source = source
        self.where = where
        if len(source) > MAX_TEMPLATE:
            raise ModelFileError(f"{where}: chat template of {len(source)} characters, at most {MAX_TEMPLATE} are read")
        try:
            self._template = _Environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ModelFileError(f"{where}: chat template: {str(error)[:300]}") from None
        except Exception as error:  # Jinja's parser and Python's compiler have many
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
        meter = language.Meter()
        outer, outer_mark = language.METER.set(meter), language.MARK.set(mark)
        pieces: list[str] = []
        try:
            for piece in self._template.generate(**variables):
                meter.step()
                pieces.append(piece)
            return language.joined(pieces)
        except language.TemplateRaised as error:
            raise RequestError(f"the chat template refuses these messages: {str(error)[:300]}") from None
        except jinja2.TemplateError as error:
            raise ModelFileError(f"{self.where}: chat template: {str(error)[:300]}") from None
        except Exception as error:  # whatever Python raises for an operation
            problem = f"{type(error).__name__}: {str(error)[:200]}".replace(" at 0x", " at ")
            raise ModelFileError(f"{self.where}: chat template: {problem}") from None
        finally:
            language.METER.reset(outer)
            language.MARK.reset(outer_mark)
