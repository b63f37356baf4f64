"""What boxes and points have in common: an immutable sequence of items in one picture, that knows the picture's size.

Knows: the sequence, notebooks, JSON, tables. Must not know: how an answer was made, what an item looks like (its class
says where its numbers are).
"""

from __future__ import annotations

import html
import json
import math
import os
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from .. import boxes
from ..arguments import integer, number
from ..boxes import GRID
from ..errors import Gemma4Error, RequestError
from ..extras import extra
from ..replacing import write_whole
from .files import Fields, parse_json, read_text
from .kept import PREVIEW_SIDE, Kept, Preview, as_kept, opened, pixels_of

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Results", "place_of", "settle"]


class Labelled(Protocol):
    """An item: where it is in the picture is its class's to say."""

    @property
    def label(self) -> str: ...
    @property
    def score(self) -> float: ...


Item = TypeVar("Item", bound=Labelled)
Self = TypeVar("Self", bound="Results[Any]")


class Results(Sequence[Item], Generic[Item]):
    """See :class:`gemma4.Detections` and :class:`gemma4.Points`."""

    __slots__ = ("_items", "_kept", "image_size", "raw_text")

    image_size: tuple[int, int]
    raw_text: str
    _items: tuple[Item, ...]
    _kept: Kept | None

    _ITEM: ClassVar[type]
    _NAME: ClassVar[str]
    """Under which JSON has the items."""
    _KEY: ClassVar[str]
    """Under which an answer has the numbers of an item: its field on the grid."""
    _PIXELS: ClassVar[str]
    """Its field in pixels."""
    _COLUMNS: ClassVar[tuple[str, ...]]
    """The pixels in a table."""

    def __init__(
        self, items: Iterable[Item], image_size: tuple[int, int], raw_text: str = "", image: Any = None
    ) -> None:
        """Collect ``items`` of a picture of ``image_size`` (width, height) pixels.

        ``image`` is the picture, to be shown in notebooks and drawn on: a path, or a ``PIL.Image``, which is kept with
        all its pixels; ``raw_text`` the model's answer.
        """
        width, height = boxes.checked_size(image_size)
        kept = tuple(items)
        for index, item in enumerate(kept):
            if not isinstance(item, self._ITEM):
                raise RequestError(f"item {index}: expected {self._ITEM.__name__}, found {type(item).__name__}")
        size = (int(width), int(height))
        for name, value in (("_items", kept), ("image_size", size), ("raw_text", raw_text), ("_kept", as_kept(image))):
            object.__setattr__(self, name, value)

    @classmethod
    def _from_grid(cls, label: str, grid: Sequence[int], size: tuple[int, int], score: float) -> Any:
        """An item of an answer, in the pixels of a picture."""
        raise NotImplementedError

    @classmethod
    def _from_pixels(cls, label: str, pixels: Sequence[float], size: tuple[int, int], score: float) -> Any:
        """An item at pixels of a picture, on the grid."""
        raise NotImplementedError

    # -- made from

    @classmethod
    def from_answer(
        cls: type[Self],
        text: str,
        image_size: tuple[int, int],
        scores: Sequence[float] | None = None,
        image: Any = None,
    ) -> Self:
        """What a model's answer names, as :func:`gemma4.boxes.parse` and :func:`gemma4.boxes.parse_points` read it.

        ``scores`` are their probabilities in the same order; ``image`` is as in the constructor.

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
        image: Any = None,
    ) -> Self:
        """As :meth:`from_answer`, of an answer that is parsed already."""
        if scores is not None and len(scores) != len(places):
            raise RequestError(f"{len(scores)} scores for {len(places)} objects")
        sure = [1.0] * len(places) if scores is None else [float(score) for score in scores]
        found = (
            cls._from_grid(place.item["label"], place.item[cls._KEY], image_size, score)
            for place, score in zip(places, sure, strict=True)
        )
        return cls(found, image_size, text, image)

    @classmethod
    def from_dicts(cls: type[Self], dicts: Iterable[Mapping[str, Any]], image_size: tuple[int, int]) -> Self:
        """Of what :meth:`to_dicts` gives. The place may be in pixels, on the grid, or both; without a score it is 1.

        Raises:
            RequestError: names the item and the field that is wrong, missing or unknown.
        """
        return cls((cls._from_fields(d, image_size, f"item {i}") for i, d in enumerate(dicts)), image_size)

    @classmethod
    def _from_fields(cls, value: Any, size: tuple[int, int], where: str) -> Any:
        fields = Fields(dict(value) if isinstance(value, Mapping) else value, where)
        known = ("label", "score", cls._KEY, cls._PIXELS)
        for name in fields:
            if name not in known:
                raise RequestError(f"{where}: {str(name)[:40]}: unknown field (known: {', '.join(known)})")
        label, score = fields.text("label"), fields.number("score") if "score" in fields else 1.0
        count = len(cls._COLUMNS)
        try:
            if cls._PIXELS not in fields:
                if cls._KEY not in fields:
                    raise fields.wrong(cls._PIXELS, f"{count} numbers")
                return cls._from_grid(label, fields.get(cls._KEY), size, score)
            found = cls._from_pixels(label, fields.numbers(cls._PIXELS, count), size, score)
            if cls._KEY not in fields:
                return found
            return cls._ITEM(label, tuple(fields.get(cls._KEY)), getattr(found, cls._PIXELS), score)
        except (RequestError, TypeError) as error:
            raise error if str(error).startswith(where) else RequestError(f"{where}: {error}") from None

    @classmethod
    def from_json(cls: type[Self], text: str) -> Self:
        """Of what :meth:`to_json` gives. Raises RequestError for anything else."""
        return cls._from_json(text, cls.__name__)

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str]) -> Self:
        """Of the file that :meth:`save` wrote. Raises RequestError naming the file and what is wrong in it."""
        return cls._from_json(read_text(path), os.fspath(path))

    @classmethod
    def _from_json(cls: type[Self], text: str, where: str) -> Self:
        fields = Fields(parse_json(text, where), where)
        known = ("image_size", "raw_text", "image", cls._NAME)
        for name in fields:
            if name not in known:
                raise RequestError(f"{where}: {name[:40]}: unknown field (known: {', '.join(known)})")
        width, height = fields.numbers("image_size", 2)
        if min(width, height) < 1 or not width.is_integer() or not height.is_integer():
            raise fields.wrong("image_size", "a width and a height of whole pixels")
        size = (int(width), int(height))
        items = [cls._from_fields(v, size, f"{where}: {cls._NAME}[{i}]") for i, v in enumerate(fields.items(cls._NAME))]
        raw_text = fields.text("raw_text") if "raw_text" in fields else ""
        return cls(items, size, raw_text, fields.text("image") if "image" in fields else None)

    # -- the picture

    @property
    def image(self) -> str | Image | None:
        """The picture to draw on, if there is one: its path, or the ``PIL.Image`` that was kept."""
        return None if isinstance(self._kept, Preview) else self._kept

    def _picture(self, image: Any = None) -> Image:
        """A new RGB picture with the shape of the one that was searched: ``image``, or the one that was kept.

        Raises:
            RequestError: there is none, or it has another shape.
            MediaError: it cannot be read.
        """
        source = self.image if image is None else image
        if source is None:
            raise RequestError("no picture was kept; pass it, for example found.draw(image)")
        picture = pixels_of(source)
        if not self._has_shape(picture.size):
            (width, height), (across, down) = self.image_size, picture.size
            raise RequestError(f"the picture has {across} x {down} pixels, the one searched {width} x {height}")
        return picture

    def _has_shape(self, size: tuple[int, int]) -> bool:
        (width, height), (across, down) = self.image_size, size
        # A resized picture is off by up to half a pixel a side.
        return abs(width * down - height * across) <= 0.5 * (width + height) + 0.01 * width * down

    # -- the sequence

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; make a new one to change {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; {name} cannot be deleted")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._items, self.image_size, self.raw_text, self._kept)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Item: ...
    @overload
    def __getitem__(self: Self, index: slice | Sequence[int] | Sequence[bool] | NDArray[Any]) -> Self: ...
    def __getitem__(self, index: Any) -> Any:
        """One item; or those of a slice, of a list or an array of indices, or of one of booleans, as NumPy does it."""
        if isinstance(index, slice):
            return self.with_items(self._items[index])
        if isinstance(index, int | np.integer) and not isinstance(index, bool):
            return self._items[index]
        chosen = np.asarray(index)
        if chosen.ndim == 1 and not len(chosen):
            chosen = chosen.astype(np.int64)
        if chosen.ndim != 1 or chosen.dtype.kind not in "biu":
            raise RequestError("an index must be an integer, a slice, or one-dimensional integers or booleans")
        if chosen.dtype.kind == "b":
            if len(chosen) != len(self) and len(np.asarray(index)):
                raise RequestError(f"an index of {len(chosen)} booleans for {len(self)} items")
            chosen = np.flatnonzero(chosen)
        return self.with_items(self._items[position] for position in chosen.tolist())

    def __add__(self: Self, other: object) -> Self:
        """What both found in the same picture, one after the other."""
        if not isinstance(other, type(self)):
            return NotImplemented
        if self.image_size != other.image_size:
            sizes = " and ".join(f"{width} x {height}" for width, height in (self.image_size, other.image_size))
            raise RequestError(f"results of pictures of different sizes cannot be added: {sizes} pixels")
        texts = dict.fromkeys(text for text in (self.raw_text, other.raw_text) if text)
        kept = other._kept if self._kept is None else self._kept
        return type(self)((*self._items, *other._items), self.image_size, "\n".join(texts), kept)

    def __eq__(self, other: object) -> bool:
        """Whether label, place and score of all items and the size of the picture are the same."""
        if not isinstance(other, type(self)):
            return NotImplemented
        return (self._items, self.image_size) == (other._items, other.image_size)

    def __hash__(self) -> int:
        return hash((self._items, self.image_size))

    def with_items(self: Self, items: Iterable[Any]) -> Self:
        """Other items in the same picture, of the same answer."""
        return type(self)(items, self.image_size, self.raw_text, self._kept)

    def filter(self: Self, label: str | Iterable[str] | None = None, min_score: float | None = None) -> Self:
        """Those with this label, or one of these, and at least this score."""
        wanted = None if label is None else {label} if isinstance(label, str) else set(label)
        least = -math.inf if min_score is None else float(min_score)
        if math.isnan(least):
            raise RequestError("min_score is NaN")
        return self.with_items(i for i in self._items if (wanted is None or i.label in wanted) and i.score >= least)

    def sort(self: Self, by: str = "score", descending: bool | None = None) -> Self:
        """In the order of a column of :meth:`to_pandas`, or of their `"area"`; equal ones stay as they are.

        ``descending`` is True for scores and areas unless it is given, else False. Raises RequestError for other names.

        >>> from gemma4 import Detections
        >>> found = Detections.from_xyxy([("b", [0, 0, 9, 9]), ("a", [0, 0, 5, 5])], (10, 10))
        >>> found.sort("label").labels, found.sort("area").labels
        (['a', 'b'], ['b', 'a'])
        """
        orders = self._orders()
        if by not in orders:
            raise RequestError(f"by: expected one of {', '.join(orders)}, found {str(by)[:40]!r}")
        down = by in ("score", "area") if descending is None else descending
        keys = orders[by]
        order = sorted(range(len(self)), key=keys.__getitem__, reverse=down)  # stable in both directions
        return self.with_items(self._items[position] for position in order)

    def _orders(self) -> dict[str, list[Any]]:
        """What items can be sorted by."""
        columns = zip(*(getattr(item, self._PIXELS) for item in self._items), strict=True) if self._items else ()
        pixels = dict(zip(self._COLUMNS, map(list, columns), strict=False)) or {name: [] for name in self._COLUMNS}
        return {"score": [i.score for i in self._items], "label": self.labels, **pixels}

    @property
    def labels(self) -> list[str]:
        """The label of each item."""
        return [item.label for item in self._items]

    @property
    def scores(self) -> NDArray[np.float32]:
        """(n,) float32 probabilities."""
        return np.array([item.score for item in self._items], dtype=np.float32)

    # -- to text and tables

    def to_dicts(self) -> list[dict[str, Any]]:
        """A dict with label, grid, pixels and score of each item, ready for JSON.

        >>> from gemma4 import Detections
        >>> Detections.from_xyxy([("cat", [10, 20, 40, 60])], (100, 100)).to_dicts()
        [{'label': 'cat', 'box_2d': [200, 100, 600, 400], 'xyxy': [10.0, 20.0, 40.0, 60.0], 'score': 1.0}]
        """
        places = (self._KEY, self._PIXELS)
        return [
            {"label": i.label, **{name: list(getattr(i, name)) for name in places}, "score": i.score}
            for i in self._items
        ]

    def to_json(self, indent: int | None = None) -> str:
        """One JSON object with all items, the picture's size and, if it was kept, its path; see :meth:`from_json`.

        The answer's text is in it, the pixels of a picture are not.
        """
        kept = {"image": self._kept} if isinstance(self._kept, str) else {}
        value = {"image_size": list(self.image_size), **kept, "raw_text": self.raw_text, self._NAME: self.to_dicts()}
        return json.dumps(value, ensure_ascii=False, indent=indent)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json` to a file, which appears when it is complete. Raises OSError where it cannot be."""
        write_whole(path, self.to_json(indent=1) + "\n")

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each item: label, score, its pixels, and the place on the grid.

        Raises:
            ImportError: pandas is missing.
        """
        names, rows = self._table()
        return extra("pandas", "data").DataFrame(rows, columns=names)

    def to_arrow(self) -> Any:
        """A ``pyarrow.Table`` with the columns of :meth:`to_pandas`: string, doubles, and lists of int16 of fixed size.

        Raises:
            ImportError: pyarrow is missing.
        """
        pyarrow = extra("pyarrow", "data")
        numbers = {name: pyarrow.float64() for name in ("score", *self._COLUMNS)}
        grid = pyarrow.list_(pyarrow.int16(), len(self._COLUMNS))
        schema = pyarrow.schema({"label": pyarrow.string(), **numbers, self._KEY: grid})
        names, rows = self._table()
        return pyarrow.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=schema)

    def _table(self) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The columns' names, and a row for each item."""
        rows = [(i.label, i.score, *getattr(i, self._PIXELS), list(getattr(i, self._KEY))) for i in self._items]
        return ["label", "score", *self._COLUMNS, self._KEY], rows

    # -- for people

    def _drawn(self, picture: Image, **style: Any) -> Image:
        """An RGB picture, which may be changed, with all items on it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        width, height = self.image_size
        name = f"{type(self).__name__}({len(self)} in {width} x {height} pixels"
        rows = [
            f"  {index}: {item.label!r} at [{_pixels(getattr(item, self._PIXELS))}], score {item.score:.2f}"
            for index, item in enumerate(self._items[:20])
        ]
        if len(self) > 20:
            rows.append(f"  ... and {len(self) - 20} more")
        return name + ("):\n" + "\n".join(rows) if rows else ")")

    def _shown(self) -> Image | None:
        """The picture with its items, small; None where there is none, or where its file is gone or another one."""
        if self._kept is None:
            return None
        from PIL import Image

        try:
            picture = pixels_of(opened(self._kept))
        except Gemma4Error:  # a notebook shows the table then
            return None
        if not isinstance(self._kept, Preview) and not self._has_shape(picture.size):
            return None
        picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
        return self._drawn(picture)

    def _repr_png_(self) -> bytes | None:
        picture = self._shown()
        return None if picture is None else _file(picture, "PNG")

    def _repr_html_(self) -> str:
        # A notebook prefers HTML to PNG, so the picture has to be in it as well, in few bytes: notebooks are stored.
        shown, picture = self._shown(), ""
        if shown is not None:
            kind, data = min(
                (("png", _file(shown, "PNG")), ("jpeg", _file(shown, "JPEG", quality=90))), key=lambda one: len(one[1])
            )
            source = f"data:image/{kind};base64,{b64encode(data).decode()}"
            width, height = self.image_size
            said = f"{len(self)} {self._NAME} in {width} x {height} pixels"
            picture = f'<img src="{source}" alt="{said}" style="max-width:100%">'
        head = "<tr><th></th><th>label</th><th>score</th><th>pixels</th></tr>"
        rows = "".join(
            f"<tr><td>{index}</td><td>{html.escape(item.label)}</td><td>{item.score:.2f}</td>"
            f"<td>{_pixels(getattr(item, self._PIXELS))}</td></tr>"
            for index, item in enumerate(self._items)
        )
        return (
            f"<div>{picture}<table>{head}{rows}</table></div>" if rows else f"<div>{picture}<p>nothing found</p></div>"
        )


def settle(item: Any, grid: str, pixels: str, count: int) -> None:
    """Check the fields of an item and give them their types, whatever arrays and NumPy numbers they came as.

    Raises:
        RequestError: names the label and the field.
    """
    if not isinstance(item.label, str):
        raise RequestError(f"label: expected a string, found {type(item.label).__name__}")
    name = f"{item.label[:40]!r}"
    made: dict[str, Any] = {"score": number(f"the score of {name}", item.score, 0, 1)}
    for field in (grid, pixels):
        where, values = f"{field} of {name}", getattr(item, field)
        if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != count:
            raise RequestError(f"{where}: expected {count} numbers, found {boxes.shown(values)}")
        if field == grid:
            made[field] = tuple(integer(where, value, 0, GRID) for value in values)
        else:
            made[field] = tuple(number(where, value, -math.inf, math.inf) for value in values)
    for field, value in made.items():
        object.__setattr__(item, field, value)


def place_of(values: Any, name: str, count: int) -> tuple[Any, ...]:
    """So many numbers. Raises RequestError for anything else."""
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.zeros(0)
    if array.shape != (count,) or array.dtype.kind not in "iuf":
        raise RequestError(f"{name}: expected {count} numbers, found {boxes.shown(values)}")
    return tuple(array.tolist())


def _file(picture: Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _pixels(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)
