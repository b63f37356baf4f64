"""The adapters of a model, by name, and which one a request is computed with.

Knows: names, the engine's adapters. Must not know: how an adapter is stored, what it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from .. import _core
from ..checkpoint import open_adapter
from ..errors import ModelFileError, RequestError

if TYPE_CHECKING:
    from .loaded import Loaded

__all__ = ["AdapterName", "Adapters"]

AdapterName: TypeAlias = "str | Literal[False] | None"
"""What a request says: a name, False for the model as it is, None for the default."""

_DEFAULT = "default"  # PEFT's name of one that has none
_MOST = 10_000


class _Held(NamedTuple):
    core: _core.Adapter
    store: _core.TensorStore


@dataclass(frozen=True)
class Adapters:
    """Those of one model; none of them is merged into its weights."""

    held: Mapping[str, _Held] = field(default_factory=dict)
    default: str | None = None
    """What a request gets that does not say."""

    @classmethod
    def load(cls, given: Any, loaded: Loaded) -> Adapters:
        """`adapter=` of `Model.from_pretrained`.

        Raises:
            ModelFileError: an adapter is missing or malformed, of a kind that is not supported, or does not fit.
            RequestError: neither a path nor a mapping of names to paths.
        """
        if given is None:
            return cls()
        alone = not isinstance(given, Mapping)
        named = {_DEFAULT: given} if alone else given
        if not named or len(named) > _MOST or not all(isinstance(name, str) and name for name in named):
            raise RequestError(f"adapter: expected a path, or 1 to {_MOST} names with a path each")
        held = {}
        for name, source in named.items():
            files = open_adapter(source, loaded.parsed)
            try:
                held[name] = _Held(_core.Adapter(loaded.core, files.store, files.parts), files.store)
            except ModelFileError as error:  # of the engine, which knows tensors by name alone
                raise ModelFileError(f"{files.where}: {error}") from None
        return cls(held, _DEFAULT if alone else None)

    def chosen(self, wanted: AdapterName | bool) -> _core.Adapter | None:
        """The one that a request asks for: by name, False for none, None for the default.

        Raises:
            RequestError: there is no such adapter.
            ModelFileChanged: its file changed on disk since it was loaded.
        """
        name = self.default if wanted is None else wanted
        if name is None or name is False:
            return None
        if not isinstance(name, str):
            raise RequestError(f"adapter: expected a name, or False for none, found {str(name)[:40]}")
        if name not in self.held:
            there = ", ".join(map(repr, list(self.held)[:10])) or "none"
            raise RequestError(f"adapter: {name[:80]!r} is not one that the model was loaded with ({there})")
        one = self.held[name]
        one.store.check_unchanged()
        return one.core
