"""`DetectionEval`: what the fixture `detection_eval` is.

Knows: pytest's requests, markers, options. Must not know: how answers or figures come about.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from ..errors import RequestError
from ..notices import warn
from .cache import AnswerCache, digest
from .comparison import Source, compare
from .overlays import overlay
from .reports import entry_of
from .results import Comparison, Limits

__all__ = ["DetectionEval", "entries"]

_COMPARED = [name for name in inspect.signature(compare).parameters if name not in ("cache", "source")]
_LIMITS = [f"min_{field.name}" for field in fields(Limits)]
_SAVED = 4  # pictures of one failure


@dataclass
class _Result:
    """Of one call of `run`."""

    comparison: Comparison
    failure: str | None


class DetectionEval:
    """Evaluates detection within a test.

    The marker's arguments and those of :meth:`run` are those of :func:`gemma4.evaluate.compare`, and the least figures
    that suffice, `min_map`, `min_map50`, `min_precision`, `min_recall` and `min_f1`: a number, or a mapping from labels
    to numbers.
    """

    def __init__(self, request: pytest.FixtureRequest, model: str, results: list[Any]) -> None:
        self._request, self._model, self._results = request, model, results

    def run(self, dataset: Any = None, **arguments: Any) -> Comparison:
        """Ask, compare, and check every row against the least figures.

        Args:
            dataset: instead of the marker's. A relative path is one of the working directory, or else of the test's
                folder, or else of pytest's root directory.
            arguments: instead of the marker's of the same name.

        Raises:
            AssertionError: a row falls short. The message is a table, what went wrong where, and the path of a picture
                of the worst.
            RequestError: an argument is wrong; and the errors of :func:`gemma4.evaluate.compare`.
        """
        __tracebackhide__ = True
        if dataset is not None:
            arguments["dataset"] = dataset
        given = {**self._marked(), **arguments}
        for name in given:
            if name not in (*_COMPARED, *_LIMITS):
                near = difflib.get_close_matches(name, [*_COMPARED, *_LIMITS], 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join([*_COMPARED, *_LIMITS])}"
                raise RequestError(f"detection_eval: {name}: no such argument; {hint}")
        if given.get("dataset") is None:
            raise RequestError("detection_eval: there is no dataset; give one to the marker or to run()")
        limits = Limits(**{name.removeprefix("min_"): given.pop(name) for name in _LIMITS if name in given})
        for name in ("dataset", "images"):
            given[name] = self._found(given.get(name))
        result = compare(given.pop("dataset"), **given, source=self._source())
        message = result.check(limits)
        self._record(result, message)
        if message is not None:
            saved = "".join(f"\npicture: {path}" for path in self._save(result, limits))
            raise AssertionError(message + saved)
        return result

    __call__ = run

    def _marked(self) -> dict[str, Any]:
        """What the markers say, the nearest last."""
        found: dict[str, Any] = {}
        for marker in reversed(list(self._request.node.iter_markers("detection_eval"))):
            if len(marker.args) > 1:
                raise RequestError("detection_eval: only the dataset is given without a name")
            found |= {**dict(zip(("dataset",), marker.args, strict=False)), **marker.kwargs}
        return found

    def _found(self, path: Any) -> Any:
        if not isinstance(path, str | os.PathLike) or Path(path).expanduser().is_absolute():
            return path
        homes = (Path.cwd(), self._request.path.parent, self._request.config.rootpath)
        return next((home / path for home in homes if (home / path).exists()), path)

    def _source(self) -> Source:
        cache = AnswerCache(self._folder)
        definitions = self._request.session._fixturemanager.getfixturedefs("gemma4_model", self._request.node)
        # Somebody's own fixture may load anything: its model is asked what it was loaded with.
        own = not definitions or definitions[-1].func.__module__ != "gemma4.evaluate.plugin"
        return Source(
            cache,
            lambda: self._request.getfixturevalue("gemma4_model"),
            None if own else {"source": self._model},
        )

    @functools.cached_property
    def _folder(self) -> Path | None:
        """Where answers are kept; None for nowhere."""
        config = self._request.config
        if config.getoption("--gemma4-no-cache"):
            return None
        named = config.getoption("--gemma4-cache")
        if named:
            return Path(config.invocation_params.dir, named)
        cache = getattr(config, "cache", None)  # not there with -p no:cacheprovider
        try:
            return None if cache is None else cache.mkdir("gemma4")
        except OSError as error:
            warn(f"answers are not kept: {error}")
            return None

    def _record(self, result: Comparison, message: str | None) -> None:
        self._results.append(_Result(result, message))
        for row in result:
            for name in ("map", "map50", "precision", "recall", "f1"):
                value = getattr(row, name)
                if value is not None:
                    self._request.node.user_properties.append((f"gemma4.{row.name}.{name}", round(value, 6)))
            self._request.node.user_properties.append((f"gemma4.{row.name}.seconds", round(row.seconds, 6)))
        if "eval_bag" in self._request.fixturenames:  # of pytest-evals
            self._request.getfixturevalue("eval_bag").detection_eval = result

    def _failures(self) -> Path:
        """Where pictures of failures go: beside the answers that are kept, or where pytest's own things go."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                kept = self._folder / "failures"
                kept.mkdir(parents=True, exist_ok=True)
                return kept
        made: Path = self._request.getfixturevalue("tmp_path_factory").mktemp("gemma4", numbered=True)
        return made

    def _save(self, result: Comparison, limits: Limits) -> list[Path]:
        """Of each row that falls short the worst picture, drawn."""
        folder = self._failures()
        saved = []
        for row in [row for row in result if limits.short(row)][:_SAVED]:
            worst = max(range(len(row.pictures)), key=lambda index: row.pictures[index].faults)
            name = re.sub(r"[^\w.-]+", "-", f"{self._request.node.name}-{row.name}", flags=re.ASCII)[:80].strip("-.")
            unique = digest([self._request.node.nodeid, row.name])[:8]
            path = folder / f"{name}-{unique}.png"
            drawn = overlay(result.pixels(worst), row.pictures[worst], None)
            drawn.save(path)
            saved.append(path)
        return saved


def entries(test: str, results: Sequence[_Result], failure: str | None, overlays: bool) -> list[dict[str, Any]]:
    """Of a test, for reports. A failure that is none of a comparison's own is said of the last."""
    own = any(one.failure for one in results)
    found = []
    for index, one in enumerate(results):
        said = one.failure or (failure if not own and index == len(results) - 1 else None)
        found.append(entry_of(one.comparison, test, said, overlays))
    return found
