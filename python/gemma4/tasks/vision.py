"""Tasks on one picture: the question, the answer, and what it says.

Knows: the family's wording, how an answer's tokens become scores. Must not know: templates, the engine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..answer import GenerationArguments, GenerationResult
from ..arguments import flag, number
from ..boxes import GRID, Place, from_pixels, parse_places
from ..detections import Detection, Detections, Points, kept_picture
from ..errors import RequestError
from ..media import load_image
from ..notices import warn
from ..tokens import check_text
from .asking import CUT, Task, request, why_cut
from .certainty import TOP, Certainty, Names, certainties
from .tiling import Tile, check_tile, merged, tiles

Found = TypeVar("Found", Detections, Points)

_OWN_WORD = 0.1
"""Probability of a label below which the model would call the object otherwise."""
_LEAST = 0.05
"""Score of what was asked for below which it is nothing, unless the caller says otherwise."""
MOST_PLACES_TOKENS = 2048  # some seventy objects

DETECT_ONE = "What's the bounding box for the {} in the image?"
DETECT_SEVERAL = "What are the bounding boxes for the {} in the image?"
DETECT_ALL = "Detect all objects in the image."
POINT = "Point to the {}."
CAPTION = "Describe the image."
READ = "Read the text in the image."

_WRITTEN: dict[type[Detections | Points], tuple[str, int]] = {Detections: ("box_2d", 4), Points: ("point", 2)}
"""How an answer writes a place: under which key, in how many integers."""

# The family's form of an answer. What a model may vary in a valid one, spaces, a fence, the order of the keys, it may
# vary here too, so that a mask changes no answer that needs none.
_W = r"[ \n\t]{0,32}"
_INTEGER = r"(0|[1-9][0-9]{0,2}|1000)"
_HEX = "[0-9a-fA-F]"
_UNICODE = (
    rf"(00[2-6a-fA-F]{_HEX}|007[0-9a-eA-E]|0[1-9a-fA-F]{_HEX}{{2}}|[1-9a-cA-CefEF]{_HEX}{{3}}|[dD][0-7]{_HEX}{{2}})"
)
_LABEL = rf'"([^"\\\x00-\x1f\x7f-\x9f]|\\["\\/]|\\u{_UNICODE}){{0,200}}"'  # no control characters or halves of a pair


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


@dataclass(frozen=True)
class Search:
    """What is looked for in a picture, and what of the answer is kept."""

    names: tuple[str, ...] = ()
    """Labels; none for everything."""
    prompt: str | None = None
    """The question, where it is not the family's."""
    held: bool = True
    """Whether an object's label must be one of the names."""
    threshold: float | None = None
    """The least score; None for what is usual."""
    tile: tuple[int, int] | None = None
    """Pixels of the parts that are looked at beside the whole."""
    refine: bool = False
    """Whether pixels are those of the expected coordinates instead of the most likely ones."""
    raises: bool = False
    """Whether a box that cannot be is an error instead of a warning."""
    keep_image: bool = False
    """Whether the result holds the picture's pixels."""

    @property
    def spoken(self) -> list[str]:
        """The names as a question has them."""
        return [name.lower() for name in self.names]

    @property
    def asked(self) -> Names:
        """What labels must be. A question of the caller's own may not have named them."""
        return Names(self.names, kinds=self.prompt is not None) if self.held else Names()

    def keeps(self, sure: Certainty) -> bool:
        """Whether a place is sure enough. Of labels that the model was held to it must be so by its own words, too,
        unless the caller has drawn a line."""
        if self.threshold is not None:
            return sure.score >= self.threshold
        return not self.held or (sure.label >= _OWN_WORD and sure.score >= _LEAST)

    @classmethod
    def of(
        cls, labels: Any, prompt: Any = None, *, open_labels: Any = False, threshold: Any = None, tile: Any = None,
        refine: Any = False, on_invalid: Any = "warn", keep_image: Any = False,
    ) -> Search:  # fmt: skip
        """The arguments of `Model.detect`, checked.

        Raises:
            RequestError: one is wrong.
        """
        names = check_labels(labels)
        if on_invalid not in ("warn", "raise"):
            raise RequestError(f"on_invalid: expected 'warn' or 'raise', found {str(on_invalid)[:40]!r}")
        return cls(
            names=tuple(names),
            prompt=None if prompt is None else check_text(prompt, "prompt"),
            held=bool(names) and not flag("open_labels", open_labels),
            threshold=None if threshold is None else number("threshold", threshold, 0.0, 1.0),
            tile=check_tile(tile),
            refine=flag("refine", refine),
            raises=on_invalid == "raise",
            keep_image=flag("keep_image", keep_image),
        )


