"""Checks of what callers give: each returns the value or raises `RequestError`, naming the argument.

Knows: Python's and NumPy's types. Must not know: what an argument is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import RequestError

__all__ = ["MOST", "flag", "flag_or_count", "integer", "number", "one_of", "strings", "token_ids", "token_sequences"]

MOST = (1 << 31) - 1
"""Of a count, and of a token id."""
_MAX_STRINGS = 1000
_MAX_STRING = 10_000  # characters
_MAX_IDS = 1 << 20  # in one argument


def integer(name: str, value: Any, low: int, high: int) -> int:
    """An integer from `low` to `high`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise RequestError(f"{name}: expected an integer, found {type(value).__name__}")
    if not low <= value <= high:
        raise RequestError(f"{name}: expected {low} to {high}, found {value!s:.40}")
    return int(value)


def number(name: str, value: Any, low: float, high: float, above: bool = False) -> float:
    """A finite number from `low` to `high`; `above`: `low` itself is not allowed."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise RequestError(f"{name}: expected a number, found {type(value).__name__}")
    try:
        found = float(value)
    except OverflowError:  # an integer of hundreds of digits
        found = math.inf
    if not math.isfinite(found) or not low <= found <= high or (above and found == low):
        raise RequestError(f"{name}: expected {'above ' if above else ''}{low:g} to {high:g}, found {value!s:.40}")
    return found


def flag(name: str, value: Any) -> bool:
    """A boolean argument. Raises RequestError for anything but True and False."""
    if not isinstance(value, bool | np.bool_):
        raise RequestError(f"{name}: expected True or False, found {type(value).__name__}")
    return bool(value)


def flag_or_count(name: str, value: Any, most: int = MOST) -> tuple[bool, int | None]:
    """(whether, how many) of an argument that is True, False, or a number from 1 on, which means True.

    Raises:
        RequestError: anything else; 0 is refused, since it could mean either.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value), None
    if not isinstance(value, int | np.integer):
        raise RequestError(f"{name}: expected True, False or a number, found {type(value).__name__}")
    return True, integer(name, value, 1, most)


def one_of(name: str, value: Any, alias: str, other: Any) -> tuple[str, Any]:
    """An argument that has two names, with the one that was used. Raises RequestError where both are given."""
    if value is not None and other is not None:
        raise RequestError(f"{alias}: another name of {name}, which is given too")
    return (name, value) if other is None else (alias, other)


def strings(name: str, value: Any) -> tuple[str, ...]:
    """One string, a list of them, or None for none; none of them empty."""
    texts = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise RequestError(f"{name}: expected a string or a list of strings, none of them empty")
    if len(texts) > _MAX_STRINGS or any(len(text) > _MAX_STRING for text in texts):
        raise RequestError(f"{name}: at most {_MAX_STRINGS} strings of at most {_MAX_STRING} characters")
    return tuple(texts)


def token_ids(name: str, value: Any) -> tuple[int, ...]:
    """Token ids: a list or an array of them, in any order."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise RequestError(f"{name}: expected a list of token ids, found {type(value).__name__}")
    ids = tuple(integer(name, item, 0, MOST) for item in value)
    if len(ids) > _MAX_IDS:
        raise RequestError(f"{name}: at most {_MAX_IDS} token ids, found {len(ids)}")
    return ids


def token_sequences(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """Lists of token ids, none of them empty."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise RequestError(f"{name}: expected a list of lists of token ids, found {type(value).__name__}")
    sequences = tuple(token_ids(name, item) for item in value)
    if not all(sequences) or sum(map(len, sequences)) > _MAX_IDS:
        raise RequestError(f"{name}: expected lists of 1 to {_MAX_IDS} token ids in all")
    return sequences
