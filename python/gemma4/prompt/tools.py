"""Functions that a model may call: their JSON schemas, and running them.

Knows: signatures, type hints, Google-style docstrings. Must not know: conversations, templates, models.

Schemas are those of `transformers.utils.get_json_schema`; where that refuses a function without a docstring, or an
argument that the docstring leaves out, here they are declared without a description.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union

from ..errors import RequestError, ToolCallError
from .toolcalls import ToolCall, plain_data

__all__ = ["Toolbox", "declare", "function_schema"]

_TYPES: dict[Any, dict[str, Any]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    dict: {"type": "object"},
    Any: {},
}
_SECTION = re.compile(r"^\s*(Args|Arguments|Returns|Yields|Raises|Examples?|Notes?):\s*$", re.MULTILINE)
_ARGUMENT = re.compile(r"^(\s*)\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE | re.DOTALL)
_NAME = re.compile(r"[\w.-]{1,64}")  # what a call can spell
_MAX_TOOLS = 1000


def declare(tools: Any) -> list[dict[str, Any]]:
    """The JSON schemas of tools as chat templates read them.

    Args:
        tools: a list of Python functions (see :func:`function_schema`) and of schemas, each
            `{"type": "function", "function": {"name", "description", "parameters"}}` or the inner object alone; or one
            of them.

    Raises:
        RequestError: names what is wrong.

    >>> declare([{"name": "now", "description": "The time."}])
    [{'type': 'function', 'function': {'name': 'now', 'description': 'The time.'}}]
    """
    return Toolbox(tools).schemas


class Toolbox:
    """Tools by name, and the functions among them.

    >>> def add(a: int, b: int = 1) -> int:
    ...     "Adds numbers."
    ...     return a + b
    >>> Toolbox([add]).run(ToolCall("add", {"a": 2}))
    3
    """

    def __init__(self, tools: Any) -> None:
        """Read tools; see :func:`declare`."""
        if callable(tools) or isinstance(tools, Mapping):
            tools = [tools]
        if not isinstance(tools, list | tuple):
            raise RequestError(f"tools: expected a list of functions or JSON schemas, found {type(tools).__name__}")
        if len(tools) > _MAX_TOOLS:
            raise RequestError(f"tools: at most {_MAX_TOOLS}, found {len(tools)}")
        self.schemas: list[dict[str, Any]] = []
        self._functions: dict[str, Callable[..., Any]] = {}
        names: set[str] = set()
        for index, tool in enumerate(tools):
            where = f"tools[{index}]"
            schema = function_schema(tool, where) if callable(tool) else _checked(tool, where)
            name = schema["function"]["name"]
            if name in names:
                raise RequestError(f"{where}: there are two tools with the name {name!r}")
            names.add(name)
            self.schemas.append(schema)
            if callable(tool):
                self._functions[name] = tool

    def can_run(self, call: ToolCall) -> bool:
        """Whether the tool is a function, not only a schema."""
        return call.name in self._functions

    def check(self, call: ToolCall) -> None:
        """Raises ToolCallError where the call is of no tool here, or its arguments do not fit the function."""
        names = [schema["function"]["name"] for schema in self.schemas]
        if call.name not in names:
            raise ToolCallError(f"the model calls {call.name[:64]!r}, the tools are: {', '.join(names) or 'none'}")
        if call.name in self._functions:
            try:
                inspect.signature(self._functions[call.name]).bind(**call.arguments)
            except TypeError as error:
                raise ToolCallError(f"the model's call of {call.name} does not fit the function: {error}") from None

    def run(self, call: ToolCall) -> Any:
        """What the function returns; its exceptions pass through. The call has been checked."""
        return self._functions[call.name](**call.arguments)


# ----------------------------------------------------------------------------------------------------------------------
# Functions


def function_schema(function: Callable[..., Any], where: str = "tools") -> dict[str, Any]:
    """The JSON schema of a function, from its name, its type hints and its docstring.

    Args:
        function: every argument has a type hint: `int`, `float`, `str`, `bool`, `None`, `Any`, `list`, `tuple`, `dict`,
            `Literal`, and unions and containers of them. An argument's description in the docstring's `Args:` may end
            with `(choices: ["a", "b"])`.
        where: for messages.

    Raises:
        RequestError: a hint that is missing or has no JSON form, or arguments that a call cannot name.

    >>> def weather(city: str, unit: Literal["C", "F"] = "C") -> str:
    ...     '''The weather now.
    ...
    ...     Args:
    ...         city: Where.
    ...         unit: Of the temperature.
    ...     '''
    >>> function_schema(weather)["function"]["parameters"]["required"]
    ['city']
    """
    name = getattr(function, "__name__", "")
    where = f"{where} ({name or type(function).__name__})"
    if not _NAME.fullmatch(name):
        raise RequestError(f"{where}: a tool needs a name of letters, digits, _, . and -; give a def, or a JSON schema")
    try:
        hints = typing.get_type_hints(function)
        signature = inspect.signature(function)
    except (NameError, TypeError, ValueError, AttributeError, SyntaxError) as error:
        raise RequestError(f"{where}: its signature cannot be read: {error}") from None
    description, described, returns = _docstring(inspect.getdoc(function) or "")
    properties: dict[str, Any] = {}
    required = []
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise RequestError(f"{where}: {parameter}: a call cannot name it; take named arguments only")
        if parameter.name not in hints:
            raise RequestError(f"{where}: {parameter.name}: it has no type hint")
        properties[parameter.name] = _hinted(hints[parameter.name], f"{where}: {parameter.name}")
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        if parameter.name in described:
            _describe(properties[parameter.name], described[parameter.name], f"{where}: {parameter.name}")
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    result: dict[str, Any] = {"name": name, "description": description, "parameters": parameters}
    answer = _returned(hints)
    if answer is not None:
        result["return"] = {**answer, "description": returns} if returns is not None else answer
    return {"type": "function", "function": plain_data(result, where)}


def _returned(hints: dict[str, Any]) -> dict[str, Any] | None:
    """The model never writes what a function returns: a hint without a JSON form is left out."""
    try:
        return _hinted(hints["return"], "return") if "return" in hints else None
    except RequestError:
        return None


def _hinted(hint: Any, where: str) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        try:
            return dict(_TYPES[hint])
        except (KeyError, TypeError):
            raise RequestError(
                f"{where}: {hint!r} has no JSON schema here; take basic types, list, dict, Literal and unions of them, "
                "or give the tool as a JSON schema"
            ) from None
    if origin is typing.Annotated:
        return _hinted(arguments[0], where)
    if origin in (Union, types.UnionType):
        return _union(arguments, where)
    if origin is Literal:
        return _literal(list(arguments), where)
    if origin is list:
        return {"type": "array", "items": _hinted(arguments[0], where)}
    if origin is tuple and arguments and ... not in arguments and len(arguments) > 1:
        return {"type": "array", "prefixItems": [_hinted(item, where) for item in arguments]}
    if origin is dict and len(arguments) == 2:
        return {"type": "object", "additionalProperties": _hinted(arguments[1], where)}
    raise RequestError(f"{where}: {hint!r} has no JSON schema here; take list[…] for any number of items")


def _union(arguments: tuple[Any, ...], where: str) -> dict[str, Any]:
    choices = [_hinted(item, where) for item in arguments if item is not type(None)]
    if len(choices) == 1:
        result = choices[0]
    elif all(choice.keys() == {"type"} and isinstance(choice["type"], str) for choice in choices):
        names = sorted({choice["type"] for choice in choices})
        result = {"type": names[0] if len(names) == 1 else names}
    else:
        result = {"anyOf": choices}
    return {**result, "nullable": True} if type(None) in arguments else result


def _literal(values: list[Any], where: str) -> dict[str, Any]:
    if any(type(value) not in (int, float, str, bool, type(None)) for value in values):
        raise RequestError(f"{where}: only numbers, strings, booleans and None in a Literal have a JSON schema")
    kinds = list(dict.fromkeys(_TYPES[type(value)]["type"] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _docstring(text: str) -> tuple[str, dict[str, str], str | None]:
    """What a Google-style docstring says of the function, of each argument, and of the result."""
    marks = list(_SECTION.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]  # one too many where there are no sections
    bodies = {mark.group(1): text[mark.end() : end] for mark, end in zip(marks, ends, strict=False)}
    description = text[: marks[0].start()] if marks else text
    returns = bodies.get("Returns")
    return (
        description.strip(),
        _arguments(bodies.get("Args", bodies.get("Arguments", ""))),
        None if returns is None else returns.strip(),
    )


def _arguments(body: str) -> dict[str, str]:
    """Lines `name: description`, each going on in the lines that are indented deeper."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    indent = None
    for line in body.splitlines():
        match = _ARGUMENT.match(line)
        if match and (indent is None or len(match.group(1)) <= indent):
            indent = len(match.group(1))
            current = found.setdefault(match.group(2), [])
            line = match.group(3)
        if line.strip():
            current.append(line.strip())
    return {name: " ".join(lines).strip() for name, lines in found.items()}


