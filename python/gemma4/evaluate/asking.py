"""Answers to one variant about every picture: those that are kept, and those that a model has to be asked for.

Knows: the cache, `detect`. Must not know: truth, metrics.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..arguments import number
from ..boxes import shown
from ..errors import DetectionParseError, Gemma4Error, RequestError
from .cache import AnswerCache, digest, fingerprint
from .dataset import Dataset
from .outcomes import Found
from .variants import Variant

__all__ = ["Answer", "Models", "answers_to"]

_TOGETHER = 16
"""Pictures that are asked about at once; their answers are kept before the next are begun."""


@dataclass(frozen=True)
class Answer:
    """What was found on a picture."""

    found: tuple[Found, ...]
    seconds: float
    cached: bool = False
    error: str | None = None
    notes: tuple[str, ...] = ()
    """Warnings that came while it was computed."""


@dataclass
class Models:
    """Models by name, none of which is loaded before it is needed, and only the last one of which is held."""

    usual: Callable[[], Any]
    """Loads the model that is meant where none is named."""
    usual_arguments: Mapping[str, Any] | None
    """What it is loaded with, where that is known without loading it."""
    cache: AnswerCache
    _held: tuple[str, Any] | None = field(default=None, init=False)

    def identity(self, model: Any) -> str | None:
        """Two models with the same one give the same answers; None where nothing is known of it."""
        if model is None and self.usual_arguments is None:
            model = self.usual()
        if model is None:
            arguments: Any = self.usual_arguments
        elif isinstance(model, Mapping):
            arguments = model
        elif _is_name(model):
            arguments = {"source": model}
        else:  # what somebody has put around a model, or made of one, may answer otherwise
            from ..model import Model

            arguments = model._arguments if type(model) is Model else None
        return None if arguments is None else fingerprint({**_DEFAULTS, **arguments}, self.cache)

    def get(self, model: Any) -> Any:
        """Something with a `detect`."""
        if model is None:
            return self.usual()
        if not _is_name(model) and not isinstance(model, Mapping):
            return model
        arguments = dict(model) if isinstance(model, Mapping) else {"source": model}
        name = repr(sorted(arguments.items()))
        if self._held is None or self._held[0] != name:
            from ..model import Model

            self.close()
            self._held = name, Model.from_pretrained(**arguments)
        return self._held[1]

    def close(self) -> None:
        """Let go of the model that is held."""
        if self._held is not None:
            self._held[1].close()
            self._held = None


_DEFAULTS = {"source": "demo", "dtype": "auto", "resize": "torchvision", "kv_cache": "bf16"}


def _is_name(model: Any) -> bool:
    return isinstance(model, str) or hasattr(model, "__fspath__")


def answers_to(variant: Variant, dataset: Dataset, digests: Sequence[str], models: Models) -> list[Answer]:
    """One for each sample, in their order; `digests` are those of their pixels.

    Raises:
        Gemma4Error: a picture cannot be read, or an argument is wrong. An answer that cannot be read is an
            :class:`Answer` with an error: it is the prompt's doing.
    """
    who, cache = models.identity(variant.model), models.cache
    arguments = variant.arguments()
    try:
        settings = json.loads(json.dumps(arguments))
    except (TypeError, ValueError):
        raise RequestError(f"options: expected what JSON can write, found {shown(variant.options)}") from None
    answers: list[Answer | None] = [None] * len(dataset.samples)
    keys: dict[int, str] = {}
    if who is not None:
        keys = {index: digest([1, who, settings, pixels]) for index, pixels in enumerate(digests)}
        answers = [_kept(cache, keys[index]) for index in range(len(answers))]
    missing = [index for index, answer in enumerate(answers) if answer is None]
    # Pictures that are the same have one answer.
    first = {keys.get(index, str(index)): index for index in reversed(missing)}
    wanted = sorted(first.values())
    for start in range(0, len(wanted), _TOGETHER):
        some = wanted[start : start + _TOGETHER]
        made = _ask(models.get(variant.model), [dataset.samples[index] for index in some], arguments)
        for index, answer in zip(some, made, strict=True):
            answers[index] = answer
            if index in keys:
                cache.put("answers", keys[index], _stored(answer, settings, dataset.samples[index].name))
    done = [answers[first[keys.get(i, str(i))]] if one is None else one for i, one in enumerate(answers)]
    return [answer for answer in done if answer is not None]


def _ask(model: Any, samples: Sequence[Any], arguments: Mapping[str, Any]) -> list[Answer]:
    if not callable(getattr(model, "detect", None)):
        raise RequestError(f"models: expected a name, a gemma4.Model or an object with detect(), not {shown(model)}")
    pictures = [sample.pixels() for sample in samples]
    begun = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = model.detect(pictures, **arguments, on_error="return")
    seconds = (time.perf_counter() - begun) / len(samples)
    # Which of those that were asked together a warning is about is not known: it is kept with each.
    notes = tuple(sorted({str(warning.message) for warning in caught}))
    answers = []
    for sample, result in zip(samples, results, strict=True):
        if isinstance(result, DetectionParseError):
            answers.append(Answer((), seconds, error=f"{result}", notes=notes))
        elif isinstance(result, Gemma4Error):
            raise type(result)(f"{sample.name}: {result}") from result
        elif isinstance(result, BaseException):
            raise result
        else:
            answers.append(
                Answer(tuple((d.label, _four(d.xyxy), float(d.score)) for d in result), seconds, notes=notes)
            )
    return answers


def _four(box: Any) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(number) for number in box)
    return x1, y1, x2, y2


def _stored(answer: Answer, settings: Mapping[str, Any], picture: str) -> dict[str, Any]:
    """What a file holds; settings and picture are for people who look at it."""
    found = [{"label": label, "xyxy": box, "score": score} for label, box, score in answer.found]
    return {
        "picture": picture, "settings": settings, "found": found, "error": answer.error, "seconds": answer.seconds,
        "notes": answer.notes,
    }  # fmt: skip


def _kept(cache: AnswerCache, key: str) -> Answer | None:
    value = cache.get("answers", key)
    if value is None:
        return None
    try:
        found = []
        for one in value["found"]:
            label, (x1, y1, x2, y2) = one["label"], (number("xyxy", n, -1e9, 1e9) for n in one["xyxy"])
            found.append((str(label), (x1, y1, x2, y2), number("score", one["score"], 0, 1)))
        error, notes = value["error"], tuple(str(note) for note in value["notes"])
        seconds = number("seconds", value["seconds"], 0, 1e9)
        return Answer(tuple(found), seconds, True, None if error is None else str(error), notes)
    except (KeyError, TypeError, ValueError):
        cache.damaged("answers", key)
        return None
