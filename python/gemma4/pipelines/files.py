"""A task over many files, behind ``gemma4 batch``: items in, rows out, in the same order.

Knows: the order of things: inputs, questions, answers, rows, the journal, the output. Must not know: wordings, formats,
terminals beyond a progress bar. Answers are computed many at once, and each row is in the journal as soon as it and all
before it are there, so that a run that ends anywhere goes on from there.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import files_of
from ..digests import file_digest
from ..errors import ModelFileChanged, RequestError
from ..model import Model
from ..progress import progress_bar
from ..prompt import Question
from ..replacing import beside
from ..runtime import Questions, answer_all
from ..version import __version__
from .inputs import Inputs, read_inputs
from .items import Item, Wanted, clean
from .journal import Journal
from .outputs import check_place, format_of

__all__ = ["TASKS", "Job", "Summary", "run_job"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What is asked about every item."""

    task: str
    """One of `TASKS`."""
    labels: str | list[str] | None = None
    """Those of an item go before them, and so does its prompt."""
    prompt: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the task's method."""
    fps: float | None = None
    column: str | None = None


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    rows: int
    failed: int
    """Rows that are errors."""


@dataclass(frozen=True)
class Task:
    """How an item is asked about, and what the row says."""

    kinds: tuple[str, ...]
    ask: Callable[[_Asking, Item, Job], Questions[Any]]
    told: Callable[[Any], Row]
    columns: Mapping[str, str]
    """What `told` gives, with its types in a table."""
    unit: str


class _Asking(Model):
    """A model whose tasks give the questions instead of the answer, so that many can be answered at once."""

    def _ask(self, given: Any, task: Callable[[Any], Any], on_error: Any) -> Questions[Any]:
        asked = task(given)
        return Questions((self._answer(Question(one), options) for one, options in asked.requests), asked.read)

    @classmethod
    def of(cls, model: Model) -> _Asking:
        """The same model."""
        self = object.__new__(cls)
        self.__dict__.update(model.__dict__)
        return self


# ---------------------------------------------------------------------------------------------------------------------
# Tasks


def _detect(model: _Asking, item: Item, job: Job) -> Any:
    own = "labels" in item.given or "prompt" in item.given
    labels = item.given.get("labels") if own else job.labels
    prompt = item.given.get("prompt") if own else job.prompt
    return model.detect(_medium(item, "image"), labels, prompt=prompt, **job.options)


def _point(model: _Asking, item: Item, job: Job) -> Any:
    labels = item.given.get("labels", job.labels)
    if isinstance(labels, list) and len(labels) == 1:
        labels = labels[0]
    return model.point(_medium(item, "image"), labels, **job.options)


def _caption(model: _Asking, item: Item, job: Job) -> Any:
    return model.caption(_medium(item, "image"), **job.options)


def _read(model: _Asking, item: Item, job: Job) -> Any:
    return model.read(_medium(item, "image"), **job.options)


def _transcribe(model: _Asking, item: Item, job: Job) -> Any:
    return model.transcribe(_medium(item, "audio"), **job.options)


def _generate(model: _Asking, item: Item, job: Job) -> Any:
    messages = item.given.get("messages", item.given.get("prompt", job.prompt))
    if messages is None:
        raise RequestError("prompt: there is none, neither for all nor of this row")
    question = Question(messages, item.given.get("image"), item.given.get("audio"), item.given.get("video"))
    # What is drawn by chance is drawn again when a run goes on.
    options: Any = {"seed": 0, **job.options}
    return Questions([model._answer(question, options)], lambda answers: answers[0])


def _medium(item: Item, kind: str) -> Any:
    if kind not in item.given:
        raise RequestError(f"{kind}: this row has none")
    return item.given[kind]


def _found(found: Any) -> Row:
    return {"result": found.to_dicts(), "image_size": list(found.image_size)}


def _text(answer: Any) -> Row:
    return {"result": str(answer)}


def _said(said: Any) -> Row:
    return {"result": str(said), "segments": [{"start": s.start, "end": s.end, "text": s.text} for s in said.segments]}


def _generated(out: Any) -> Row:
    return {"result": out.text, "thinking": out.thinking, "finish_reason": out.finish_reason}


