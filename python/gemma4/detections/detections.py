"""What :meth:`gemma4.Model.detect` returns: the objects found in one picture.

Knows: boxes, how to draw them and choose among them. Must not know: how an answer was made; what other packages take is
in `interchange`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import boxes
from ..arguments import flag, number
from ..errors import RequestError
from . import interchange
from .results import Results, place_of, settle

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Detection", "Detections"]


@dataclass(frozen=True)
class Detection:
    """One object in a picture.

    ``box_2d`` is ``(y1, x1, y2, x2)`` on the grid 0-1000, ``xyxy`` is ``(x1, y1, x2, y2)`` in pixels of the picture,
    ``score`` a probability, 1.0 when the answer came without. Lists and arrays become tuples.

    Raises:
        RequestError: a number of another type or range, or an inverted box.
    """

    label: str
    box_2d: tuple[int, int, int, int]
    xyxy: tuple[float, float, float, float]
    score: float = 1.0

    def __post_init__(self) -> None:
        settle(self, "box_2d", "xyxy", 4)
        for name in ("box_2d", "xyxy"):
            first, second, third, fourth = getattr(self, name)
            if third < first or fourth < second:
                raise RequestError(f"{name} of {self.label[:40]!r}: {getattr(self, name)} is inverted")


class Detections(Results[Detection]):
    """The objects found in one picture, in the order of the answer.

    >>> found = Detections.from_answer('[{"box_2d": [100, 200, 500, 600], "label": "cat"}]', image_size=(2000, 1000))
    >>> found[0].label, found[0].xyxy
    ('cat', (400.0, 100.0, 1200.0, 500.0))
    >>> found.xyxy.shape, len(found.filter("dog")), len(found[found.scores > 0.5])
    ((1, 4), 0, 1)
    """

    __slots__ = ()

    _ITEM, _NAME, _KEY, _PIXELS = Detection, "detections", "box_2d", "xyxy"
    _COLUMNS = ("x1", "y1", "x2", "y2")

    @classmethod
    def _from_grid(cls, label: str, grid: Sequence[int], size: tuple[int, int], score: float) -> Detection:
        y1, x1, y2, x2 = place_of(grid, cls._KEY, 4)
        left, top, right, bottom = (float(pixel) for pixel in boxes.to_pixels(grid, size))
        return Detection(label, (y1, x1, y2, x2), (left, top, right, bottom), score)

    @classmethod
    def _from_pixels(cls, label: str, pixels: Sequence[float], size: tuple[int, int], score: float) -> Detection:
        y1, x1, y2, x2 = (int(cell) for cell in boxes.from_pixels(place_of(pixels, cls._PIXELS, 4), size))
        left, top, right, bottom = (float(pixel) for pixel in pixels)
        return Detection(label, (y1, x1, y2, x2), (left, top, right, bottom), score)

    @classmethod
    def from_xyxy(cls, pairs: Iterable[tuple[str, Sequence[float]]], image_size: tuple[int, int]) -> Detections:
        """Objects given as ``(label, [x1, y1, x2, y2])`` in pixels, such as the truth of a test.

        Raises:
            RequestError: a box outside the picture or inverted.

        >>> Detections.from_xyxy([("cat", [400, 100, 1200, 500])], image_size=(2000, 1000))[0].box_2d
        (100, 200, 500, 600)
        """
        return cls((cls._from_pixels(label, xyxy, image_size, 1.0) for label, xyxy in pairs), image_size)

    @property
    def xyxy(self) -> NDArray[np.float32]:
        """(n, 4) float32 ``[x1, y1, x2, y2]`` in pixels of the picture."""
        return np.array([item.xyxy for item in self._items], dtype=np.float32).reshape(-1, 4)

    @property
    def box_2d(self) -> NDArray[np.int64]:
        """(n, 4) int64 ``[y1, x1, y2, x2]`` on the grid 0-1000."""
        return np.array([item.box_2d for item in self._items], dtype=np.int64).reshape(-1, 4)

    def nms(self, iou: float = 0.5, class_agnostic: bool = False) -> Detections:
        """Without the boxes that overlap a surer one of the same label by more than ``iou``; the order stays.

        Of equal scores the first counts as surer. ``class_agnostic`` compares boxes of all labels. Raises RequestError
        for an ``iou`` that is not from 0 to 1.

        >>> pairs = [("cat", [0, 0, 9, 9]), ("cat", [0, 0, 9, 8]), ("dog", [0, 0, 9, 9])]
        >>> found = Detections.from_xyxy(pairs, image_size=(10, 10))
        >>> found.nms().labels, found.nms(class_agnostic=True).labels
        (['cat', 'dog'], ['cat'])
        """
        most, together = number("iou", iou, 0, 1), flag("class_agnostic", class_agnostic)
        pixels = np.array([item.xyxy for item in self._items], dtype=np.float64).reshape(-1, 4)
        groups = np.zeros(len(self), int) if together else np.unique(self.labels, return_inverse=True)[1]
        scores = np.array([item.score for item in self._items], dtype=np.float64)
        rest = np.argsort(-scores, kind="stable")
        kept: list[int] = []
        while len(rest):
            best, rest = int(rest[0]), rest[1:]
            kept.append(best)
            rivals = groups[rest] == groups[best]
            rivals[rivals] = boxes.iou(pixels[best], pixels[rest[rivals]]) > most
            rest = rest[~rivals]
        return self.with_items(self._items[position] for position in sorted(kept))

    def _orders(self) -> dict[str, list[Any]]:
        areas = [(i.xyxy[2] - i.xyxy[0]) * (i.xyxy[3] - i.xyxy[1]) for i in self._items]
        return {**super()._orders(), "area": areas}

    def crop(self, image: Any = None) -> list[Image]:
        """What is inside each box, as new RGB pictures: edges rounded to whole pixels, at least one of them.

        Args:
            image: as in :meth:`draw`; of another size than the picture that was searched, the boxes are scaled to it.

        Raises:
            RequestError: there is no picture, or it has another shape.
            MediaError: the picture cannot be read.
        """
        if not len(self):
            return []
        picture = self._picture(image)
        scale = [ours / theirs for ours, theirs in zip(picture.size, self.image_size, strict=True)] * 2
        crops = []
        for item in self._items:
            x1, y1, x2, y2 = (round(pixel * factor) for pixel, factor in zip(item.xyxy, scale, strict=True))
            left, top = min(max(x1, 0), picture.width - 1), min(max(y1, 0), picture.height - 1)
            right, bottom = min(max(x2, left + 1), picture.width), min(max(y2, top + 1), picture.height)
            crops.append(picture.crop((left, top, right, bottom)))
        return crops

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
            image: whatever :meth:`gemma4.Model.detect` takes as a picture; without it the file that was searched, where
                it was a path. It may be smaller or larger than what was searched, but must have its shape.
            line_width, font_size: in pixels; without them they follow the picture's size.
            font: a ``PIL.ImageFont``, or a path to a font file, for labels that Pillow's own font cannot write.
            show_scores: write the score behind the label.
            colors: colour of a label, as Pillow takes colours, where it should not be the usual one.

        Raises:
            RequestError: there is no picture, or it has another shape.
            MediaError: the picture cannot be read.
        """
        style = {"line_width": line_width, "font_size": font_size, "font": font, "show_scores": show_scores}
        return self._drawn(self._picture(image), **style, colors=dict(colors or {}))

    def _drawn(self, picture: Image, **style: Any) -> Image:
        from .drawing import Style, draw_boxes

        return draw_boxes(picture, self, Style(**style))

    # -- what other packages take

    def to_supervision(self, classes: Sequence[str] | None = None) -> Any:
        """``supervision.Detections`` with ``class_id`` an index into ``classes``.

        Without ``classes`` it is an index into this picture's sorted labels, which other pictures do not share.

        Raises:
            RequestError: a label is not among ``classes``.
            ImportError: supervision is missing.
        """
        return interchange.to_supervision(self, classes)

    def to_coco(
        self, image_id: int = 0, categories: Mapping[str, int] | Sequence[Any] | None = None
    ) -> list[dict[str, Any]]:
        """COCO results, ``[{"image_id", "category_id", "bbox": [x, y, width, height], "score"}]`` in pixels.

        ``categories`` maps labels to ids, or lists names (ids from 1) or COCO's own ``{"id", "name"}``; without it the
        picture's sorted labels count from 1. :func:`gemma4.detections.save_coco` writes a file of many pictures.

        Raises:
            RequestError: a label is not among ``categories``.

        >>> Detections.from_xyxy([("cat", [10, 20, 40, 60])], (100, 100)).to_coco(7, ["cat"])
        [{'image_id': 7, 'category_id': 1, 'bbox': [10.0, 20.0, 30.0, 40.0], 'score': 1.0}]
        """
        return interchange.to_coco(self, image_id, categories)

    def to_hf(self) -> list[dict[str, Any]]:
        """What a transformers object detection pipeline returns: whole pixels, cut off as it does it, best score first.

        >>> Detections.from_xyxy([("cat", [10, 20, 40, 60])], (100, 100)).to_hf()
        [{'score': 1.0, 'label': 'cat', 'box': {'xmin': 10, 'ymin': 20, 'xmax': 40, 'ymax': 60}}]
        """
        return interchange.to_hf(self)

    def to_bbox_2d(self) -> list[dict[str, Any]]:
        """``[{"bbox_2d": [x1, y1, x2, y2], "label"}]`` in pixels, x first, as Qwen2.5-VL answers; its JSON is what
        grounding tasks of lmms-eval read.

        >>> Detections.from_xyxy([("cat", [10, 20, 40, 60])], (100, 100)).to_bbox_2d()
        [{'bbox_2d': [10.0, 20.0, 40.0, 60.0], 'label': 'cat'}]
        """
        return [{"bbox_2d": list(item.xyxy), "label": item.label} for item in self._items]

    def to_fiftyone(self) -> Any:
        """``fiftyone.Detections``: boxes ``[x, y, width, height]`` relative to the picture, the score as confidence.

        Raises:
            ImportError: fiftyone is missing.
        """
        return interchange.boxes_to_fiftyone(self)

    def to_label_studio(self, from_name: str = "label", to_name: str = "image") -> dict[str, Any]:
        """A prediction of Label Studio with a rectangle for each object, in percent of the picture.

        Args:
            from_name: of the ``RectangleLabels`` in the labelling configuration.
            to_name: of the ``Image`` there.

        >>> found = Detections.from_xyxy([("cat", [10, 20, 40, 60])], (100, 200))
        >>> found.to_label_studio()["result"][0]["value"]
        {'x': 10.0, 'y': 10.0, 'width': 30.0, 'height': 20.0, 'rotation': 0, 'rectanglelabels': ['cat']}
        """
        return interchange.boxes_to_label_studio(self, from_name, to_name)