def detect(modalities: Collection[str], image: Any, search: Search, options: GenerationArguments) -> Task[Detections]:
    """See `Model.detect`."""
    pixels = _pixels(modalities, image)
    size = (pixels.shape[1], pixels.shape[0])
    parts = [] if search.tile is None else tiles(size, search.tile)
    question = detection_prompt(search.spoken) if search.prompt is None else search.prompt
    asked: GenerationArguments = {**options, **_form(Detections)}
    views = [pixels, *(pixels[part.top : part.bottom, part.left : part.right] for part in parts)]

    def read(answers: list[GenerationResult]) -> Detections:
        found = _found(Detections, answers[0], size, search)
        if parts:
            inside = [
                (part, [_moved(one, part, size) for one in _found(Detections, out, _size_of(part), search)])
                for part, out in zip(parts, answers[1:], strict=True)
            ]
            found = merged(found, inside, size)
        text = "\n".join(out.text for out in answers)
        return Detections(found, size, text, kept_picture(image, pixels, search.keep_image))

    return Task((_request(view, question, asked) for view in views), read)


def point(modalities: Collection[str], image: Any, search: Search, options: GenerationArguments) -> Task[Points]:
    """See `Model.point`."""
    if len(search.names) != 1:
        raise RequestError("label: expected one string")
    pixels = _pixels(modalities, image)
    size = (pixels.shape[1], pixels.shape[0])

    def read(answers: list[GenerationResult]) -> Points:
        return Points(
            _found(Points, answers[0], size, search),
            size,
            answers[0].text,
            kept_picture(image, pixels, search.keep_image),
        )

    asked: GenerationArguments = {**options, **_form(Points)}
    return Task([_request(pixels, POINT.replace("{}", search.spoken[0]), asked)], read)


def describe(modalities: Collection[str], image: Any, prompt: str, options: GenerationArguments) -> Task[str]:
    """See `Model.caption` and `Model.read`."""

    def read(answers: list[GenerationResult]) -> str:
        out = answers[0]
        if out.finish_reason in CUT:
            warn(f"the answer was cut {why_cut(out)}")
        return out.text

    return Task([_request(_pixels(modalities, image), prompt, options)], read)


def detection_prompt(names: Sequence[str]) -> str:
    """The family's question for one name, several, or everything.

    >>> detection_prompt(["cat"])
    "What's the bounding box for the cat in the image?"
    """
    if not names:
        return DETECT_ALL
    return (DETECT_ONE if len(names) == 1 else DETECT_SEVERAL).replace("{}", ", ".join(names))


def check_labels(labels: Any) -> list[str]:
    """One label or several, in any collection such as a list, a set, an array or a Series, as a list without repeats;
    None is none. Raises RequestError for empty ones and other types."""
    if labels is None:
        return []
    if isinstance(labels, str):
        names: list[Any] = [labels]
    elif isinstance(labels, Mapping | bytes) or not isinstance(labels, Iterable):
        raise RequestError(f"labels: expected a string or several, or None for everything, found {_type(labels)}")
    else:
        names = sorted(labels) if isinstance(labels, set | frozenset) else list(labels)
        if not names:
            raise RequestError("labels: there are none; None is for everything")
    for name in names:
        if not check_text(name, "labels").strip():
            raise RequestError("labels: an empty string names nothing")
    return [str(name) for name in {str(name).casefold(): name for name in reversed(names)}.values()][::-1]


