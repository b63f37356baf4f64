"""Packages that only some need. Knows: which extra brings which. Must not know: what they are for."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["optional"]


def optional(module: str, extra: str) -> Any:
    """A module of an extra. Raises ImportError that names the extra where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        package = module.split(".")[0].replace("_", "-")
        raise ImportError(f"{package} is not installed; run: pip install 'gemma4[{extra}]'", name=module) from None
