"""What a checkpoint consists of, wherever it is kept: the protocol that a directory and a GGUF file implement.

Knows: the parts. Must not know: how any of them is stored, what a part means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from .. import _core
from ..tokens import Tokenizer

__all__ = ["Checkpoint", "Settings", "Template"]


class Settings(NamedTuple):
    """A JSON object of a checkpoint; empty where there is none."""

    values: Mapping[str, Any]
    where: str
    """What messages call it."""


class Template(NamedTuple):
    """A chat template."""

    text: str
    where: str
    """What messages call it."""


class Checkpoint(Protocol):
    """A checkpoint that is on this machine. Each part is read when it is asked for.

    `str(checkpoint)` is what messages call it. Every method raises ModelFileError for a part that is malformed.
    """

    def config(self) -> Settings:
        """As config.json."""
        ...

    def generation(self) -> Settings:
        """As generation_config.json."""
        ...

    def processor(self, section: str) -> Settings:
        """What is said of `"image_processor"`, `"video_processor"` or `"feature_extractor"`."""
        ...

    def template(self) -> Template | None:
        """The chat template; None where there is none."""
        ...

    def tokenizer(self) -> Tokenizer | None:
        """None where there is none."""
        ...

    def tensors(self) -> _core.TensorStore:
        """Every tensor under the name that the published checkpoints give it."""
        ...
