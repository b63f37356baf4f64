"""Tasks on one picture: the question, the answer, and what it says.

Knows: the family's wording, how an answer's tokens become scores. Must not know: templates, the engine.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .answers import parse_spans
from .detections import Detections, Points
from .errors import RequestError
from .generation import GenerationResult
from .media import load_image
from .tokenizer import check_text

if TYPE_CHECKING:
    from PIL.Image import Image

    from .model import Model

Found = TypeVar("Found", Detections, Points)

MAX_NEW_TOKENS = 2048  # some seventy objects

DETECT_ONE = "What's the bounding box for the {} in the image?"
DETECT_SEVERAL = "What are the bounding boxes for the {} in the image?"
DETECT_ALL = "Detect all objects in the image."
POINT = "Point to the {}."
CAPTION = "Describe the image."
READ = "Read the text in the image."

_VALUES = re.compile(r'"(?:box_2d|point)"\s*:\s*\[([^\]]*)\]|"label"\s*:\s*"((?:[^"\\]|\\.)*)"', re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def detect(
    model: Model, image: Any, labels: Any, prompt: str | None, max_soft_tokens: int | None, max_new_tokens: int
) -> Detections:
    """See `Model.detect`."""
    names = check_labels(labels)
    if prompt is not None and names:
        raise RequestError("prompt: give labels or a prompt, not both")
    question = check_text(prompt, "prompt") if prompt is not None else detection_prompt(names)
    pixels, out = _ask(model, image, question, max_soft_tokens, max_new_tokens)
    spans = parse_spans(out.text, "box_2d")
    found = Detections.from_answer(out.text, _size(pixels), _scores(out, spans), _picture(pixels))
    _warn_if_cut(out, len(found))
    return _renamed(found, names)


def point(model: Model, image: Any, label: str, max_soft_tokens: int | None, max_new_tokens: int) -> Points:
    """See `Model.point`."""
    names = check_labels(label)
    if len(names) != 1:
        raise RequestError("label: expected one string")
    pixels, out = _ask(model, image, POINT.replace("{}", names[0]), max_soft_tokens, max_new_tokens)
    spans = parse_spans(out.text, "point")
    found = Points.from_answer(out.text, _size(pixels), _scores(out, spans), _picture(pixels))
    _warn_if_cut(out, len(found))
    return _renamed(found, names)


def describe(model: Model, image: Any, prompt: str, max_soft_tokens: int | None, max_new_tokens: int) -> str:
    """See `Model.caption` and `Model.read`."""
    _, out = _ask(model, image, prompt, max_soft_tokens, max_new_tokens)
    if out.finish_reason == "length":
        warnings.warn("the answer was cut; give a larger max_new_tokens", RuntimeWarning, stacklevel=3)
    return out.text


def detection_prompt(names: Sequence[str]) -> str:
    """The family's question for one name, several, or everything.

    >>> detection_prompt(["cat"])
    "What's the bounding box for the cat in the image?"
    """
    if not names:
        return DETECT_ALL
    return (DETECT_ONE if len(names) == 1 else DETECT_SEVERAL).replace("{}", ", ".join(names))


def check_labels(labels: Any) -> list[str]:
    """One label or several as a list; None is none. Raises RequestError for empty ones and other types."""
    if labels is None:
        return []
    names = [labels] if isinstance(labels, str) else labels
    if not isinstance(names, list | tuple) or not names:
        raise RequestError("labels: expected a string or a list of strings, or None for everything")
    for name in names:
        if not check_text(name, "labels").strip():
            raise RequestError("labels: an empty string names nothing")
    return list(names)


def _ask(
    model: Model, image: Any, question: str, max_soft_tokens: int | None, max_new_tokens: int
) -> tuple[NDArray[np.uint8], GenerationResult]:
    """Greedy answer to a question about a picture, and the picture's pixels."""
    if "image" not in model.modalities:
        raise RequestError("image: this model has no eyes: it cannot take pictures")
    pixels = load_image(image)
    parts = [{"type": "image", "image": pixels}, {"type": "text", "text": question}]
    out = model.generate(
        [{"role": "user", "content": parts}],
        max_new_tokens=max_new_tokens,
        temperature=0,
        logprobs=True,
        max_soft_tokens=max_soft_tokens,
    )
    return pixels, out


def _size(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[0]


def _picture(pixels: NDArray[np.uint8]) -> Callable[[], Image]:
    def make() -> Image:
        from PIL import Image

        return Image.fromarray(pixels)

    return make


def _scores(out: GenerationResult, spans: Sequence[tuple[Any, tuple[int, int]]]) -> list[float]:
    return [_score(out, list(_value_ranges(out.text, *span))) for _, span in spans]


def _value_ranges(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the characters in `text` that are coordinates or label of the object in `text[start:end]`."""
    for match in _VALUES.finditer(text, start, end):
        if match.group(1) is None:
            yield match.span(2)
        else:
            yield from (number.span() for number in _NUMBER.finditer(text, *match.span(1)))


def _score(out: GenerationResult, ranges: list[tuple[int, int]]) -> float:
    """Geometric mean of the probabilities of the tokens that hold any character of the ranges."""
    assert out.logprobs is not None
    chosen = [
        float(logprob)
        for (begin, end), logprob in zip(out.token_spans, out.logprobs, strict=True)
        if any(begin < stop and end > start for start, stop in ranges)
    ]
    return min(1.0, math.exp(sum(chosen) / len(chosen))) if chosen else 1.0


def _warn_if_cut(out: GenerationResult, count: int) -> None:
    if out.finish_reason == "length":
        warnings.warn(
            f"the answer was cut after {len(out.token_ids)} tokens: there may be more than the {count} objects "
            "returned; give a larger max_new_tokens",
            RuntimeWarning,
            stacklevel=4,
        )


def _renamed(found: Found, names: Sequence[str]) -> Found:
    """Labels that differ from an asked one only in case take its spelling; others stay as the model wrote them."""
    spelling = {name.casefold(): name for name in names}
    if all(item.label == spelling.get(item.label.casefold(), item.label) for item in found):
        return found
    items = [replace(item, label=spelling.get(item.label.casefold(), item.label)) for item in found]
    return type(found)(items, found.image_size, found.raw_text, found._image)
