"""What :meth:`gemma4.Model.detect` and :meth:`gemma4.Model.point` return.

Immutable sequences of :class:`Detection` and :class:`Point` that know the size of their picture, give their figures as
NumPy arrays, draw themselves, and turn into the forms that other packages take. Nothing here knows how an answer was
made; pandas and supervision are imported only when asked for.
"""

from __future__ import annotations

import html
import importlib
import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from .. import boxes
from ..boxes import GRID
from ..errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Detection", "Detections", "Point", "Points"]

_NOTEBOOK_SIDE = 800  # pixels of the longer side of the picture that a notebook shows


@dataclass(frozen=True)
class Detection:
    """One object in a picture.

    ``box_2d`` is ``(y1, x1, y2, x2)`` on the grid 0-1000, ``xyxy`` is ``(x1, y1, x2, y2)`` in pixels of the picture,
    ``score`` a probability, 1.0 when the answer came without.
    """

    label: str
    box_2d: tuple[int, int, int, int]
    xyxy: tuple[float, float, float, float]
    score: float = 1.0


@dataclass(frozen=True)
class Point:
    """One place in a picture: ``point`` is ``(y, x)`` on the grid 0-1000, ``xy`` is ``(x, y)`` in pixels."""

    label: str
    point: tuple[int, int]
    xy: tuple[float, float]
    score: float = 1.0


Item = TypeVar("Item", Detection, Point)
Self = TypeVar("Self", bound="_Results[Any]")


