"""Objects of one picture in the forms that other packages take.

Knows: those forms; labels, pixels and scores of whatever has them. Must not know: files (`coco`, `yolo`), drawing. A
package is imported when its form is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import RequestError
from ..extras import extra

__all__ = [
    "boxes_to_fiftyone", "boxes_to_label_studio", "category_ids", "category_of", "hf_object",
    "points_to_fiftyone", "points_to_label_studio", "to_coco", "to_hf", "to_supervision",
]  # fmt: skip

_POINT_WIDTH = 0.5  # percent: of a key point, as Label Studio draws its own


def to_supervision(found: Any, classes: Sequence[str] | None) -> Any:
    """See `Detections.to_supervision`."""
    supervision = extra("supervision", "eval")
    names = sorted(set(found.labels)) if classes is None else list(classes)
    index = {name: position for position, name in enumerate(names)}
    return supervision.Detections(
        xyxy=found.xyxy,
        confidence=found.scores,
        class_id=np.array([category_of(label, index) for label in found.labels], dtype=int),
        data={"class_name": np.array(found.labels, dtype=str)},
    )


def to_coco(found: Any, image_id: int, categories: Mapping[str, int] | Sequence[Any] | None) -> list[dict[str, Any]]:
    """See `Detections.to_coco`."""
    ids = category_ids(sorted(set(found.labels)) if categories is None else categories)
    return [
        {
            "image_id": image_id,
            "category_id": category_of(item.label, ids),
            "bbox": _xywh(item),
            "score": item.score,
        }
        for item in found
    ]


def to_hf(found: Any) -> list[dict[str, Any]]:
    """See `Detections.to_hf`."""
    return [hf_object(item) for item in sorted(found, key=lambda item: -float(item.score))]


def hf_object(item: Any) -> dict[str, Any]:
    """As transformers writes one: whole pixels, cut off rather than rounded."""
    corners = zip(("xmin", "ymin", "xmax", "ymax"), item.xyxy, strict=True)
    return {"score": float(item.score), "label": item.label, "box": {name: int(value) for name, value in corners}}


def boxes_to_fiftyone(found: Any) -> Any:
    """See `Detections.to_fiftyone`."""
    fiftyone = _fiftyone()
    return fiftyone.Detections(
        detections=[
            fiftyone.Detection(label=i.label, bounding_box=_share(_xywh(i), found, 1.0), confidence=i.score)
            for i in found
        ]
    )


def points_to_fiftyone(found: Any) -> Any:
    """See `Points.to_fiftyone`."""
    fiftyone = _fiftyone()
    return fiftyone.Keypoints(
        keypoints=[
            fiftyone.Keypoint(label=i.label, points=[tuple(_share(i.xy, found, 1.0))], confidence=[i.score])
            for i in found
        ]
    )


def boxes_to_label_studio(found: Any, from_name: str, to_name: str) -> dict[str, Any]:
    """See `Detections.to_label_studio`."""
    values = []
    for item in found:
        x, y, width, height = _share(_xywh(item), found, 100.0)
        shape = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
        values.append({**shape, "rectanglelabels": [item.label]})
    return _prediction(found, "rectanglelabels", values, (from_name, to_name))


def points_to_label_studio(found: Any, from_name: str, to_name: str) -> dict[str, Any]:
    """See `Points.to_label_studio`."""
    values = []
    for item in found:
        x, y = _share(item.xy, found, 100.0)
        values.append({"x": x, "y": y, "width": _POINT_WIDTH, "keypointlabels": [item.label]})
    return _prediction(found, "keypointlabels", values, (from_name, to_name))


def category_ids(categories: Mapping[str, int] | Sequence[Any]) -> dict[str, int]:
    """Label to id, of a mapping, of names (ids from 1), or of COCO's own `{"id", "name"}`.

    Raises:
        RequestError: anything else, or a name twice.
    """
    if isinstance(categories, Mapping):
        ids = {str(label): number for label, number in categories.items()}
    elif isinstance(categories, str):
        raise RequestError("categories: expected a list of names or a mapping to ids, found a string")
    else:
        ids = _ids_of(list(categories))
    for label, number in ids.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise RequestError(f"categories: {label!r}: expected an integer as its id, found {str(number)[:40]!r}")
    return {label: int(number) for label, number in ids.items()}


def _ids_of(given: list[Any]) -> dict[str, Any]:
    """Of names, or of COCO's own categories."""
    try:
        pairs = [(c["name"], c["id"]) if isinstance(c, Mapping) else (str(c), i) for i, c in enumerate(given, start=1)]
    except KeyError as error:
        raise RequestError(f"a COCO category needs id and name; {error} is missing") from None
    ids = dict(pairs)
    if len(ids) != len(pairs):
        raise RequestError("categories: a name is given twice")
    return ids


def category_of(label: str, ids: Mapping[str, int]) -> int:
    """The id of a label. Raises RequestError naming those there are."""
    if label not in ids:
        names = ", ".join(repr(name) for name in list(ids)[:20]) + (", …" if len(ids) > 20 else "")
        raise RequestError(f"the label {label!r} is not among {names or 'the empty list given'}")
    return ids[label]


def _xywh(item: Any) -> list[float]:
    x1, y1, x2, y2 = item.xyxy
    return [x1, y1, x2 - x1, y2 - y1]


def _share(pixels: Iterable[float], found: Any, whole: float) -> list[float]:
    """Pixels, x and y in turn, as a share of the picture's sides."""
    width, height = found.image_size
    return [whole * pixel / (height if index % 2 else width) for index, pixel in enumerate(pixels)]


def _prediction(found: Any, kind: str, values: list[dict[str, Any]], names: tuple[str, str]) -> dict[str, Any]:
    width, height = found.image_size
    result = [
        {
            "id": f"{kind[:1]}{index}",
            "type": kind,
            "from_name": names[0],
            "to_name": names[1],
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": value,
            "score": item.score,
        }
        for index, (item, value) in enumerate(zip(found, values, strict=True))
    ]
    mean = sum(item.score for item in found) / len(found) if len(found) else 0.0
    return {"model_version": "gemma4", "score": mean, "result": result}


def _fiftyone() -> Any:
    # Not one of the extras: it brings a database server.
    try:
        import fiftyone  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        if error.name != "fiftyone":
            raise
        raise ImportError("fiftyone is not installed; run: pip install fiftyone", name="fiftyone") from None
    return fiftyone
