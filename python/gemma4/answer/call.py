"""What a call may say about an answer: names, types and defaults of its arguments.

Knows: names and types. Must not know: ranges, checkpoints; anything that is slow to import, since a command line that
shows its help reads this.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypedDict, TypeVar, get_type_hints

__all__ = ["GenerationArguments", "shows_arguments"]

F = TypeVar("F", bound=Callable[..., Any])


class GenerationArguments(TypedDict, total=False):
    """The one list, described in :meth:`gemma4.Model.generate`. Those with a line of help are options of `gemma4 run`,
    too."""

    max_new_tokens: Annotated[int | None, "Tokens at most; by default the checkpoint's, or 512."]
    temperature: Annotated[float | None, "0 is greedy. The default, here and below, is the checkpoint's."]
    top_k: Annotated[int | None, "Sample among the k most likely; 0 is all."]
    top_p: Annotated[float | None, "Sample among the most likely that reach this together; 1 is all."]
    min_p: Annotated[float | None, "Leave out what is less likely than this share of the most likely."]
    repetition_penalty: Annotated[float | None, "Above 1, what was said is less likely to come again."]
    seed: Annotated[int | None, "The same seed gives the same answer."]
    stop: Annotated[str | Sequence[str] | None, "Text that ends the answer; may be repeated."]
    thinking: Annotated[bool | int, "Think before answering; the thought is not shown."]
    tools: Sequence[Any] | None
    response_format: Any
    max_soft_tokens: int | None
    logprobs: bool | int
    ignore_eos: Annotated[bool, "Go on after the end, to --max-new-tokens."]
    repetition_guard: Annotated[bool, "End an answer that goes round in circles; on by default."]
    adapter: str | Literal[False] | None
    do_sample: Annotated[bool | None, "Sample, or be greedy."]
    min_new_tokens: Annotated[int | None, "Tokens that come before the end at least."]
    suppress_tokens: Annotated[Sequence[int] | None, "An id that never comes; may be repeated."]
    begin_suppress_tokens: Annotated[Sequence[int] | None, "An id that does not come first; may be repeated."]
    bad_words_ids: Sequence[Sequence[int]] | None
    no_repeat_ngram_size: Annotated[int | None, "No so many ids come twice in the same order; 0 for any."]
    stop_strings: str | Sequence[str] | None
    max_tokens: int | None


DEFAULTS: dict[str, Any] = dict.fromkeys(GenerationArguments.__annotations__) | {
    "thinking": False, "logprobs": False, "ignore_eos": False, "repetition_guard": True,
}  # fmt: skip


def shows_arguments(function: F) -> F:
    """Let `help`, notebooks and `inspect` see the names of `GenerationArguments` in place of `**options`."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    given = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=DEFAULTS[name], annotation=kind)
        for name, kind in get_type_hints(GenerationArguments).items()
    ]
    function.__signature__ = signature.replace(parameters=[*own, *given])  # type: ignore[attr-defined]
    return function
