"""Tasks on one picture: the question, the answer, and what it says.

Knows: the family's wording, how an answer's tokens become scores. Must not know: templates, the engine.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..answer import GenerationResult
from ..boxes import Place, parse_places
from ..detections import Detections, Points
from ..errors import RequestError
from ..media import load_image
from ..tokens import check_text
from .asking import CUT, Asked, why_cut

if TYPE_CHECKING:
    from PIL.Image import Image


Found = TypeVar("Found", Detections, Points)

MOST_PLACES_TOKENS = 2048  # some seventy objects

DETECT_ONE = "What's the bounding box for the {} in the image?"
DETECT_SEVERAL = "What are the bounding boxes for the {} in the image?"
DETECT_ALL = "Detect all objects in the image."
POINT = "Point to the {}."
CAPTION = "Describe the image."
READ = "Read the text in the image."

_WRITTEN: dict[type[Detections | Points], tuple[str, int]] = {Detections: ("box_2d", 4), Points: ("point", 2)}
"""How an answer writes a place: under which key, in how many integers."""

_TOP = 32  # of the most likely tokens, enough for every number within _NEAR
_NEAR = 10  # grid steps: 1 % of the picture's side

# The family's form of an answer. What a model may vary in a valid one, spaces, a fence, the order of the keys, it may
# vary here too, so that a mask changes no answer that needs none.
_W = r"[ \n\t]{0,32}"
_INTEGER = r"(0|[1-9][0-9]{0,2}|1000)"
_HEX = "[0-9a-fA-F]"
_UNICODE = (
    rf"(00[2-6a-fA-F]{_HEX}|007[0-9a-eA-E]|0[1-9a-fA-F]{_HEX}{{2}}|[1-9a-cA-CefEF]{_HEX}{{3}}|[dD][0-7]{_HEX}{{2}})"
)
_LABEL = rf'"([^"\\\x00-\x1f\x7f-\x9f]|\\["\\/]|\\u{_UNICODE})*"'  # no control characters, no halves of a pair


def answer_pattern(key: str, count: int) -> str:
    """A regular expression of the answers that name places, each `count` integers of the grid under `key`.

    >>> import re
    >>> bool(re.fullmatch(answer_pattern("point", 2), '[{"point": [500, 20], "label": "cat"}]'))
    True
    """
    place = rf'"{key}"{_W}:{_W}\[{_W}{_INTEGER}({_W},{_W}{_INTEGER}){{{count - 1}}}{_W}\]'
    label = rf'"label"{_W}:{_W}{_LABEL}'
    item = rf"\{{{_W}({place}{_W},{_W}{label}|{label}{_W},{_W}{place}){_W}\}}"
    items = rf"\[{_W}({item}({_W},{_W}{item})*{_W})?\]"
    return rf"({items}|```(json)?\n{items}\n```)"


def detect(
    model: Asked, image: Any, labels: Any, prompt: str | None, max_soft_tokens: int | None, max_new_tokens: int,
    adapter: Any = None,
) -> Detections:  # fmt: skip
    """See `Model.detect`."""
    names = check_labels(labels)
    if prompt is not None and names:
        raise RequestError("prompt: give labels or a prompt, not both")
    question = check_text(prompt, "prompt") if prompt is not None else detection_prompt(names)
    found = _find(Detections, model, image, question, max_soft_tokens, max_new_tokens, adapter)
    return _renamed(found, names)


def point(
    model: Asked, image: Any, label: str, max_soft_tokens: int | None, max_new_tokens: int, adapter: Any = None
) -> Points:
    """See `Model.point`."""
    names = check_labels(label)
    if len(names) != 1:
        raise RequestError("label: expected one string")
    question = POINT.replace("{}", names[0])
    found = _find(Points, model, image, question, max_soft_tokens, max_new_tokens, adapter)
    return _renamed(found, names)


def describe(
    model: Asked, image: Any, prompt: str, max_soft_tokens: int | None, max_new_tokens: int, adapter: Any = None
) -> str:
    """See `Model.caption` and `Model.read`."""
    _, out = _ask(model, image, prompt, max_soft_tokens, max_new_tokens, adapter=adapter)
    if out.finish_reason in CUT:
        warnings.warn(f"the answer was cut {why_cut(out)}", RuntimeWarning, stacklevel=3)
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


def _find(
    kind: type[Found], model: Asked, image: Any, question: str, max_soft_tokens: int | None, max_new_tokens: int,
    adapter: Any,
) -> Found:  # fmt: skip
    """The places that the answer to a question about a picture names."""
    key, count = _WRITTEN[kind]
    form = {
        "response_format": {"type": "regex", "regex": answer_pattern(key, count)},
        "logprobs": _TOP,
        "adapter": adapter,
    }
    pixels, out = _ask(model, image, question, max_soft_tokens, max_new_tokens, **form)
    places = parse_places(out.text, key)
    size = (pixels.shape[1], pixels.shape[0])
    found = kind.from_places(places, out.text, size, scores(out, places), _picture(pixels))
    if out.finish_reason in CUT:
        warnings.warn(
            f"the answer was cut {why_cut(out)}: there may be more than the {len(found)} objects returned",
            RuntimeWarning,
            stacklevel=4,
        )
    return found


def _ask(
    model: Asked, image: Any, question: str, max_soft_tokens: int | None, max_new_tokens: int, **options: Any
) -> tuple[NDArray[np.uint8], GenerationResult]:
    """Greedy answer to a question about a picture, and the picture's pixels."""
    if "image" not in model.modalities:
        raise RequestError("image: this model has no vision: it cannot take pictures")
    pixels = load_image(image)
    parts = [{"type": "image", "image": pixels}, {"type": "text", "text": question}]
    out = model.generate(
        [{"role": "user", "content": parts}],
        max_new_tokens=max_new_tokens,
        temperature=0,
        max_soft_tokens=max_soft_tokens,
        **options,
    )
    return pixels, out


