"""`Pipeline`: what transformers' pipelines have in common: one input, a list or a stream of them, and how arguments are
given.

Knows: forms of calls. Must not know: what a task answers.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from ..arguments import MOST, integer
from ..errors import RequestError

if TYPE_CHECKING:
    from ..model import Model
    from ..tokens import Tokenizer

__all__ = ["Pipeline", "refuse_unknown"]

_EVERYWHERE = ("batch_size", "num_workers", "timeout")
"""`batch_size`: of a stream, how many are answered together; `num_workers` and `timeout` belong to what is not done
here: worker processes and downloads."""


class Pipeline:
    """One task of a model, called as transformers' pipelines are; made by :func:`gemma4.pipeline`.

    A list gives a list, answered together. A generator, another iterator or a dataset gives an iterator, which takes
    `batch_size` inputs at a time, 1 if it is not given.
    """

    _ARGUMENTS: ClassVar[tuple[str, ...]] = ()
    """Of a call, beside the inputs; each may also be given once, to :func:`gemma4.pipeline`."""

    def __init__(self, task: str, model: Model, options: Mapping[str, Any]) -> None:
        """`options` hold for every call that does not say otherwise."""
        self.task, self.model = task, model
        self._options = dict(options)
        self._checked({})

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.model.tokenizer

    def __repr__(self) -> str:
        return f"<gemma4.pipeline {self.task!r} of {self.model!r}>"

    def _checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call, with those of the pipeline. Raises RequestError for one that there is not."""
        given = {**self._options, **options}
        refuse_unknown(given, (*self._ARGUMENTS, *_EVERYWHERE))
        given = {name: value for name, value in given.items() if value is not None}
        self._check(given)
        return given

    def _check(self, options: Mapping[str, Any]) -> None:
        """Raises RequestError for values that are wrong whatever the input is."""

    def _run(self, inputs: Any, options: Mapping[str, Any]) -> Any:
        """The result of one input, or those of several in the form that they came in."""
        call = self._checked(options)
        batch = integer("batch_size", call.pop("batch_size", 1), 1, MOST)
        for name in ("num_workers", "timeout"):
            call.pop(name, None)
        if isinstance(inputs, list | tuple):
            return self._answers(list(inputs), call)
        if is_stream(inputs):
            return self._stream(iter(_items(inputs)), batch, call)
        return self._answers([inputs], call)[0]

    def _stream(self, items: Iterator[Any], batch: int, options: dict[str, Any]) -> Iterator[Any]:
        while taken := list(islice(items, batch)):
            yield from self._answers(taken, options)

    def _answers(self, items: list[Any], options: dict[str, Any]) -> list[Any]:
        """A result for each input."""
        raise NotImplementedError


def is_stream(given: Any) -> bool:
    """Whether it is a generator or a dataset: neither one input nor a list. An open file and an array are inputs."""
    if isinstance(given, Iterator):
        return not hasattr(given, "read")
    if isinstance(given, str | bytes | bytearray | memoryview | Mapping) or hasattr(given, "read"):
        return False
    if hasattr(given, "__array__") or hasattr(given, "__array_interface__") or hasattr(given, "__dlpack__"):
        return False
    return hasattr(given, "__iter__") or (hasattr(given, "__getitem__") and hasattr(given, "__len__"))


def _items(dataset: Any) -> Iterable[Any]:
    """A dataset's; torch's need not end in an IndexError."""
    return dataset if hasattr(dataset, "__iter__") else (dataset[index] for index in range(len(dataset)))


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Raises RequestError for an argument that there is not."""
    names = sorted(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise RequestError(f"{name}: no such argument" + (f"; did you mean {near[0]}?" if near else ""))
