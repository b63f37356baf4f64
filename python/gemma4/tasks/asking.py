"""Whom a task asks: what it needs of a model.

Knows: the shape of a question and an answer. Must not know: models.
"""

from __future__ import annotations

from typing import Any, Protocol

from ..answer import GenerationResult

__all__ = ["CUT", "Asked", "why_cut"]

CUT = ("length", "repetition")
"""Finish reasons of answers that are not whole."""


class Asked(Protocol):
    """What answers; :class:`gemma4.Model` does."""

    @property
    def modalities(self) -> frozenset[str]: ...

    def generate(self, messages: Any, *args: Any, **kwargs: Any) -> GenerationResult: ...


def why_cut(out: GenerationResult) -> str:
    """Where and why, for a warning."""
    after = f"after {len(out.token_ids)} tokens"
    if out.finish_reason == "repetition":
        return f"{after}, as it went round in circles"
    return f"{after}; give a larger max_new_tokens"