def _picture(pixels: NDArray[np.uint8]) -> Callable[[], Image]:
    def make() -> Image:
        from PIL import Image

        return Image.fromarray(pixels)

    return make


def scores(out: GenerationResult, places: Sequence[Place]) -> list[float]:
    """How sure the model is of each place of its answer, from 0 to 1; see `Model.detect`."""
    return [_score(out, place) for place in places]


def _score(out: GenerationResult, place: Place) -> float:
    """Geometric mean over the tokens that hold any character of its values: of the probability of a label's token, and
    of that of all tokens which keep a coordinate near where it is.

    A model spreads a coordinate over neighbouring numbers, all of which are right: the probability of the one it names
    says how fine the grid is rather than how sure it is of the place.
    """
    assert out.logprobs is not None
    chosen = []
    for position, (begin, end) in enumerate(out.token_spans):
        value = next(
            (span for span in sorted((place.label, *place.numbers)) if begin < span[1] and end > span[0]), None
        )
        if value is not None:
            near = _near(out, position, value) if value in place.numbers and out.top_logprobs is not None else 0.0
            chosen.append(math.log(near) if near > 0 else float(out.logprobs[position]))
    return min(1.0, math.exp(sum(chosen) / len(chosen))) if chosen else 1.0


def _near(out: GenerationResult, position: int, number: tuple[int, int]) -> float:
    """Probability that the token at `position`, which is part of the coordinate in `out.text[slice(*number)]`, were one
    with which the coordinate is at most _NEAR from what it is, whatever digits follow; of the most likely tokens."""
    assert out.logprobs is not None and out.top_logprobs is not None
    start, stop = number
    begin, end = out.token_spans[position]
    value = int(float(out.text[start:stop]))
    first, last = max(begin, start), min(end, stop)  # the token's part of the number
    left, right = out.text[begin:first], out.text[last:end]
    open_digits = stop - last  # which later tokens decide
    mass = math.exp(float(out.logprobs[position]))
    for index, token, logprob in out.top_logprobs[position]:
        digits = token[len(left) : len(token) - len(right)]
        fits = token.startswith(left) and token.endswith(right) and digits.isascii() and digits.isdigit()
        if index == int(out.token_ids[position]) or not fits:
            continue
        written = out.text[start:first] + digits
        least, most = int(written + "0" * open_digits), int(written + "9" * open_digits)
        if abs(least - value) <= _NEAR and abs(most - value) <= _NEAR:
            mass += math.exp(logprob)
    return mass


def _renamed(found: Found, names: Sequence[str]) -> Found:
    """Labels that differ from an asked one only in case take its spelling; others stay as the model wrote them."""
    spelling = {name.casefold(): name for name in names}
    if all(item.label == spelling.get(item.label.casefold(), item.label) for item in found):
        return found
    items = [replace(item, label=spelling.get(item.label.casefold(), item.label)) for item in found]
    return type(found)(items, found.image_size, found.raw_text, found._image)