def _describe(schema: dict[str, Any], description: str, where: str) -> None:
    choices = _CHOICES.search(description)
    if choices:
        try:
            values = json.loads(choices.group(1))
        except ValueError:
            values = None
        if not isinstance(values, list):
            raise RequestError(f"{where}: (choices: …) in the docstring is no JSON list")
        schema["enum"] = [value.strip() if isinstance(value, str) else value for value in values]
        description = description[: choices.start()].strip()
    schema["description"] = description


# ----------------------------------------------------------------------------------------------------------------------
# Schemas


def _checked(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        raise RequestError(f"{where}: expected a function or a JSON schema, found {type(tool).__name__}")
    plain: dict[str, Any] = plain_data(tool, where)
    if "function" not in plain:
        plain = {"type": "function", "function": plain}
    function = plain["function"]
    if plain.get("type", "function") != "function" or not isinstance(function, dict):
        raise RequestError(f'{where}: expected {{"type": "function", "function": {{…}}}}')
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestError(f"{where}: name: expected letters, digits, _, . and -, at most 64, found {str(name)[:40]!r}")
    if not isinstance(function.get("description", ""), str):
        raise RequestError(f"{where}: description: expected a string")
    if function.get("parameters") is not None:
        _check_schema(function["parameters"], f"{where}: parameters")
        if function["parameters"].get("type", "object") != "object":
            raise RequestError(f"{where}: parameters: type: expected 'object'")
    return plain


def _check_schema(schema: Any, where: str) -> None:
    """That it has the shape which templates walk through."""
    if not isinstance(schema, dict):
        raise RequestError(f"{where}: expected a JSON schema, found {type(schema).__name__}")
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        raise RequestError(f"{where}: properties: expected an object, found {type(properties).__name__}")
    for name, inner in properties.items():
        _check_schema(inner, f"{where}: {name[:40]}")
    if isinstance(schema.get("items"), dict):
        _check_schema(schema["items"], f"{where}: items")
    kinds = schema.get("type", "object")
    known = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(known, list) or not all(isinstance(kind, str) for kind in known):
        raise RequestError(f"{where}: type: expected a name or a list of names, found {str(kinds)[:40]!r}")