def _type(value: Any) -> str:
    return type(value).__name__


def _form(kind: type[Found]) -> GenerationArguments:
    """What holds an answer to the family's form, and tells how sure its parts are. Labels are left to the model and
    held afterwards: one that is forced to say what it does not see says anything, without an end."""
    return {"response_format": {"type": "regex", "regex": answer_pattern(*_WRITTEN[kind])}, "logprobs": TOP}


def _found(kind: type[Found], out: GenerationResult, size: tuple[int, int], search: Search) -> list[Any]:
    """The items that an answer names in a picture of (width, height) pixels, as far as they are to be kept."""
    key, _ = _WRITTEN[kind]
    places = parse_places(out.text, key, inverted=not search.raises)
    kept: list[tuple[Place, Certainty]] = []
    inverted = []
    for place, sure in zip(places, certainties(out, places, search.asked), strict=True):
        numbers = place.item[key]
        if len(numbers) == 4 and (numbers[2] < numbers[0] or numbers[3] < numbers[1]):
            if not search.held or sure.label >= _OWN_WORD:  # of what is none anyway nothing is said
                inverted.append(f"{numbers} of {sure.name[:40]!r}")
        elif search.keeps(sure):
            kept.append((place, sure))
    if inverted:
        warn(f"boxes that end before they begin are left out (on_invalid='raise' raises): {', '.join(inverted[:10])}")
    if out.finish_reason in CUT:
        warn(f"the answer was cut {why_cut(out)}: there may be more than the {len(kept)} objects returned")
    items = kind.from_places([place for place, _ in kept], out.text, size, [sure.score for _, sure in kept])
    spelling = {name.casefold(): name for name in search.names}
    return [
        replace(
            item, label=spelling.get(sure.name.casefold(), sure.name), **(_finer(sure, size) if search.refine else {})
        )
        for item, (_, sure) in zip(items, kept, strict=True)
    ]


def _finer(sure: Certainty, size: tuple[int, int]) -> dict[str, Any]:
    """The expected coordinates, y first, in the pixels of a picture of `size`: `xy` or `xyxy` of an item."""
    x = [value * size[0] / GRID for value in sure.expected[1::2]]
    y = [value * size[1] / GRID for value in sure.expected[0::2]]
    return {"xy": (x[0], y[0])} if len(x) == 1 else {"xyxy": (min(x), min(y), max(x), max(y))}


def _moved(item: Detection, tile: Tile, size: tuple[int, int]) -> Detection:
    """An object of a tile, in the whole picture of `size` (width, height) pixels."""
    x1, y1, x2, y2 = item.xyxy
    xyxy = (x1 + tile.left, y1 + tile.top, x2 + tile.left, y2 + tile.top)
    top, left, bottom, right = (int(cell) for cell in from_pixels(xyxy, size))
    return replace(item, xyxy=xyxy, box_2d=(top, left, bottom, right))


def _size_of(tile: Tile) -> tuple[int, int]:
    return tile.right - tile.left, tile.bottom - tile.top


def _pixels(modalities: Collection[str], image: Any) -> NDArray[np.uint8]:
    if "image" not in modalities:
        raise RequestError("image: this model has no vision: it cannot take pictures")
    return load_image(image)


def _request(pixels: NDArray[np.uint8], question: str, options: GenerationArguments) -> Any:
    """A question about a picture; the answer is greedy."""
    content: list[dict[str, Any]] = [{"type": "image", "image": pixels}, {"type": "text", "text": question}]
    return request(content, {"temperature": 0, **options})
