"""The bundled model with other settings than its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gemma4

__all__ = ["demo_with"]

DEMO = Path(gemma4.__file__).parent / "demo_model"


def demo_with(
    directory: Path, config: Mapping[str, Any] | None = None, processor: Mapping[str, Any] | None = None
) -> Path:
    """A copy of it at `directory`, with fields of `config.json` and of `processor_config.json` changed; a dict changes
    the fields of the one that was there."""
    shutil.copytree(DEMO, directory)
    for name, fields in (("config.json", config), ("processor_config.json", processor)):
        settings = json.loads((directory / name).read_text())
        for key, value in (fields or {}).items():
            settings[key] = {**settings[key], **value} if isinstance(value, Mapping) else value
        (directory / name).write_text(json.dumps(settings))
    return directory
