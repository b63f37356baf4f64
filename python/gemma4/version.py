"""The version of the installed package."""

from __future__ import annotations

from importlib import metadata

try:
    __version__ = metadata.version("gemma4")
except metadata.PackageNotFoundError:
    __version__ = "unknown"
