"""Fields of config.json, read with their type and range.

Knows: JSON's types. Must not know: what a field means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ModelFileError
from ..jsonfile import type_name

__all__ = ["EPS", "MAX_CONTEXT", "MAX_LAYERS", "MAX_WIDTH", "THETA", "Section", "rope_style", "rope_table"]

MAX_WIDTH = 1 << 18  # channels; several times any model's, as all bounds here and in the engine
MAX_CONTEXT = 1 << 26
EPS = (1e-30, 0.5)  # of a norm
THETA = (1.0, 1e30)  # of rotations
MAX_LAYERS = 1024


class Section:
    """One JSON object of the file, whose fields are read with their type and range."""

    def __init__(self, data: Mapping[str, Any], source: str, path: str) -> None:
        self.data = data
        self.source = source
        self.path = path  # "" or "text_config."

    def given(self, name: str) -> bool:
        """False for a field that is null, as it is in checkpoints without what it is for."""
        return self.data.get(name) is not None

    def error(self, name: str, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.source}: {self.path}{name}: {problem}")

    def section(self, name: str) -> Section | None:
        value = self.data.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(name, f"expected an object, found {type_name(value)}")
        return Section(value, self.source, f"{self.path}{name}.")

    def integer(self, name: str, default: int | None, low: int, high: int) -> int:
        value = self.data.get(name, default) if default is not None else self.data.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, f"expected an integer, found {self._found(name)}")
        if not low <= value <= high:
            raise self.error(name, f"expected {low} to {high}, found {value!s:.40}")
        return value

    def real(self, name: str, default: float | None, low: float, high: float) -> float:
        value = self.data.get(name, default) if default is not None else self.data.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, f"expected a number, found {self._found(name)}")
        if not low <= value <= high:  # NaN is not
            raise self.error(name, f"expected {low:g} to {high:g}, found {value!s:.40}")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        """Null stands for the default: a mechanism that a checkpoint does not speak of."""
        value = self.data[name] if self.given(name) else default
        if not isinstance(value, bool):
            raise self.error(name, f"expected true or false, found {type_name(value)}")
        return value

    def text(self, name: str, default: str | None) -> str:
        value = self.data.get(name, default)
        if not isinstance(value, str):
            raise self.error(name, f"expected a string, found {self._found(name)}")
        return value

    def require(self, name: str, default: str, *allowed: str) -> None:
        value = self.data.get(name, default)
        if value not in allowed:
            raise self.error(name, f"only {' or '.join(map(repr, allowed))} is supported, found {str(value)[:40]!r}")

    def _found(self, name: str) -> str:
        return type_name(self.data[name]) if name in self.data else "nothing"


def rope_table(section: Section) -> tuple[str, dict[str, Any] | None]:
    """The field with the rotations, and what it holds. The older name overrides the newer one, as in the reference."""
    for field in ("rope_scaling", "rope_parameters"):
        table = section.data.get(field)
        if table is None:
            continue
        if not isinstance(table, dict):
            raise section.error(field, f"expected an object, found {type_name(table)}")
        return field, table
    return "rope_parameters", None


def rope_style(rope: Section, default: str) -> str:
    """`rope_type`, which older files call `type`."""
    return rope.text("rope_type" if rope.given("rope_type") else "type", default)
