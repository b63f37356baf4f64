"""What is compared: each way to ask that a table has a row for.

Knows: models by name, labels, prompts, budgets; every combination of those that are given several times. Must not know:
pictures, answers.
"""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..boxes import shown
from ..errors import RequestError

__all__ = ["Variant", "model_name", "variants_of"]

_MOST = 200
_NAME = 40  # characters of a prompt that stand for it in a table
_OWN = ("image", "labels", "prompt", "max_soft_tokens", "on_error")


@dataclass(frozen=True)
class Variant:
    """One way to ask."""

    name: str
    model: Any = field(repr=False)
    """A name, a :class:`gemma4.Model`, anything with its `detect`, or None for the usual one."""
    asked: Mapping[str, str]
    """What each label of the truth is called in the question."""
    prompt: str | None
    """The whole question; None for the family's own."""
    max_soft_tokens: int | None
    options: Mapping[str, Any]
    """Further arguments of :meth:`gemma4.Model.detect`."""
    called: str = ""
    """The model, in a report."""

    def arguments(self) -> dict[str, Any]:
        """Of :meth:`gemma4.Model.detect`."""
        names = list(self.asked.values())
        labels: Any = names[0] if len(names) == 1 else names
        # A prompt is the whole question: the labels are in it only where it says so, but they hold the answer.
        question = self.question()
        own = {} if question is None else {"prompt": question}  # a detector of one's own need not take any
        return {"labels": labels, **own, "max_soft_tokens": self.max_soft_tokens, **self.options}

    def question(self) -> str | None:
        """The prompt, `{labels}` replaced by what is asked for."""
        return None if self.prompt is None else self.prompt.replace("{labels}", ", ".join(self.asked.values()))


def variants_of(
    known: tuple[str, ...], closed: bool, *, models: Any = None, labels: Any = None, prompts: Any = None,
    max_soft_tokens: Any = None, options: Any = None,
) -> list[Variant]:  # fmt: skip
    """Every combination of what is given. Arguments are those of :func:`gemma4.evaluate.compare`.

    Args:
        known: the labels of the truth.
        closed: whether any other is a mistake.

    Raises:
        RequestError: a value that cannot be, or more than 200 combinations.

    >>> prompts = {"plain": None, "long": "Find it."}
    >>> [one.name for one in variants_of(("cat",), True, prompts=prompts, max_soft_tokens=[70, 280])]
    ['plain, 70', 'plain, 280', 'long, 70', 'long, 280']
    """
    axes = [
        _several("models", models, model_name),
        _label_sets(labels, known, closed),
        _several("prompts", prompts, _prompt_name),
        _several("max_soft_tokens", max_soft_tokens, lambda value: "default" if value is None else str(value)),
        _mappings("options", options),
    ]
    for value in axes[2].values():
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise RequestError(f"prompts: expected strings, or None for the family's question, found {shown(value)}")
    count = 1
    for axis in axes:
        count *= len(axis)
    if count > _MOST:
        raise RequestError(
            f"{count} combinations of models, labels, prompts, max_soft_tokens and options: at most {_MOST}"
        )
    varying = [index for index, axis in enumerate(axes) if len(axis) > 1]
    found = []
    for chosen in itertools.product(*(axis.items() for axis in axes)):
        name = ", ".join(chosen[index][0] for index in varying) or "all"
        if not varying:
            name = chosen[2][0]
        model, asked, prompt, budget, further = (value for _, value in chosen)
        found.append(Variant(name, model, asked, prompt, budget, further))
    return found


def _several(axis: str, given: Any, named: Callable[[Any], str]) -> dict[str, Any]:
    """Values by name: a mapping has them, a list gets them, anything else is one."""
    if isinstance(given, Mapping):
        values = {_name(axis, name): value for name, value in given.items()}
    elif isinstance(given, list | tuple):
        values = {}
        for value in given:
            name, count = named(value), 2
            while name in values:
                name, count = f"{named(value)} ({count})", count + 1
            values[name] = value
    else:
        values = {named(given): given}
    if not values:
        raise RequestError(f"{axis}: an empty list; there is nothing to compare")
    return values


def _name(axis: str, name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise RequestError(f"{axis}: expected names, found {shown(name)}")
    return name


def model_name(model: Any) -> str:
    """What a report calls a model."""
    if model is None:
        return "default"
    if isinstance(model, str | os.PathLike):
        return os.fspath(model) if isinstance(model, str) else os.path.basename(os.fspath(model))
    source = (model if isinstance(model, Mapping) else getattr(model, "_arguments", {})).get("source")
    return type(model).__name__ if source is None else str(source)


def _prompt_name(prompt: Any) -> str:
    if prompt is None:
        return "default"
    text = " ".join(str(prompt).split())
    return text if len(text) <= _NAME else text[: _NAME - 1] + "…"


def _label_sets(given: Any, known: tuple[str, ...], closed: bool) -> dict[str, dict[str, str]]:
    """A list of labels; a mapping from labels to words for them; or a mapping from names to either."""
    if isinstance(given, Mapping) and given and not all(isinstance(value, str) for value in given.values()):
        return {_name("labels", name): _asked(value, known, closed) for name, value in given.items()}
    return {"labels": _asked(given, known, closed)}


def _asked(given: Any, known: tuple[str, ...], closed: bool) -> dict[str, str]:
    if given is None:
        if not known:
            raise RequestError("labels: the dataset has no objects; say what to look for")
        return {label: label for label in known}
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Mapping):
        if not isinstance(given, Iterable):
            raise RequestError(f"labels: expected a list of strings, found {shown(given)}")
        given = {label: label for label in given}
    for label, word in given.items():
        if not isinstance(label, str) or not isinstance(word, str) or not label.strip() or not word.strip():
            raise RequestError(f"labels: expected strings, found {shown(label)}: {shown(word)}")
        if closed and label not in known:
            near = difflib.get_close_matches(label, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f": {', '.join(known[:20])}"
            raise RequestError(f"labels: {label!r} is not a label of the dataset{hint}")
    if not given:
        raise RequestError("labels: an empty list; None asks for those of the dataset")
    words = [word.casefold() for word in given.values()]
    if len(set(words)) < len(words):
        raise RequestError("labels: two of them are asked for by the same word")
    return dict(given)


def _mappings(axis: str, given: Any) -> dict[str, dict[str, Any]]:
    """One mapping of arguments, or a mapping from names to such."""
    if given is None:
        return {"default": {}}
    if not isinstance(given, Mapping):
        raise RequestError(f"{axis}: expected a mapping of arguments of detect, found {shown(given)}")
    several = bool(given) and all(isinstance(value, Mapping) for value in given.values())
    sets = {_name(axis, name): dict(value) for name, value in given.items()} if several else {"options": dict(given)}
    for values in sets.values():
        wrong = [name for name in values if not isinstance(name, str) or name in _OWN]
        if wrong:
            raise RequestError(f"{axis}: {shown(wrong[0])} is no further argument of detect, or has its own here")
    return sets
