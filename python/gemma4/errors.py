"""The errors this package raises on purpose.

Every one derives from :class:`Gemma4Error` and from the builtin that fits, so both ``except gemma4.Gemma4Error``
and ``except ValueError`` work. Messages name the file, field, tensor or box that is wrong. This module imports nothing.
"""

from __future__ import annotations

__all__ = [
    "Cancelled",
    "ContextLengthError",
    "DetectionParseError",
    "Gemma4Error",
    "MediaError",
    "ModelFileChanged",
    "ModelFileError",
    "OutOfMemoryError",
    "RequestError",
    "ToolCallError",
]


class Gemma4Error(Exception):
    """Base of every error raised by this package.

    >>> issubclass(RequestError, Gemma4Error) and issubclass(RequestError, ValueError)
    True
    """


class ModelFileError(Gemma4Error, ValueError):
    """A model file is missing, truncated, malformed, or does not fit its config."""


class MediaError(Gemma4Error, ValueError):
    """A picture, clip or video cannot be read, or the model has no use for that kind of media."""


class ContextLengthError(Gemma4Error, ValueError):
    """The prompt, or the prompt and the answer together, need more tokens than the context holds."""


class RequestError(Gemma4Error, ValueError):
    """An argument of a call is wrong: its type, shape, range, or combination with another one."""


class _AnswerError(Gemma4Error, ValueError):
    """A model's answer that cannot be read; `raw_text` is that answer."""

    raw_text: str

    def __init__(self, message: str, raw_text: str = "") -> None:
        super().__init__(message)
        self.raw_text = raw_text

    def __reduce__(self) -> tuple[type[_AnswerError], tuple[str, str]]:
        return type(self), (str(self), self.raw_text)


class DetectionParseError(_AnswerError):
    """A model's answer holds no boxes that can be read.

    ``raw_text`` is the whole answer as the model wrote it.

    >>> DetectionParseError("no JSON in the answer", raw_text="I see a cat.").raw_text
    'I see a cat.'
    """


class ToolCallError(_AnswerError, RequestError):
    """A model's answer holds a tool call that is malformed, not closed, or of a tool that it was not given.

    ``raw_text`` is what the model wrote up to there, control tokens included.
    """


class Cancelled(Gemma4Error, RuntimeError):
    """A computation ended early because its caller asked for it."""


class ModelFileChanged(Gemma4Error, OSError):
    """A mapped model file was changed or truncated on disk while it was in use."""


class OutOfMemoryError(Gemma4Error, MemoryError):
    """There is not enough memory for a call. What it was for ended; the model can be used on."""
