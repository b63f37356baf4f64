"""Google's Gemma 4 family on CPUs: text and pictures in, text and boxes in pixels out.

>>> import gemma4
>>> model = gemma4.Model.from_pretrained("demo")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import boxes as boxes
    from . import testing as testing
    from .conversation import Chat
    from .conversion import Conversion, convert
    from .cpu import cpu_info
    from .detections import Detection, Detections, Point, Points
    from .errors import (
        Cancelled,
        ContextLengthError,
        DetectionParseError,
        Gemma4Error,
        MediaError,
        ModelFileChanged,
        ModelFileError,
        OutOfMemoryError,
        RequestError,
        ToolCallError,
    )
    from .generation import Chunk, GenerationResult
    from .inputs import PreparedInputs
    from .model import Model
    from .tokenizer import Tokenizer

    __version__: str

# Nothing is imported before it is used: a command line or a pytest plugin must not pay for a model.
_HOME = {
    "Cancelled": "errors",
    "Chat": "conversation",
    "Chunk": "generation",
    "ContextLengthError": "errors",
    "Conversion": "conversion",
    "Detection": "detections",
    "DetectionParseError": "errors",
    "Detections": "detections",
    "Gemma4Error": "errors",
    "GenerationResult": "generation",
    "MediaError": "errors",
    "Model": "model",
    "ModelFileChanged": "errors",
    "ModelFileError": "errors",
    "OutOfMemoryError": "errors",
    "Point": "detections",
    "Points": "detections",
    "PreparedInputs": "inputs",
    "RequestError": "errors",
    "Tokenizer": "tokenizer",
    "ToolCallError": "errors",
    "convert": "conversion",
    "cpu_info": "cpu",
}
_MODULES = ("boxes", "testing")

__all__ = [
    "Cancelled",
    "Chat",
    "Chunk",
    "ContextLengthError",
    "Conversion",
    "Detection",
    "DetectionParseError",
    "Detections",
    "Gemma4Error",
    "GenerationResult",
    "MediaError",
    "Model",
    "ModelFileChanged",
    "ModelFileError",
    "OutOfMemoryError",
    "Point",
    "Points",
    "PreparedInputs",
    "RequestError",
    "Tokenizer",
    "ToolCallError",
    "__version__",
    "boxes",
    "convert",
    "cpu_info",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("gemma4")
    except metadata.PackageNotFoundError:
        return "unknown"
