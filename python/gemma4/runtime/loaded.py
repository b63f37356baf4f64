"""A checkpoint's files to everything that answers are made with.

Knows the order: config, tokenizer, prompts, tensors, engine; each step knows its own subject. Must not know: arguments
of a user, answers.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..answer import Drafts, Language
from ..checkpoint import Checkpoint, give_dtype
from ..config import GenerationDefaults, ParsedConfig, parse_config
from ..errors import ModelFileError, RequestError
from ..prompt import Processor
from ..tokens import Tokenizer

if TYPE_CHECKING:
    from ..answer import Grammars

__all__ = ["Loaded"]

_SAMPLED = 512  # values of a tensor in one place
_NAMED = 10  # tensors in a message
_MOST_NUMBER = 1000  # that a vocabulary may hold as one token: those of the grid of boxes


@dataclass(frozen=True)
class Loaded:
    """What is loaded of one."""

    name: str
    """What messages call it."""
    config: dict[str, Any]
    """Its config.json."""
    parsed: ParsedConfig
    tokenizer: Tokenizer | None
    processor: Processor
    defaults: GenerationDefaults
    language: Language
    store: _core.TensorStore
    core: _core.Model

    @classmethod
    def load(cls, files: Checkpoint, dtype: str, resize: str, threads: int) -> Loaded:
        """Load a checkpoint; `dtype` and `resize` as in :meth:`gemma4.Model.from_pretrained`.

        Raises:
            ModelFileError: a part is missing, malformed, or does not fit another.
        """
        name, (config, where) = str(files), files.config()
        parsed = parse_config(config, where)
        vocab = parsed.core.text.vocab
        tokenizer = files.tokenizer()
        if tokenizer is not None and tokenizer.vocab_size > vocab:
            raise ModelFileError(
                f"{name}: tokenizer.json: has ids up to {tokenizer.vocab_size - 1}, "
                f"but config.json says vocab_size {vocab}"
            )
        processor = Processor(files, parsed, tokenizer, resize)
        defaults = _defaults(files, parsed.eos_ids, vocab)
        language = _language(tokenizer, vocab, defaults.eos_ids)
        store = files.tensors()
        give_dtype(store, parsed, dtype, threads)
        try:
            core = _core.Model(parsed.core, store, parsed.text_prefix, parsed.unused, threads)
        except ModelFileError as error:  # of the engine, which knows tensors by name alone
            raise ModelFileError(f"{name}: {error}") from None
        _warn_of_unused(name, core.unused)
        return cls(
            name=name, config=dict(config), parsed=parsed, tokenizer=tokenizer, processor=processor, defaults=defaults,
            language=language, store=store, core=core,
        )  # fmt: skip

    @cached_property
    def fingerprint(self) -> str:
        """Says whether two are the same model: of config.json and, of every tensor, name, form and values from eight
        places."""
        import hashlib

        found = hashlib.blake2b(json.dumps(self.config, sort_keys=True, default=str).encode(), digest_size=16)
        for name in sorted(self.store.names()):
            values = self.store.array(name)
            found.update(f"{name} {self.store.dtype(name)} {values.shape}".encode())
            flat = values.reshape(-1)
            for start in np.linspace(0, max(0, len(flat) - _SAMPLED), 8, dtype=np.int64).tolist():
                found.update(flat[start : start + _SAMPLED].tobytes())
        return found.hexdigest()

    @property
    def modalities(self) -> frozenset[str]:
        """See :attr:`gemma4.Model.modalities`."""
        core = self.parsed.core
        media = {"image": self.parsed.grid, "audio": core.audio or core.samples, "video": self.parsed.video}
        return frozenset({"text", *(name for name, known in media.items() if known is not None)})

    def required_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises ModelFileError where there is none."""
        if self.tokenizer is None:
            raise ModelFileError(f"{self.name}: no tokenizer.json")
        return self.tokenizer

    def written(self, ids: NDArray[np.int32]) -> str:
        """Ids as text, with their control tokens."""
        return self.required_tokenizer().decode(ids, skip_special=False)

    def checked_context(self, most: Any) -> int:
        """`max_context=` of `Model.from_pretrained`; None is all that the model was trained for."""
        context = self.parsed.core.text.context
        if most is None:
            return context
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= context:
            raise RequestError(f"max_context: expected 1 to {context}, found {str(most)[:40]}")
        return most


def _warn_of_unused(checkpoint: str, names: list[str]) -> None:
    """As the reference does: a model with a head of its own, say, is still the model that its config describes."""
    if names:
        some = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
        warnings.warn(
            f"{checkpoint}: {len(names)} tensors that config.json does not speak of are not used: {some}",
            RuntimeWarning,
            stacklevel=4,
        )


def _language(tokenizer: Tokenizer | None, vocab_size: int, eos_ids: tuple[int, ...]) -> Language:
    @cache
    def grammars() -> Grammars:
        from ..answer import Grammars  # here, because few answers have a given form

        assert tokenizer is not None
        return Grammars(tokenizer, vocab_size, eos_ids)

    numbers = () if tokenizer is None else (tokenizer.id_of(str(number)) for number in range(_MOST_NUMBER + 1))
    known = frozenset(index for index in numbers if index is not None)
    return Language(tokenizer, vocab_size, eos_ids, grammars, Drafts(known))


def _defaults(files: Checkpoint, eos_ids: tuple[int, ...], vocab: int) -> GenerationDefaults:
    data, where = files.generation()
    if data.get("eos_token_id") is None:
        data = {**data, "eos_token_id": list(eos_ids)}
    return GenerationDefaults.from_config(data, where, vocab)
