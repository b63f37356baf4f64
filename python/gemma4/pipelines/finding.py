"""`"object-detection"` and `"zero-shot-object-detection"`.

Knows: transformers' forms of boxes and labels. Must not know: questions, the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..arguments import MOST, integer, number
from ..detections import hf_object
from ..errors import RequestError
from .calls import Pipeline

if TYPE_CHECKING:
    from ..detections import Detections

__all__ = ["ObjectDetectionPipeline", "ZeroShotObjectDetectionPipeline"]

_OPTIONS = ("tile", "refine", "on_invalid", "max_soft_tokens", "max_new_tokens", "adapter")
"""Of :meth:`gemma4.Model.detect`."""


class ObjectDetectionPipeline(Pipeline):
    """Everything that the model sees in a picture.

    >>> import gemma4
    >>> detector = gemma4.pipeline("object-detection")
    >>> from PIL import Image
    >>> detector(Image.new("RGB", (320, 240), "white"))
    []
    """

    _ARGUMENTS = ("threshold", *_OPTIONS)

    def __call__(self, inputs: Any = None, **options: Any) -> Any:
        """`[{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}, …]` of a picture, in the order of the answer;
        a list of such for a list of pictures, an iterator for a generator or a dataset.

        Args:
            inputs: a path, bytes, `PIL.Image` or array, or several; `images=` is another name.
            threshold: scores must be above it, 0.5 if it is not given.
            options: `tile`, `refine`, `max_soft_tokens` and others of :meth:`gemma4.Model.detect`; `batch_size`.

        Raises:
            RequestError: an argument is wrong.
            MediaError: a picture cannot be read.
        """
        if inputs is None:
            inputs = options.pop("images", None)
        if inputs is None:
            raise RequestError("inputs: expected a picture or several")
        return self._run(inputs, options)

    def _check(self, options: Mapping[str, Any]) -> None:
        _threshold(options, 0.5)

    def _answers(self, items: list[Any], options: dict[str, Any]) -> list[Any]:
        least, more = _threshold(options, 0.5), _rest(options)
        return [[hf_object(one) for one in found if one.score > least] for found in self.model.detect(items, **more)]


class ZeroShotObjectDetectionPipeline(Pipeline):
    """The objects in a picture that have one of the names given.

    >>> import gemma4
    >>> detector = gemma4.pipeline("zero-shot-object-detection")
    >>> from PIL import Image
    >>> detector(Image.new("RGB", (320, 240), "white"), candidate_labels=["red circle", "star"])
    []
    """

    _ARGUMENTS = ("candidate_labels", "text_queries", "threshold", "top_k", *_OPTIONS)

    def __call__(self, image: Any = None, candidate_labels: Any = None, **options: Any) -> Any:
        """`[{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}, …]` of a picture, most likely first.

        Args:
            image: a path, bytes, `PIL.Image` or array; `{"image": …, "candidate_labels": […]}`; or several of these.
            candidate_labels: a list of names, or one string with commas between them; for a list of pictures also a
                list of such lists, one for each. `text_queries=` is an older name.
            threshold: scores must be above it, 0.1 if it is not given.
            top_k: how many at most.
            options: `tile`, `refine`, `max_soft_tokens` and others of :meth:`gemma4.Model.detect`; `batch_size`.

        Raises:
            RequestError: no labels, or others than these.
            MediaError: a picture cannot be read.
        """
        if image is None:
            image = options.pop("images", options.pop("inputs", None))
        if image is None:
            raise RequestError("image: expected a picture or several")
        labels = options.pop("text_queries", candidate_labels)
        if isinstance(image, list | tuple) and _is_per_picture(labels):
            if len(labels) != len(image):
                raise RequestError(f"candidate_labels: {len(labels)} lists for {len(image)} pictures")
            image = [{"image": one, "candidate_labels": asked} for one, asked in zip(image, labels, strict=True)]
            labels = None
        return self._run(image, {**options, "candidate_labels": labels} if labels is not None else options)

    def _check(self, options: Mapping[str, Any]) -> None:
        _threshold(options, 0.1)
        integer("top_k", options.get("top_k", 0), 0, MOST)

    def _answers(self, items: list[Any], options: dict[str, Any]) -> list[Any]:
        least, top = _threshold(options, 0.1), options.get("top_k", 0)
        common = options.get("candidate_labels", options.get("text_queries"))
        asked = [_asked(item, common) for item in items]  # all checked before the first is computed
        results: list[Any] = []
        for names, group in groupby(asked, key=lambda one: one[1]):
            spelled = {name.strip(): name for name in reversed(names)}  # the first of two that differ in spaces
            pictures = [picture for picture, _ in group]
            labels = list(dict.fromkeys(name.strip() for name in names))
            results += [
                _best(found, spelled, least, top)
                for found in self.model.detect(pictures, labels, **_rest(options))
            ]  # fmt: skip
        return results


def _best(found: Detections, spelled: Mapping[str, str], least: float, top: int) -> list[dict[str, Any]]:
    """Only what was asked for, as it was spelled, most likely first."""
    kept = [one for one in found if one.score > least and one.label in spelled]
    kept.sort(key=lambda one: one.score, reverse=True)
    return [{**hf_object(one), "label": spelled[one.label]} for one in (kept[:top] if top else kept)]


def _asked(item: Any, common: Any) -> tuple[Any, tuple[str, ...]]:
    """A picture and the names to look for in it."""
    if isinstance(item, Mapping):
        if "image" not in item:
            raise RequestError(f"expected a dict with image and candidate_labels, found {sorted(map(str, item))[:5]}")
        item, common = item["image"], item.get("candidate_labels", common)
    names = common.split(",") if isinstance(common, str) else common
    if names is None:
        raise RequestError("candidate_labels: missing")
    if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str) and n.strip() for n in names):
        raise RequestError("candidate_labels: expected a list of names, none of them empty")
    return item, tuple(names)


def _is_per_picture(labels: Any) -> bool:
    return isinstance(labels, list | tuple) and any(isinstance(one, list | tuple) for one in labels)


def _threshold(options: Mapping[str, Any], default: float) -> float:
    return number("threshold", options.get("threshold", default), 0, 1)


def _rest(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in _OPTIONS if name in options}
