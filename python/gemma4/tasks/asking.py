"""What a task is: requests, and what is made of their answers.

Knows: the shape of a question and an answer. Must not know: models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..answer import CUT, GenerationArguments, GenerationResult

__all__ = ["CUT", "Task", "request", "why_cut"]

T = TypeVar("T")


@dataclass(frozen=True)
class Task(Generic[T]):
    """What is asked, and what the answers say."""

    requests: Iterable[tuple[list[dict[str, Any]], GenerationArguments]]
    """Messages and options, each request made when it is asked for."""
    read: Callable[[list[GenerationResult]], T]


def request(content: list[dict[str, Any]], options: GenerationArguments) -> tuple[Any, GenerationArguments]:
    """A user's turn, and how it is to be answered."""
    return [{"role": "user", "content": content}], options


def why_cut(out: GenerationResult) -> str:
    """Where and why, for a warning."""
    after = f"after {len(out.token_ids)} tokens"
    if out.finish_reason == "repetition":
        return f"{after}, as it went round in circles"
    return f"{after}; give a larger max_new_tokens"
