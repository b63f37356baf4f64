"""A directory as the published checkpoints are: JSON, a tokenizer, a template, safetensors.

Knows: the files and fields, in the order in which the reference's processor prefers them. Must not know: what they
mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .. import _core
from ..errors import ModelFileError
from ..jsonfile import MAX_CONFIG_BYTES, is_text, present, read_bytes, read_json, type_name
from ..tokens import MAX_TOKENIZER_BYTES, MAX_TOKENIZER_CONFIG, Tokenizer, read_vocabulary, special_tokens
from . import quantized
from .files import Settings, Template
from .safetensors import open_tensors

__all__ = ["DirectoryCheckpoint"]


@dataclass(frozen=True)
class DirectoryCheckpoint:
    """See :class:`gemma4.checkpoint.Checkpoint`."""

    path: Path
    _said: dict[str, Settings] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What each JSON file said when it was first asked for: later answers are of the same state of it."""

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise ModelFileError(f"{self.path}: no such directory")

    def __str__(self) -> str:
        return str(self.path)

    def config(self) -> Settings:
        return self._json("config.json", needed=True)

    def generation(self) -> Settings:
        return self._json("generation_config.json")

    def processor(self, section: str) -> Settings:
        """From processor_config.json or, from older processors, a file of its own; frames are prepared as pictures
        where nothing is said of them alone."""
        values, where = self._json("processor_config.json")
        if (found := values.get(section)) not in (None, {}):
            return _object(found, f"{where}: {section}")
        if section == "video_processor" and present(self.path / "video_preprocessor_config.json"):
            return self._json("video_preprocessor_config.json")
        settings = self._json("preprocessor_config.json")
        # One file for both senses: that of sounds says so.
        if section == "feature_extractor" and "feature_extractor_type" not in settings.values:
            return Settings({}, settings.where)
        return settings

    def template(self) -> Template | None:
        """In processor_config.json, in the chat_template.json of older processors, in chat_template.jinja, or in
        tokenizer_config.json, alone or as the "default" of several with names."""
        for name in ("processor_config.json", "chat_template.json"):
            values, where = self._json(name)
            if values.get("chat_template") is not None:
                return _template(values["chat_template"], f"{where}: chat_template")
        path = self.path / "chat_template.jinja"
        if present(path):
            try:
                return Template(read_bytes(path, MAX_CONFIG_BYTES).decode("utf-8"), str(path))
            except UnicodeDecodeError:
                raise ModelFileError(f"{path}: not UTF-8") from None
        values, where = self.tokenizer_config()
        value = values.get("chat_template")
        return None if value is None else _template(value, f"{where}: chat_template")

    def tokenizer(self) -> Tokenizer | None:
        names, named = self.tokenizer_config()
        # What the path means now: the working directory may change before it is read again.
        path, now = self.path / "tokenizer.json", self.path.absolute()
        if not present(path):
            return None
        vocabulary = read_vocabulary(lambda: read_bytes(now / path.name, MAX_TOKENIZER_BYTES), str(path))
        return Tokenizer(vocabulary, special_tokens(names, named), partial(_reopen, now))

    def tokenizer_config(self) -> Settings:
        return self._json("tokenizer_config.json", MAX_TOKENIZER_CONFIG)

    def tensors(self, integers: bool = False) -> _core.TensorStore:
        """See the protocol. `integers`: there may be some that are no quants."""
        return open_tensors(self.path, quants=quantized.check(*self.config()) or integers)

    def _json(self, name: str, limit: int = MAX_CONFIG_BYTES, needed: bool = False) -> Settings:
        if name not in self._said:
            path = self.path / name
            self._said[name] = Settings(read_json(path, limit) if needed or present(path) else {}, str(path))
        return self._said[name]


def _reopen(path: Path) -> Tokenizer:
    tokenizer = DirectoryCheckpoint(path).tokenizer()
    if tokenizer is None:
        raise ModelFileError(f"{path}: tokenizer.json is gone")
    return tokenizer


def _object(value: Any, where: str) -> Settings:
    if not isinstance(value, dict):
        raise ModelFileError(f"{where}: expected an object, found {type_name(value)}")
    return Settings(value, where)


def _template(value: Any, where: str) -> Template:
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        if "default" not in named:
            raise ModelFileError(f"{where}: of the {len(value)} templates none is named 'default'")
        value = named["default"]
    if not isinstance(value, str):
        raise ModelFileError(f"{where}: expected a string, found {type_name(value)}")
    if not is_text(value):
        raise ModelFileError(f"{where}: holds a lone surrogate, which is no text")
    return Template(value, where)