_SIZE = {"image_size": "size"}
TASKS = {
    "detect": Task(("image",), _detect, _found, {"result": "boxes", **_SIZE}, " pictures"),
    "point": Task(("image",), _point, _found, {"result": "points", **_SIZE}, " pictures"),
    "caption": Task(("image",), _caption, _text, {"result": "text"}, " pictures"),
    "read": Task(("image",), _read, _text, {"result": "text"}, " pictures"),
    "transcribe": Task(("audio",), _transcribe, _said, {"result": "text", "segments": "segments"}, " sounds"),
    "generate": Task(
        ("image", "audio", "video"), _generate, _generated,
        {"result": "text", "thinking": "text", "finish_reason": "text"}, " prompts",
    ),
}  # fmt: skip
_BEFORE = {"id": "text", "path": "text", "seconds": "number", "status": "text"}
_BEHIND = {"error": "error", "warnings": "texts"}
_OTHERWISE = {"source", "revision", "mmproj", "adapter", "num_threads", "cache_bytes", "drafter"}
"""Of a model's arguments: what the fingerprint of its weights says better, and what changes no answer."""


# ---------------------------------------------------------------------------------------------------------------------
# A run


def run_job(
    model: Model, job: Job, inputs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], *,
    restart: bool = False, progress: bool = False, tell: Callable[[str], object] = lambda note: None,
) -> Summary:  # fmt: skip
    """Ask about everything in the inputs, and write a row for each item.

    Args:
        model: answers.
        job: what to ask.
        inputs: as in :func:`gemma4.pipelines.inputs.read_inputs`.
        out: a .jsonl or .parquet file; of boxes also a .json file as COCO has them, or a folder as YOLO has them.
            Beside it lies a journal while the run is on its way; the same call goes on with that.
        restart: begin anew, and replace what is there.
        progress: show it on stderr, with items a second and the time left.
        tell: is told what is left out, and where a run goes on.

    Returns:
        how many rows there are. An item that cannot be answered is a row with an error.

    Raises:
        RequestError: an argument is wrong, `out` is there already, or the journal is one of another run.
        MediaError: an input is missing.
        ModelFileChanged: the weights were changed; what was done until then is kept.

    >>> import gemma4, pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "in.jsonl").write_text('{"prompt": "Hello"}\\n{"prompt": 3}\\n')
    >>> job = Job("generate", options={"max_new_tokens": 4})
    >>> run_job(gemma4.Model.from_pretrained("demo"), job, [folder / "in.jsonl"], folder / "out.jsonl")
    Summary(rows=2, failed=1)
    """
    task, target = TASKS[job.task], Path(os.path.realpath(out))
    journal_at = target.with_name(f"{target.name}.part.jsonl")
    write = format_of(target, boxes=job.task == "detect")
    check_place(target)
    if target.exists() and not (restart or journal_at.exists()):
        raise RequestError(f"{target} is there already; --restart replaces it")
    wanted = Wanted(task.kinds, job.fps, job.column)
    found = read_inputs(inputs, wanted)
    for note in found.notes:
        tell(note)
    if target.exists() and any(os.path.samefile(source.path, target) for source in found.sources):
        raise RequestError(f"{target} is an input, which is not overwritten")
    total, asking = found.count(), _Asking.of(model)
    _try_out(asking, task, job, found, tell)
    journal = Journal(journal_at, _settings(model, job), restart)
    try:
        if journal.count:
            tell(f"{journal.count:,} of {total:,} are done already")
        _go_on(asking, job, found, journal, total, progress)
        columns = {**_BEFORE, **task.columns, **_BEHIND}
        names = [job.labels] if isinstance(job.labels, str) else job.labels or []
        with beside(target, sync=True, alone=True) as made:
            write(made, journal.rows, columns, names)
        journal.remove()
    finally:
        journal.close()
    return Summary(journal.count, journal.failed)


def _settings(model: Model, job: Job) -> dict[str, Any]:
    """Everything that a row depends on."""
    loaded = {name: value for name, value in model._arguments.items() if name not in _OTHERWISE}
    adapter = model._arguments["adapter"]
    return {
        "version": __version__,
        **asdict(job),
        **loaded,
        "model": model._runtime.loaded.fingerprint,
        "adapter": None if adapter is None else _contents(adapter),
    }


