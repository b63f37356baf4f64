"""What a `response_format` allows: from its many forms to the token ids that may come next.

Knows: the forms, llguidance, the bytes of every token. Must not know: logits, thoughts, prompts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..tokens import Tokenizer, check_text

__all__ = ["Grammars", "Matcher", "read_format", "reader_of"]

_MAX_GRAMMAR = 1_000_000  # characters
_NOTHING = "nothing that this vocabulary can write fits it"
# Ids of these characters are allowed all at once where a string may hold any of them. Without the C1 controls, which a
# detection's label may not have either, so that its first mask takes microseconds instead of milliseconds.
_SLICES = [r"[\x20\x0A\x0D\x09]+", *(rf'[^"\\\x00-\x1F\x7F-\x9F]{times}' for times in ("{1,10}", "{1,30}", "+"))]
_COMPILED = 16  # grammars kept ready
# Between the values of JSON: spaces, or a new line with its indentation. With more a weak model writes it for ever.
_WHITESPACE = r" {1,2}|\r?\n[ \t]{0,40}"
_SCHEMA_KEYS = frozenset({
    "$defs", "$id", "$ref", "$schema", "additionalProperties", "allOf", "anyOf", "const", "definitions", "enum",
    "items", "oneOf", "pattern", "patternProperties", "prefixItems", "properties", "required",
})  # fmt: skip
_SCHEMA_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})


# ----------------------------------------------------------------------------------------------------------------------
# Forms of a response format


def read_format(response_format: Any) -> str | None:
    """A response format as a grammar of llguidance; None where any text will do.

    Takes OpenAI's `{"type": "text"}`, `{"type": "json_object"}` and `{"type": "json_schema", "json_schema": {"schema":
    …}}`; `{"type": "regex", "regex": …}`, `{"type": "grammar", "grammar": …}` (Lark, or GBNF as llama.cpp writes it)
    and `{"type": "lark", "lark": …}`; a JSON schema; a pydantic model.

    Raises:
        RequestError: another form, or a field that does not belong to it.
    """
    if response_format is None:
        return None
    if isinstance(response_format, type) and hasattr(response_format, "model_json_schema"):
        return _schema_grammar(response_format.model_json_schema())
    if not isinstance(response_format, Mapping):
        found = getattr(response_format, "__name__", type(response_format).__name__)
        raise RequestError(f"response_format: expected a dict or a pydantic model, found {found}")
    kind = response_format.get("type")
    form = _FORMS.get(kind) if isinstance(kind, str) else None
    if form is not None:
        return form({name: value for name, value in response_format.items() if name != "type"})
    types = {kind} if isinstance(kind, str) else set(map(str, kind)) if isinstance(kind, list | tuple) else set()
    if (types and types <= _SCHEMA_TYPES) or (kind is None and not _SCHEMA_KEYS.isdisjoint(response_format)):
        return _schema_grammar(response_format)
    raise RequestError(
        f"response_format: type: expected one of {', '.join(_FORMS)}, or a JSON schema; found {str(kind)[:40]!r}"
    )


def reader_of(response_format: Any) -> Callable[[str], Any] | None:
    """From an answer's text to its value: the instance of a pydantic model, what JSON says; None for other forms.

    The format is one that :func:`read_format` takes.
    """
    if isinstance(response_format, type):
        read: Callable[[str], Any] = response_format.model_validate_json  # type: ignore[attr-defined]
        return read
    return None if response_format.get("type") in ("text", "regex", "grammar", "lark") else json.loads


def _any_text(fields: dict[str, Any]) -> None:
    _take(fields, (), "text")


def _json_object(fields: dict[str, Any]) -> str:
    schema = _take(fields, ("schema",), "json_object")
    return _schema_grammar({"type": "object"} if schema is None else schema)


def _json_schema(fields: dict[str, Any]) -> str:
    wrapper = fields.get("json_schema")
    if isinstance(wrapper, Mapping):
        if len(fields) > 1:
            raise RequestError("response_format: json_schema: give the schema once")
        fields = {name: value for name, value in wrapper.items() if name not in ("name", "description", "strict")}
    schema = _take(fields, ("schema",), "json_schema")
    if schema is None:
        raise RequestError('response_format: json_schema: expected {"json_schema": {"schema": …}}')
    return _schema_grammar(schema)


def _regex(fields: dict[str, Any]) -> str:
    return llguidance.LLMatcher.grammar_from_regex(_source(fields, "regex", "pattern"))


def _lark(fields: dict[str, Any]) -> str:
    return llguidance.LLMatcher.grammar_from_lark(_source(fields, "lark", "grammar"))


def _grammar(fields: dict[str, Any]) -> str:
    try:
        return llguidance.grammar_from("grammar", _source(fields, "grammar", "lark"))
    except ValueError as error:
        raise _inapplicable(str(error)) from None


_FORMS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "text": _any_text,
    "json_object": _json_object,
    "json_schema": _json_schema,
    "regex": _regex,
    "grammar": _grammar,
    "lark": _lark,
}


def _take(fields: dict[str, Any], names: tuple[str, ...], kind: str) -> Any:
    """The one field of `names` that is given, or None. Any other field is an error."""
    unknown = [str(name) for name in fields if name not in names]
    if unknown:
        raise RequestError(f"response_format: {kind}: unexpected field {unknown[0][:40]!r}")
    if len(fields) > 1:
        raise RequestError(f"response_format: {kind}: give one of {', '.join(names)}")
    return next(iter(fields.values()), None)


def _source(fields: dict[str, Any], *names: str) -> str:
    text = check_text(_take(fields, names, names[0]), f"response_format: {names[0]}")
    if not text or len(text) > _MAX_GRAMMAR:
        raise RequestError(f"response_format: {names[0]}: expected 1 to {_MAX_GRAMMAR} characters, found {len(text)}")
    return text


def _schema_grammar(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        raise RequestError(f"response_format: schema: expected a dict, found {type(schema).__name__}")
    try:
        text = json.dumps(schema, default=_plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"response_format: schema: not JSON: {str(error)[:200]}") from None
    if len(text) > _MAX_GRAMMAR:
        raise RequestError(f"response_format: schema: at most {_MAX_GRAMMAR} characters, found {len(text)}")
    json.loads(text, parse_int=_exact)
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": _WHITESPACE})
    except ValueError as error:
        raise _inapplicable(str(error)) from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} in a schema")


def _exact(digits: str) -> int:
    """An integer of a schema. Raises RequestError where llguidance, which computes in doubles, would change it."""
    number = int(digits) if len(digits) < 20 else 1 << 64
    if abs(number) > 1 << 53:
        raise _inapplicable(f"the number {digits[:40]} in the schema is beyond 2**53")
    return number


def _inapplicable(why: str) -> RequestError:
    why = why.partition("<state>")[0]  # a dump of the parser
    why = _NOTHING if why.startswith("NoExtension") else " ".join(why.split())[:400]
    return RequestError(f"response_format: it cannot be applied: {why}")


# ----------------------------------------------------------------------------------------------------------------------
# Grammars of one tokenizer


class _Tokens:
    """A tokenizer in the form that llguidance takes: the bytes of every id."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_id: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = eos_id
        self.tokens = tokenizer.token_bytes()
        self.tokens += [b""] * (vocab_size - len(self.tokens))
        controls = set(tokenizer.controls.values())
        self.special_token_ids = [
            index for index in range(tokenizer.vocab_size) if index in controls or tokenizer.is_special(index)
        ]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


class Grammars:
    """Response formats made ready for one tokenizer. Safe to use from many threads."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: tuple[int, ...]) -> None:
        """Takes a second for a vocabulary of 262,144.

        Args:
            tokenizer: the checkpoint's.
            vocab_size: of the logits, at least that of the tokenizer.
            eos_ids: ids that may end an answer.

        Raises:
            RequestError: there are none, so that an answer in a given form could not end.
        """
        if not eos_ids:
            raise RequestError("response_format: the checkpoint names no end-of-sequence token")
        tokens = _Tokens(tokenizer, vocab_size, eos_ids[0])
        self._tokenizer = llguidance.LLTokenizer(tokens, eos_token=list(eos_ids), slices=_SLICES)  # type: ignore[arg-type]
        self._words = (vocab_size + 31) // 32
        self._compiled = lru_cache(maxsize=_COMPILED)(self._compile)

    def matcher(self, grammar: str) -> Matcher:
        """A new answer's way through a grammar from :func:`read_format`.

        Raises:
            RequestError: the grammar cannot be applied; says what in it.
        """
        return Matcher(self._compiled(grammar).deep_copy(), self._words)

    def _compile(self, grammar: str) -> llguidance.LLMatcher:
        _, messages = llguidance.LLMatcher.validate_grammar_with_warnings(grammar, self._tokenizer)
        if messages:  # a warning is a part of the grammar that would be left out
            raise _inapplicable(messages[0])
        compiled = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        Matcher(compiled, self._words).mask()  # finds, before any work, a grammar that is too large or allows nothing
        compiled.reset()
        return compiled


class Matcher:
    """Where one answer stands in its grammar. Not for two threads at once."""

    def __init__(self, matcher: llguidance.LLMatcher, words: int) -> None:
        self._matcher = matcher
        self._mask = np.zeros(words, dtype=np.uint32)
        self._address = self._mask.ctypes.data  # asked for once: it takes as long as a mask

    def mask(self) -> NDArray[np.uint32]:
        """(ceil(vocab / 32),) a bit for each id that may come next, the ends of sequence where the answer may end.
        The next call overwrites it.

        Raises:
            RequestError: the grammar is too large to follow, or nothing may come next.
        """
        self._matcher.unsafe_compute_mask_ptr(self._address, self._mask.nbytes)
        if self._matcher.is_error() or not self._mask.any():
            raise _inapplicable(self._matcher.get_error() or _NOTHING)
        return self._mask

    def forced(self) -> list[int]:
        """Ids that spell what must come next, if anything must."""
        return list(self._matcher.compute_ff_tokens())

    def take(self, index: int) -> None:
        """Go on with an id that the mask allowed."""
        if not self._matcher.consume_token(index):
            raise _inapplicable(self._matcher.get_error())
