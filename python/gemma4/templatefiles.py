"""Where a checkpoint keeps its chat template.

Knows: the files and fields, in the order in which the reference's processor prefers them. Must not know: Jinja.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import ModelFileError
from .jsonfile import MAX_CONFIG_BYTES, Folder, present, read_bytes, read_json, type_name

__all__ = ["find_template"]


def find_template(directory: Folder, tokenizer_config: Mapping[str, Any]) -> tuple[str, str] | None:
    """The text of the chat template, and where it stands; None where there is none.

    It is in processor_config.json, in the chat_template.json of older processors, in chat_template.jinja, or in
    tokenizer_config.json, alone or as the "default" of several with names.

    Args:
        directory: the checkpoint.
        tokenizer_config: what its tokenizer_config.json says.

    Raises:
        ModelFileError: it is no text, or of several none is the default.
    """
    for name in ("processor_config.json", "chat_template.json"):
        path = directory / name
        if present(path) and (value := read_json(path).get("chat_template")) is not None:
            return _text(value, f"{path}: chat_template")
    path = directory / "chat_template.jinja"
    if present(path):
        try:
            return read_bytes(path, MAX_CONFIG_BYTES).decode("utf-8"), str(path)
        except UnicodeDecodeError:
            raise ModelFileError(f"{path}: not UTF-8") from None
    value = tokenizer_config.get("chat_template")
    return None if value is None else _text(value, f"{directory / 'tokenizer_config.json'}: chat_template")


def _text(value: Any, where: str) -> tuple[str, str]:
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        if "default" not in named:
            raise ModelFileError(f"{where}: of the {len(value)} templates none is named 'default'")
        value = named["default"]
    if not isinstance(value, str):
        raise ModelFileError(f"{where}: expected a string, found {type_name(value)}")
    return value, where
