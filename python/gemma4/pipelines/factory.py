"""`gemma4.pipeline`: the tasks under transformers' names, taking and returning what its pipelines do.

Knows: which arguments of `transformers.pipeline` mean what here. Must not know: what a task answers.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_args

from ..checkpoint import Dtype
from ..errors import RequestError
from ..model import Model
from ..notices import warn
from .calls import Pipeline
from .chatting import AnyToAnyPipeline, ImageTextToTextPipeline
from .finding import ObjectDetectionPipeline, ZeroShotObjectDetectionPipeline
from .hearing import AutomaticSpeechRecognitionPipeline

if TYPE_CHECKING:
    from ..checkpoint import Source

__all__ = ["pipeline"]

_TASKS: dict[str, type[Pipeline]] = {
    "object-detection": ObjectDetectionPipeline,
    "zero-shot-object-detection": ZeroShotObjectDetectionPipeline,
    "image-text-to-text": ImageTextToTextPipeline,
    "any-to-any": AnyToAnyPipeline,
    "automatic-speech-recognition": AutomaticSpeechRecognitionPipeline,
}
_ALIASES = {"image-to-text": "image-text-to-text"}  # as transformers reads it

_LOADING = tuple(list(inspect.signature(Model.from_pretrained).parameters)[1:])
_DTYPES = get_args(Dtype)
_PARTS = ("config", "tokenizer", "feature_extractor", "image_processor", "video_processor", "processor")
_EVERYWHERE = ("cpu", "auto", "-1")  # devices that this one is
_NOTHING = ("framework", "use_fast", "trust_remote_code", "low_cpu_mem_usage", "use_safetensors")
"""Of what is not here: frameworks, slow tokenizers, code of a checkpoint, copies of weights."""


def pipeline(task: str, model: Source | Model = "demo", **model_kwargs: Any) -> Any:
    """A model behind the call of one of transformers' pipelines, so that a program changes one import.

    Args:
        task: `"object-detection"`, `"zero-shot-object-detection"`, `"image-text-to-text"`, `"any-to-any"` or
            `"automatic-speech-recognition"`.
        model: as in :meth:`gemma4.Model.from_pretrained`, or a :class:`gemma4.Model`.
        model_kwargs: arguments of :meth:`gemma4.Model.from_pretrained`, also as a dict `model_kwargs=`; and those of
            the calls, such as `threshold`, `max_new_tokens`, `generate_kwargs` or `batch_size`, which then hold for
            every call. Of transformers' own, `device`, `dtype` and the parts of a checkpoint (`tokenizer=…`) are taken
            with a RuntimeWarning where they ask for what is not done: everything runs on the CPU, with the weights in
            the file's own format and the checkpoint's own parts.

    Returns:
        A callable. What it takes and returns is what transformers' pipeline of that task takes and returns: keys,
        nesting, order and Python's own numbers. Token ids are NumPy arrays. URLs are not fetched.

    Raises:
        RequestError: no such task or argument, or one that cannot be obeyed.
        ModelFileError: as :meth:`gemma4.Model.from_pretrained`.

    >>> import gemma4
    >>> detector = gemma4.pipeline("zero-shot-object-detection")
    >>> found = detector("examples/shapes.png", candidate_labels=["yellow star"])
    >>> found[0]["label"], sorted(found[0]["box"])
    ('yellow star', ['xmax', 'xmin', 'ymax', 'ymin'])
    """
    name = _ALIASES.get(task, task) if isinstance(task, str) else task
    if name not in _TASKS:
        raise RequestError(f"task: expected one of {', '.join(_TASKS)}, found {str(task)[:60]!r}")
    loading, options = _sorted(model, dict(model_kwargs))
    if isinstance(model, Model):
        if loading:
            raise RequestError(f"{', '.join(loading)}: the model is loaded already")
        return _TASKS[name](name, model, options)
    if not isinstance(model, str | os.PathLike):
        raise RequestError(f"model: expected a path, a name or a gemma4.Model, found {type(model).__name__}")
    return _TASKS[name](name, Model.from_pretrained(model, **loading), options)


def _sorted(model: Any, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What loading takes, and what calls take; the rest is dealt with here."""
    inner = given.pop("model_kwargs", None) or {}
    if not isinstance(inner, Mapping):
        raise RequestError(f"model_kwargs: expected a dict, found {type(inner).__name__}")
    for name in inner:
        if name in given:
            raise RequestError(f"{name}: given twice, in model_kwargs and beside it")
    for name in [name for name in given if name in _HANDLED]:
        inner = {**inner, name: given.pop(name)}
    loading = {name: given.pop(name) for name in _LOADING if name in given}
    loading = {name: value for name, value in loading.items() if value is not None}
    for name, value in inner.items():
        if value is None:
            continue
        if name in _HANDLED:
            _HANDLED[name](name, value, model, loading)
        elif name in _LOADING:
            loading[name] = value
        else:
            raise RequestError(f"{name}: nothing that gemma4.Model.from_pretrained takes")
    return loading, given


def _dtype(name: str, value: Any, model: Any, loading: dict[str, Any]) -> None:
    if value in _DTYPES:
        loading["dtype"] = value
    else:
        warn(f"{name}={value}: weights are computed in the file's own format; dtype='q4_0' and its like change it")


def _device(name: str, value: Any, model: Any, loading: dict[str, Any]) -> None:
    places = value.values() if isinstance(value, Mapping) else [value]
    if not all(str(place) in _EVERYWHERE for place in places):
        warn(f"{name}={value}: everything is computed on the CPU")


def _part(name: str, value: Any, model: Any, loading: dict[str, Any]) -> None:
    if not (isinstance(value, str | os.PathLike) and os.fspath(value) == os.fspath(model)):
        warn(f"{name}: the checkpoint's own is used")


def _nothing(name: str, value: Any, model: Any, loading: dict[str, Any]) -> None:
    """Whatever it says is so."""


def _attention(name: str, value: Any, model: Any, loading: dict[str, Any]) -> None:
    warn(f"{name}={value}: there is one implementation, the engine's")


def _refused(reason: str) -> Callable[..., None]:
    def refuse(name: str, value: Any, model: Any, loading: dict[str, Any]) -> None:
        raise RequestError(f"{name}: {reason}")

    return refuse


_HANDLED: dict[str, Callable[[str, Any, Any, dict[str, Any]], None]] = {
    "dtype": _dtype, "torch_dtype": _dtype, "device": _device, "device_map": _device, "attn_implementation": _attention,
    "token": _refused("set the environment variable HF_TOKEN, or log in with hf auth login"),
    "quantization_config": _refused("give dtype='q4_0' or 'q8_0'"),
    "assistant_model": _refused("give drafter='google/gemma-4-E2B-it-assistant' or its like"),
    "pipeline_class": _refused("the class belongs to the task"),
    **dict.fromkeys(_PARTS, _part), **dict.fromkeys(_NOTHING, _nothing),
}  # fmt: skip