class _Results(Sequence[Item], Generic[Item]):
    """What boxes and points have in common: an immutable sequence of items in one picture."""

    __slots__ = ("_image", "_items", "image_size", "raw_text")

    image_size: tuple[int, int]
    raw_text: str
    _items: tuple[Item, ...]
    _image: Image | Callable[[], Image] | None

    def __init__(
        self,
        items: Iterable[Item],
        image_size: tuple[int, int],
        raw_text: str = "",
        image: Image | Callable[[], Image] | None = None,
    ) -> None:
        """Collect ``items`` of a picture of ``image_size`` (width, height) pixels.

        ``image`` is the picture, or a function that gives it when it is first needed; ``raw_text`` the model's answer.
        """
        size = _image_size(image_size)
        kept = tuple(items)
        for item in kept:
            if not 0 <= item.score <= 1:
                raise RequestError(f"the score of {item.label!r} must be from 0 to 1, not {item.score}")
        for name, value in (("_items", kept), ("image_size", size), ("raw_text", raw_text), ("_image", image)):
            object.__setattr__(self, name, value)

    _KEY: ClassVar[str]
    """Under which an answer has the numbers of an item."""

    @staticmethod
    def _placed(item: Mapping[str, Any], size: tuple[int, int], score: float) -> Any:
        """An item of an answer, in the pixels of a picture."""
        raise NotImplementedError

    @classmethod
    def from_answer(
        cls: type[Self],
        text: str,
        image_size: tuple[int, int],
        scores: Sequence[float] | None = None,
        image: Image | Callable[[], Image] | None = None,
    ) -> Self:
        """What a model's answer names, as :func:`gemma4.boxes.parse` and :func:`gemma4.boxes.parse_points` read it.

        ``scores`` are their probabilities in the same order; ``image`` is kept for drawing.

        Raises:
            DetectionParseError: the answer holds nothing of the kind that can be read.
            RequestError: not one score for each.
        """
        return cls.from_places(boxes.parse_places(text, cls._KEY), text, image_size, scores, image)

    @classmethod
    def from_places(
        cls: type[Self],
        places: Sequence[boxes.Place],
        text: str,
        image_size: tuple[int, int],
        scores: Sequence[float] | None = None,
        image: Image | Callable[[], Image] | None = None,
    ) -> Self:
        """As :meth:`from_answer`, of an answer that is parsed already."""
        found = [cls._placed(place.item, image_size, score) for place, score in _scored(places, scores)]
        return cls(found, image_size, text, image)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; make a new one to change {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; {name} cannot be deleted")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._items, self.image_size, self.raw_text, self.image)

    @property
    def image(self) -> Image | None:
        """The picture, if it was kept; a copy is not made."""
        image = self._image
        if callable(image):
            image = image()
            object.__setattr__(self, "_image", image)
        return image

    @property
    def labels(self) -> list[str]:
        """The label of each item."""
        return [item.label for item in self._items]

    @property
    def scores(self) -> NDArray[np.float32]:
        """(n,) float32 probabilities."""
        return np.array([item.score for item in self._items], dtype=np.float32)

    def filter(self: Self, label: str | Iterable[str] | None = None, min_score: float | None = None) -> Self:
        """Those with this label, or one of these, and at least this score."""
        wanted = None if label is None else {label} if isinstance(label, str) else set(label)
        least = -math.inf if min_score is None else float(min_score)
        if math.isnan(least):
            raise RequestError("min_score is NaN")
        return self._with(i for i in self._items if (wanted is None or i.label in wanted) and i.score >= least)

    def _with(self: Self, items: Iterable[Any]) -> Self:
        return type(self)(items, self.image_size, self.raw_text, self._image)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self: Self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._with(self._items[index]) if isinstance(index, slice) else self._items[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return (self._items, self.image_size) == (other._items, other.image_size)

    def __hash__(self) -> int:
        return hash((self._items, self.image_size))

    def __repr__(self) -> str:
        width, height = self.image_size
        name = f"{type(self).__name__}({len(self)} in {width} x {height} pixels"
        rows = [f"  {index}: {_described(item)}" for index, item in enumerate(self._items[:20])]
        if len(self) > 20:
            rows.append(f"  ... and {len(self) - 20} more")
        return name + ("):\n" + "\n".join(rows) if rows else ")")

    def _repr_png_(self) -> bytes | None:
        if self.image is None:
            return None
        from PIL import Image

        from .drawing import as_rgb

        picture = as_rgb(self.image)
        picture.thumbnail((_NOTEBOOK_SIDE, _NOTEBOOK_SIDE), Image.Resampling.LANCZOS)
        file = BytesIO()
        self.draw(picture).save(file, "PNG")  # type: ignore[attr-defined]
        return file.getvalue()

    def _repr_html_(self) -> str:
        # A notebook prefers HTML to PNG, so the picture has to be in it as well.
        png = self._repr_png_()
        picture = f'<img src="data:image/png;base64,{b64encode(png).decode()}" style="max-width:100%">' if png else ""
        head = "<tr><th></th><th>label</th><th>score</th><th>pixels</th></tr>"
        rows = "".join(
            f"<tr><td>{index}</td><td>{html.escape(item.label)}</td><td>{item.score:.2f}</td>"
            f"<td>{', '.join(f'{number:.1f}' for number in _pixels(item))}</td></tr>"
            for index, item in enumerate(self._items)
        )
        return (
            f"<div>{picture}<table>{head}{rows}</table></div>" if rows else f"<div>{picture}<p>nothing found</p></div>"
        )


class Detections(_Results[Detection]):
    """The objects found in one picture, in the order of the answer.

    >>> found = Detections.from_answer('[{"box_2d": [100, 200, 500, 600], "label": "cat"}]', image_size=(2000, 1000))
    >>> found[0].label, found[0].xyxy
    ('cat', (400.0, 100.0, 1200.0, 500.0))
    >>> found.xyxy.shape, len(found.filter("dog"))
    ((1, 4), 0)
    """

    __slots__ = ()

    _KEY = "box_2d"

    @staticmethod
    def _placed(item: Mapping[str, Any], size: tuple[int, int], score: float) -> Detection:
        y1, x1, y2, x2 = item["box_2d"]
        left, top, right, bottom = (float(pixel) for pixel in boxes.to_pixels(item["box_2d"], size))
        return Detection(item["label"], (y1, x1, y2, x2), (left, top, right, bottom), score)

    @classmethod
    def from_xyxy(cls, pairs: Iterable[tuple[str, Sequence[float]]], image_size: tuple[int, int]) -> Detections:
        """Objects given as ``(label, [x1, y1, x2, y2])`` in pixels, such as the truth of a test.

        Raises:
            RequestError: a box outside the picture or inverted.

        >>> Detections.from_xyxy([("cat", [400, 100, 1200, 500])], image_size=(2000, 1000))[0].box_2d
        (100, 200, 500, 600)
        """
        found = []
        for label, xyxy in pairs:
            y1, x1, y2, x2 = (int(cell) for cell in boxes.from_pixels(xyxy, image_size))
            left, top, right, bottom = (float(pixel) for pixel in xyxy)
            found.append(Detection(label, (y1, x1, y2, x2), (left, top, right, bottom)))
        return cls(found, image_size)

    @property
    def xyxy(self) -> NDArray[np.float32]:
        """(n, 4) float32 ``[x1, y1, x2, y2]`` in pixels of the picture."""
        return np.array([item.xyxy for item in self._items], dtype=np.float32).reshape(-1, 4)

    @property
    def box_2d(self) -> NDArray[np.int64]:
        """(n, 4) int64 ``[y1, x1, y2, x2]`` on the grid 0-1000."""
        return np.array([item.box_2d for item in self._items], dtype=np.int64).reshape(-1, 4)

    def draw(
        self,
        image: Any = None,
        *,
        line_width: int | None = None,
        font_size: int | None = None,
        font: Any = None,
        show_scores: bool = False,
        colors: Mapping[str, Any] | None = None,
    ) -> Image:
        """The picture with a frame and a label around each object, as a new RGB ``PIL.Image``.

        Args:
            image: a ``PIL.Image``, a path, or a uint8 array (height, width, 3); without it the picture that was kept.
                It may be smaller or larger than the one that was searched, but must have its shape.
            line_width, font_size: in pixels; without them they follow the picture's size.
            font: a ``PIL.ImageFont``, or a path to a font file, for labels that Pillow's own font cannot write.
            show_scores: write the score behind the label.
            colors: colour of a label, as Pillow takes colours, where it should not be the usual one.

        Raises:
            RequestError: there is no picture, or it has another shape.
            MediaError: the picture cannot be read.
        """
        from .drawing import Style, draw_boxes, picture_of

        style = Style(line_width, font_size, font, show_scores, dict(colors or {}))
        return draw_boxes(picture_of(self, image), self, style)

    def to_supervision(self, classes: Sequence[str] | None = None) -> Any:
        """``supervision.Detections`` with ``class_id`` an index into ``classes``.

        Without ``classes`` it is an index into this picture's sorted labels, which other pictures do not share.

        Raises:
            RequestError: a label is not among ``classes``.
            ImportError: supervision is missing.
        """
        supervision = _extra("supervision", "eval")
        names = sorted(set(self.labels)) if classes is None else list(classes)
        ids = [_number(label, {name: index for index, name in enumerate(names)}) for label in self.labels]
        return supervision.Detections(
            xyxy=self.xyxy,
            confidence=self.scores,
            class_id=np.array(ids, dtype=int),
            data={"class_name": np.array(self.labels, dtype=str)},
        )

    def to_coco(
        self, image_id: int = 0, categories: Mapping[str, int] | Sequence[Any] | None = None
    ) -> list[dict[str, Any]]:
        """COCO results, ``[{"image_id", "category_id", "bbox": [x, y, width, height], "score"}]`` in pixels.

        ``categories`` maps labels to ids, or lists names (ids from 1) or COCO's own ``{"id", "name"}``; without it the
        picture's sorted labels count from 1.

        Raises:
            RequestError: a label is not among ``categories``.

        >>> Detections.from_xyxy([("cat", [10, 20, 40, 60])], (100, 100)).to_coco(7, ["cat"])
        [{'image_id': 7, 'category_id': 1, 'bbox': [10.0, 20.0, 30.0, 40.0], 'score': 1.0}]
        """
        ids = _category_ids(sorted(set(self.labels)) if categories is None else categories)
        results = []
        for item in self._items:
            x1, y1, x2, y2 = item.xyxy
            bbox = [x1, y1, x2 - x1, y2 - y1]
            category = _number(item.label, ids)
            results.append({"image_id": image_id, "category_id": category, "bbox": bbox, "score": item.score})
        return results

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each object: label, score, x1, y1, x2, y2 in pixels, box_2d.

        Raises:
            ImportError: pandas is missing.
        """
        pandas = _extra("pandas", "data")
        rows = [(i.label, i.score, *i.xyxy, list(i.box_2d)) for i in self._items]
        return pandas.DataFrame(rows, columns=["label", "score", "x1", "y1", "x2", "y2", "box_2d"])

    def to_hf(self) -> list[dict[str, Any]]:
        """What a transformers object detection pipeline returns: whole pixels, the best score first.

        >>> Detections.from_xyxy([("cat", [10, 20, 40, 60])], (100, 100)).to_hf()
        [{'score': 1.0, 'label': 'cat', 'box': {'xmin': 10, 'ymin': 20, 'xmax': 40, 'ymax': 60}}]
        """
        names = ("xmin", "ymin", "xmax", "ymax")
        return [
            {"score": i.score, "label": i.label, "box": dict(zip(names, (round(n) for n in i.xyxy), strict=True))}
            for i in sorted(self._items, key=lambda item: -item.score)
        ]

    def to_dicts(self) -> list[dict[str, Any]]:
        """``[{"label", "box_2d", "xyxy", "score"}]``, ready for JSON.

        >>> Detections.from_xyxy([("cat", [10, 20, 40, 60])], (100, 100)).to_dicts()
        [{'label': 'cat', 'box_2d': [200, 100, 600, 400], 'xyxy': [10.0, 20.0, 40.0, 60.0], 'score': 1.0}]
        """
        return [{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(item).items()} for item in self._items]


class Points(_Results[Point]):
    """The places found in one picture, in the order of the answer.

    >>> points = Points.from_answer('[{"point": [500, 250], "label": "nose"}]', image_size=(200, 100))
    >>> points[0].xy
    (50.0, 50.0)
    """

    __slots__ = ()

    _KEY = "point"

    @staticmethod
    def _placed(item: Mapping[str, Any], size: tuple[int, int], score: float) -> Point:
        width, height = _image_size(size)
        y, x = item["point"]
        return Point(item["label"], (y, x), (x * width / GRID, y * height / GRID), score)

    @property
    def xy(self) -> NDArray[np.float32]:
        """(n, 2) float32 ``[x, y]`` in pixels of the picture."""
        return np.array([item.xy for item in self._items], dtype=np.float32).reshape(-1, 2)

    def draw(
        self,
        image: Any = None,
        *,
        font_size: int | None = None,
        font: Any = None,
        show_scores: bool = False,
        colors: Mapping[str, Any] | None = None,
    ) -> Image:
        """The picture with a dot and a label at each point; the arguments are those of :meth:`Detections.draw`."""
        from .drawing import Style, draw_points, picture_of

        return draw_points(picture_of(self, image), self, Style(None, font_size, font, show_scores, dict(colors or {})))


def _image_size(size: tuple[int, int]) -> tuple[int, int]:
    width, height = boxes.checked_size(size)
    return int(width), int(height)


def _scored(items: Sequence[Any], scores: Sequence[float] | None) -> list[tuple[Any, float]]:
    if scores is not None and len(scores) != len(items):
        raise RequestError(f"{len(scores)} scores for {len(items)} objects")
    return [(item, 1.0 if scores is None else float(scores[index])) for index, item in enumerate(items)]


def _pixels(item: Any) -> tuple[float, ...]:
    return item.xyxy if isinstance(item, Detection) else tuple(item.xy)


def _described(item: Any) -> str:
    return f"{item.label!r} at [{', '.join(f'{number:.1f}' for number in _pixels(item))}], score {item.score:.2f}"


def _category_ids(categories: Mapping[str, int] | Sequence[Any]) -> dict[str, int]:
    if isinstance(categories, Mapping):
        return dict(categories)
    try:
        return (
            {c["name"]: c["id"] for c in categories}
            if categories and isinstance(categories[0], Mapping)
            else {str(name): index for index, name in enumerate(categories, start=1)}
        )
    except KeyError as error:
        raise RequestError(f"a COCO category needs id and name; {error} is missing") from None


def _number(label: str, ids: Mapping[str, int]) -> int:
    if label not in ids:
        raise RequestError(f"the label {label!r} is not among {', '.join(map(repr, ids)) or 'the empty list given'}")
    return ids[label]


def _extra(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ImportError(f"{module} is not installed; run: pip install 'gemma4[{extra}]'", name=module) from None