def _contents(adapter: Any) -> list[Any]:
    """Of each adapter its name, and what is in its files."""
    named = adapter if isinstance(adapter, Mapping) else {"": adapter}
    return [
        [name, [[path.name, file_digest(path)] for path in sorted(files_of(where))]]
        for name, where in sorted(named.items())
    ]


def _try_out(model: _Asking, task: Task, job: Job, found: Inputs, tell: Callable[[str], object]) -> None:
    """What is wrong with the question itself is told once and before anything is begun, not in every row."""
    blank = {"image": np.full((64, 64, 3), 255, np.uint8), "audio": np.zeros(16_000, np.float32)}
    given: dict[str, Any] = {kind: blank[kind] for kind in task.kinds[:1]}
    if found.own_questions and job.labels is None and job.prompt is None:
        given |= {"prompt": "…"} if job.task in ("detect", "generate") else {"labels": "…"}
    if job.task == "generate":
        given.pop("image")  # it may be about words alone
    notes: list[str] = []
    with _hears(notes):
        next(iter(task.ask(model, Item("", given=given), job).answers))
    for note in notes:
        tell(note)


def _go_on(model: _Asking, job: Job, found: Inputs, journal: Journal, total: int, progress: bool) -> None:
    """Answer what is not answered yet."""
    seconds = 0.1 if sys.stderr.isatty() else 10  # between two lines of a log
    with progress_bar(
        total=total, initial=journal.count, unit=TASKS[job.task].unit, disable=not progress, mininterval=seconds,
        maxinterval=max(10, 3 * seconds), dynamic_ncols=True,
    ) as bar:  # fmt: skip
        for row in _rows(model, job, _not_done(found, journal)):
            journal.append(row)
            if row["error"] is not None:
                bar.set_postfix(errors=journal.failed, refresh=False)
            bar.update()


def _not_done(found: Inputs, journal: Journal) -> Iterator[Item]:
    """The items behind those in the journal. Raises RequestError where these are not the items that there were."""
    items = found.items()
    for number, row in enumerate(journal.rows(), start=1):
        item = next(items, None)
        if item is None or item.id != row["id"]:
            now = "nothing" if item is None else item.id
            raise RequestError(
                f"the inputs have changed: row {number} was {row['id']}, now it would be {now}; --restart begins anew"
            )
    yield from items


def _rows(model: _Asking, job: Job, items: Iterator[Item]) -> Iterator[Row]:
    """A row for each item, in order; as many are computed at once as fit."""
    task = TASKS[job.task]
    empty = dict.fromkeys(task.columns)
    on_the_way: deque[tuple[Row, list[str]]] = deque()  # of the items that were looked at, and what was warned of

    def questions(item: Item, notes: list[str]) -> Questions[Row]:
        if item.error is not None:
            raise item.error
        with _hears(notes):
            asked = task.ask(model, item, job)

        def answers() -> Iterator[Any]:
            made = iter(asked.answers)
            while True:
                with _hears(notes):
                    answer = next(made, None)
                if answer is None:
                    return
                yield answer

        def read(results: list[Any]) -> Row:
            with _hears(notes):
                return {"status": "ok", **task.told(asked.read(results)), "error": None}

        return Questions(answers(), read)

    def looked_at() -> Iterator[Callable[[], Questions[Row]]]:
        for item in items:
            notes: list[str] = []
            on_the_way.append(({"id": item.id, "path": item.path, "seconds": item.seconds}, notes))
            yield lambda item=item, notes=notes: questions(item, notes)  # type: ignore[misc]

    for row in answer_all(model._runtime, looked_at(), _failed):
        who, notes = on_the_way.popleft()
        yield {**who, "status": row["status"], **empty, **row, "warnings": notes}


def _failed(error: Exception) -> Row:
    """What a row says that could not be answered. Errors that all others would have, too, end the run."""
    if isinstance(error, ModelFileChanged):
        raise error
    return {"status": "error", "error": {"type": type(error).__name__, "message": clean(str(error))}}


@contextmanager
def _hears(notes: list[str]) -> Iterator[None]:
    """Keeps what is warned of."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("ignore")
        for kind in (RuntimeWarning, UserWarning):
            warnings.simplefilter("always", kind)
        try:
            yield
        finally:
            notes += [clean(str(one.message)) for one in heard]
