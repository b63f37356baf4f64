"""Packages that only some need. Knows: which name installs them. Must not know: what they are for."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["extra"]


def extra(module: str, name: str) -> Any:
    """A module that is installed with an extra of this package. Raises ImportError that says how."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        found = package.replace("_", "-")
        raise ImportError(f"{found} is not installed; run: pip install 'gemma4[{name}]'", name=package) from None
