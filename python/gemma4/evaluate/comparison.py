"""`compare`: labelled pictures, ways to ask about them, and what comes of each.

The table of contents of this room: pictures (`dataset`), ways to ask (`variants`), answers (`asking`), what became of
each object (`outcomes`), figures (`metrics`), rows (`results`). Must not know: formats of files, pytest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..arguments import number
from ..extras import extra
from ..notices import warn
from .asking import Answer, Models, answers_to
from .cache import AnswerCache
from .dataset import Truth
from .loading import load_dataset
from .metrics import average_precision, confusion, reliability
from .outcomes import Box, Found, Outcome, PictureOutcome, judge
from .results import Comparison, LabelFigures, VariantResult
from .variants import Variant, model_name, variants_of

__all__ = ["Source", "compare"]


@dataclass(frozen=True)
class Source:
    """Where answers come from: what is kept, and the model that is meant where none is named."""

    cache: AnswerCache
    usual: Callable[[], Any]
    usual_arguments: Mapping[str, Any] | None


def compare(
    dataset: Any, *, models: Any = None, labels: Any = None, prompts: Any = None, max_soft_tokens: Any = None,
    options: Any = None, iou: float = 0.5, images: Any = None, split: str | None = None,
    cache: AnswerCache | str | os.PathLike[str] | None = None, source: Source | None = None,
) -> Comparison:  # fmt: skip
    """Ask about every picture in every way that is given, and compare with the truth.

    `models`, `prompts` and `max_soft_tokens` take one value, a list, or a mapping from names to values; `labels` and
    `options` take one, or a mapping from names to several. Each combination is a row of the result.

    Args:
        dataset: anything that :func:`load_dataset` takes, as it does `images` and `split`.
        models: names as :meth:`gemma4.Model.from_pretrained` takes them, its arguments as a mapping in a list or under
            a name, models, or objects with such a `detect`; None for the demo model, and in pytest `gemma4_model`.
        labels: what to ask for: a list of the dataset's labels, or a mapping from these to words for them, such as
            `{"red circle": "crimson disc"}`; None for all of them. Other objects of the dataset do not count.
        prompts: the whole question, in which `{labels}` stands for what is asked for; None for the family's own.
        max_soft_tokens: 70, 140, 280, 560 or 1120; None for the checkpoint's.
        options: further arguments of :meth:`gemma4.Model.detect`, such as `{"adapter": "shapes"}`.
        iou: the overlap from which on a place is right, for precision, recall, F1 and the curves.
        cache: a folder for answers, so that they are not computed again; None keeps nothing.
        source: of models, for pytest's plugin.

    Raises:
        RequestError: an argument or an entry of the dataset is wrong.
        MediaError: a picture cannot be read, or has another size than its annotations say.
        ModelFileError: there is no such model.
        ImportError: faster-coco-eval is missing: `pip install 'gemma4[eval]'`.

    >>> from PIL import Image, ImageDraw
    >>> picture = Image.new("RGB", (320, 240), "white")
    >>> ImageDraw.Draw(picture).ellipse((100, 60, 220, 180), fill="red")
    >>> compare([(picture, [("red circle", (100, 60, 220, 180))])], max_soft_tokens=70).recall
    1.0
    """
    overlap = number("iou", iou, 0, 1, above=True)
    extra("faster_coco_eval", "eval")  # before hours of answers
    data = load_dataset(dataset, images, split)
    variants = variants_of(
        data.labels, data.closed, models=models, labels=labels, prompts=prompts, max_soft_tokens=max_soft_tokens,
        options=options,
    )  # fmt: skip
    if source is None:
        kept = cache if isinstance(cache, AnswerCache) else AnswerCache(cache)
        source = Source(kept, _demo(), {"source": "demo"})
    held = Models(source.usual, source.usual_arguments, source.cache)
    seen = [sample.identity(source.cache) for sample in data.samples]
    digests = [digest for digest, _ in seen]
    pictures = [
        _Picture(sample.name, size, sample.truth(size)) for sample, (_, size) in zip(data.samples, seen, strict=True)
    ]
    usual = "gemma4_model" if source.usual_arguments is None else model_name(source.usual_arguments)
    variants = [replace(one, called=usual if one.model is None else model_name(one.model)) for one in variants]
    try:
        rows = tuple(_row(variant, pictures, answers_to(variant, data, digests, held), overlap) for variant in variants)
    finally:
        held.close()
    for note in sorted({note for row in rows for note in row.notes}):
        warn(note)
    asked = dict.fromkeys(label for variant in variants for label in variant.asked)
    return Comparison(data.name, overlap, tuple(asked), rows).with_samples(data.samples)


def _demo() -> Callable[[], Any]:
    held: list[Any] = []

    def load() -> Any:
        from ..model import Model

        if not held:
            held.append(Model.from_pretrained("demo"))
        return held[0]

    return load


class _Picture(NamedTuple):
    """A sample whose size is known."""

    name: str
    size: tuple[int, int]
    truth: list[tuple[Truth, Box]]


def _row(variant: Variant, pictures: list[_Picture], answers: list[Answer], iou: float) -> VariantResult:
    labels = tuple(variant.asked)
    wanted = [[(one, box) for one, box in picture.truth if one.label in variant.asked] for picture in pictures]
    spelled = {word.casefold(): label for label, word in variant.asked.items()}
    found: list[list[Found]] = [
        [(spelled.get(label.casefold(), label), box, score) for label, box, score in answer.found] for answer in answers
    ]
    judged = []
    for picture, objects, ours, answer in zip(pictures, wanted, found, answers, strict=True):
        single = [(one.label, box) for one, box in objects if not one.crowd]
        crowds = [(one.label, box) for one, box in objects if one.crowd]
        outcomes = judge(ours, single, crowds, iou)
        judged.append(PictureOutcome(picture.name, picture.size, outcomes, answer.seconds, answer.cached, answer.error))
    everything = [one for picture in judged for one in picture.outcomes]
    right = [one for one in everything if one.kind == "right"]
    coco = average_precision(found, wanted, labels, iou)
    names, counts = confusion(judged, labels)
    return VariantResult(
        truth=sum(one.label is not None for one in everything),
        found=sum(one.found_label is not None for one in everything),
        right=len(right), name=variant.name, settings=_settings(variant), map=coco["map"], map50=coco["map50"],
        map75=coco["map75"], mean_iou=sum(one.iou for one in right) / len(right) if right else 0.0,
        labels={label: _label_figures(label, everything, coco) for label in labels}, pictures=tuple(judged),
        reliability=reliability(judged), confusion_labels=names, confusion=counts,
        notes=tuple(sorted({note for answer in answers for note in answer.notes})),
    )  # fmt: skip


def _label_figures(label: str, outcomes: list[Outcome], coco: Mapping[str, Any]) -> LabelFigures:
    curve = coco["curves"][label]
    return LabelFigures(
        truth=sum(one.label == label for one in outcomes),
        found=sum(one.found_label == label for one in outcomes),
        right=sum(one.label == label and one.kind == "right" for one in outcomes),
        ap=coco["labels"][label],
        ap50=coco["labels50"][label],
        curve=None if curve is None else tuple(curve),
    )


def _settings(variant: Variant) -> dict[str, Any]:
    """What a report says of a variant."""
    plain = (str, int, float, type(None))
    return {
        "model": variant.called,
        "prompt": variant.question(),
        "labels": dict(variant.asked),
        "max_soft_tokens": variant.max_soft_tokens,
        **{name: value if isinstance(value, plain) else repr(value) for name, value in variant.options.items()},
    }
