"""GGUF files of llama.cpp's `gemma4` architecture as a checkpoint.

Knows: which files make one up. Must not know: keys, how tensors are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .. import _core, gguf
from ..config import parse_config
from ..errors import ModelFileError, RequestError
from ..gguf import ARCHITECTURE, ENCODER, GgufFile, hidden_size, is_unified, pick_encoders, read_tokenizer, soft_width
from ..tokens import Tokenizer, TokenizerForm, vocabulary_of
from .files import Settings, Template

__all__ = ["GgufCheckpoint", "open_gguf"]


@dataclass(frozen=True)
class GgufCheckpoint:
    """See :class:`gemma4.checkpoint.Checkpoint`."""

    file: GgufFile = field(repr=False)
    """With the decoder."""
    encoders: GgufFile | None = field(repr=False)
    """The file with the encoders, which may be the same; None without."""
    form: TokenizerForm = field(repr=False)
    """Its tokenizer's."""
    store: _core.TensorStore = field(repr=False)
    values: dict[str, Any] = field(repr=False)
    """As config.json."""

    def __str__(self) -> str:
        return str(self.file.path)

    def config(self) -> Settings:
        return Settings(self.values, f"{self}: config.json")

    def generation(self) -> Settings:
        return Settings(gguf.generation_of(self.file, self.values["eos_token_id"]), f"{self}: generation_config.json")

    def processor(self, section: str) -> Settings:
        values = gguf.processor_of(self.encoders) if section == "image_processor" else {}
        return Settings(values, f"{self}: processor_config.json: {section}")

    def template(self) -> Template | None:
        key = "tokenizer.chat_template"
        return Template(self.file.text(key), f"{self}: {key}") if key in self.file.metadata else None

    def tokenizer(self) -> Tokenizer:
        names = gguf.special_tokens(self.file, {token.text: token.id for token in self.form.added})
        path = self.file.path
        return Tokenizer(vocabulary_of(self.form, lambda: _form(path)), names, partial(_reopen, path.absolute()))

    def tensors(self) -> _core.TensorStore:
        return self.store


def _form(path: Path) -> TokenizerForm:
    return read_tokenizer(gguf.as_llama_cpp(gguf.read_split(path)))


def _reopen(path: Path) -> Tokenizer:
    return open_gguf(path).tokenizer()


def open_gguf(path: str | Path, mmproj: str | Path | None = None, beside: Sequence[Path] = ()) -> GgufCheckpoint:
    """Read and check a GGUF file, all parts of it, and map its tensors.

    Args:
        path: a file with the architecture `gemma4`, any part of a split one, or one with text and encoders.
        mmproj: the file with the vision and audio encoders that belongs to it.
        beside: files with encoders, of which the one that fits the model is taken if `mmproj` is None.

    Raises:
        ModelFileError: a file is missing, malformed, of another architecture, or asks for what is not supported.
        RequestError: `path` and `mmproj` are the wrong way round, or several of `beside` fit.
    """
    file = gguf.as_llama_cpp(gguf.read_split(path))
    _check_architecture(file)
    encoders = _encoders(file, mmproj, beside)
    unified = encoders is not None and is_unified(encoders)
    form = read_tokenizer(file)
    store = _core.TensorStore()
    gguf.register(store, file, unified)
    config = gguf.config_of(file, encoders, gguf.divisors(store, file), {t.text: t.id for t in form.added})
    try:
        parse_config(config, f"{file.path}: config.json")
    except ModelFileError as error:  # whoever reads it should not look for a config.json
        raise ModelFileError(gguf.of_keys(str(error))) from None
    gguf.complete_text(store, file, config["text_config"])
    if encoders is not None:
        if encoders is not file:
            gguf.register(store, encoders, unified)
        gguf.complete_bounds(store, encoders)
    store.validate()
    return GgufCheckpoint(file, encoders, form, store, config)


def _check_architecture(file: GgufFile) -> None:
    found = file.text("general.architecture")
    if found == "clip":
        raise RequestError(f"{file.path}: holds encoders, not a language model; give it as mmproj=")
    if found in gguf.DRAFTERS:
        raise file.error("general.architecture", "a drafter; give it as drafter= beside the model it belongs to")
    if found != ARCHITECTURE:
        raise file.error("general.architecture", f"expected {ARCHITECTURE!r}, found {found[:40]!r}")


def _encoders(file: GgufFile, mmproj: str | Path | None, beside: Sequence[Path]) -> GgufFile | None:
    """The file with the encoders: the one that is named, the model itself, or the one beside it that fits."""
    if mmproj is not None:
        encoders = gguf.read_split(mmproj)
        found = encoders.text("general.architecture")
        if found == ARCHITECTURE:
            raise RequestError(f"mmproj: {encoders.path} holds a language model, not encoders")
        if found != "clip":
            raise encoders.error("general.architecture", f"expected 'clip', found {found[:40]!r}")
        if soft_width(encoders) not in (None, hidden_size(file)):
            raise RequestError(
                f"mmproj: {encoders.path} makes soft tokens of {soft_width(encoders)} numbers, "
                f"those of {file.path.name} have {hidden_size(file)}"
            )
        return encoders
    if any(ENCODER.fullmatch(name) for name in file.tensors):
        return file
    fitting = {path.name: gguf.read_split(path) for path in beside}
    fitting = {name: candidate for name, candidate in fitting.items() if soft_width(candidate) == hidden_size(file)}
    picked = pick_encoders(file.path.name, list(fitting))
    return None if picked is None else fitting[picked]
