"""What :meth:`gemma4.Model.point` returns: places in one picture.

Knows: points, how to draw them. Must not know: how an answer was made; what other packages take is in `interchange`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import boxes
from ..boxes import GRID
from ..errors import RequestError
from . import interchange
from .results import Results, place_of, settle

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Point", "Points"]


@dataclass(frozen=True)
class Point:
    """One place in a picture: ``point`` is ``(y, x)`` on the grid 0-1000, ``xy`` is ``(x, y)`` in pixels.

    Raises:
        RequestError: a number of another type or range.
    """

    label: str
    point: tuple[int, int]
    xy: tuple[float, float]
    score: float = 1.0

    def __post_init__(self) -> None:
        settle(self, "point", "xy", 2)


class Points(Results[Point]):
    """The places found in one picture, in the order of the answer.

    >>> points = Points.from_answer('[{"point": [500, 250], "label": "nose"}]', image_size=(200, 100))
    >>> points[0].xy
    (50.0, 50.0)
    """

    __slots__ = ()

    _ITEM, _NAME, _KEY, _PIXELS = Point, "points", "point", "xy"
    _COLUMNS = ("x", "y")

    @classmethod
    def _from_grid(cls, label: str, grid: Sequence[int], size: tuple[int, int], score: float) -> Point:
        width, height = boxes.checked_size(size)
        y, x = place_of(grid, cls._KEY, 2)
        return Point(label, (y, x), (x * int(width) / GRID, y * int(height) / GRID), score)

    @classmethod
    def _from_pixels(cls, label: str, pixels: Sequence[float], size: tuple[int, int], score: float) -> Point:
        width, height = boxes.checked_size(size)
        x, y = (float(pixel) for pixel in place_of(pixels, cls._PIXELS, 2))
        if not (0 <= x <= width and 0 <= y <= height):
            raise RequestError(f"xy [{x:g}, {y:g}] lies outside the picture of {width:g} x {height:g} pixels")
        return Point(label, (round(y * GRID / height), round(x * GRID / width)), (x, y), score)

    @classmethod
    def from_xy(cls, pairs: Iterable[tuple[str, Sequence[float]]], image_size: tuple[int, int]) -> Points:
        """Places given as ``(label, [x, y])`` in pixels.

        Raises:
            RequestError: a place outside the picture.

        >>> Points.from_xy([("nose", [50, 50])], image_size=(200, 100))[0].point
        (500, 250)
        """
        return cls((cls._from_pixels(label, xy, image_size, 1.0) for label, xy in pairs), image_size)

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
        style = {"font_size": font_size, "font": font, "show_scores": show_scores}
        return self._drawn(self._picture(image), **style, colors=dict(colors or {}))

    def _drawn(self, picture: Image, **style: Any) -> Image:
        from .drawing import Style, draw_points

        return draw_points(picture, self, Style(**style))

    def to_fiftyone(self) -> Any:
        """``fiftyone.Keypoints``, one for each place, relative to the picture.

        Raises:
            ImportError: fiftyone is missing.
        """
        return interchange.points_to_fiftyone(self)

    def to_label_studio(self, from_name: str = "label", to_name: str = "image") -> dict[str, Any]:
        """A prediction of Label Studio with a key point for each place, in percent of the picture.

        ``from_name`` is that of the ``KeyPointLabels`` in the labelling configuration, ``to_name`` of the ``Image``.

        >>> points = Points.from_xy([("nose", [50, 50])], image_size=(200, 100))
        >>> points.to_label_studio()["result"][0]["value"]
        {'x': 25.0, 'y': 50.0, 'width': 0.5, 'keypointlabels': ['nose']}
        """
        return interchange.points_to_label_studio(self, from_name, to_name)
