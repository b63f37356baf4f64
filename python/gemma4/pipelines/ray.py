"""`Generator`: a model as a callable on batches of columns, for Ray Data, Hugging Face's datasets and Spark.

Knows: columns and their types, what Ray assigns to an actor. Must not know: how a question is asked. Nothing of Ray is
imported unless this process is one of its workers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..cpu import usable_cpus
from ..errors import (
    Cancelled,
    Gemma4Error,
    MediaError,
    ModelFileChanged,
    ModelFileError,
    OutOfMemoryError,
    RequestError,
)
from ..extras import extra
from ..model import Model

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

    from ..detections import Detections

__all__ = ["Generator", "make_predict_fn"]

Task = Literal["detect", "caption", "read", "transcribe", "generate"]

_OUTPUTS = {"detect": "detections", "caption": "caption", "read": "text", "transcribe": "text", "generate": "answer"}
_PICTURES, _SOUNDS = ("image", "bytes", "path"), ("audio", "bytes", "path")
"""Columns in which Ray's `read_images`, `read_binary_files` and Hugging Face's datasets have them."""
_OF_THE_MODEL = (ModelFileError, ModelFileChanged, OutOfMemoryError, Cancelled)
"""What no row is to blame for: raised whatever `on_error` says, so that the batch can be tried again."""


class Generator:
    """One task on batches of rows; made once for each actor, it loads the model once.

    With Ray Data, where each row is answered once even if an actor dies (Ray retries its batches)::

        ds = ray.data.read_binary_files("photos", include_paths=True)
        ds = ds.map_batches(
            gemma4.ray.Generator,
            fn_constructor_kwargs={"model": "demo", "task": "detect", "labels": ["cat"], "on_error": "return"},
            batch_size=16, compute=ray.data.ActorPoolStrategy(size=2), num_cpus=7)
        ds.write_parquet("found")

    One actor a machine is best, so as many as there are machines, each with all of its `num_cpus` but one, which reads
    files: actors that share a machine share its memory bandwidth, and where actors hold every CPU of a cluster, Ray
    waits for ever for one to read with. An actor uses as many threads as Ray assigns CPUs to it.

    With Hugging Face's datasets, `ds.map(generator.columns, batched=True, batch_size=16)`; with Spark see
    :func:`make_predict_fn`.

    >>> import gemma4, numpy as np
    >>> generator = gemma4.ray.Generator("demo", "detect", labels="star")
    >>> batch = generator({"image": np.full((2, 48, 64, 3), 255, np.uint8), "id": np.arange(2)})
    >>> sorted(batch), batch["detections"].to_pylist()
    (['detections', 'id', 'image'], [[], []])
    """

    def __init__(
        self, model: Any = "demo", task: Task = "detect", *, labels: Any = None, prompt: str | None = None,
        image: str | None = None, audio: str | None = None, prompt_column: str = "prompt", output: str | None = None,
        error: str = "error", on_error: Literal["raise", "return"] = "raise", num_threads: int | None = None,
        model_kwargs: Mapping[str, Any] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Load the model.

        Args:
            model: as in :meth:`gemma4.Model.from_pretrained`, or a :class:`gemma4.Model`.
            task: `"detect"` adds the column `detections`, `"caption"` `caption`, `"read"` and `"transcribe"` `text`,
                `"generate"` `answer`.
            labels: of `"detect"`, as in :meth:`gemma4.Model.detect`.
            prompt: of `"generate"`, the same for all rows; of `"detect"`, the whole question.
            image: the column with pictures: paths, bytes, arrays, `PIL.Image`, or `{"bytes", "path"}`. None takes
                `image`, `bytes` or `path`, whichever is there; for `"generate"`, none.
            audio: the column with sounds, for `"transcribe"` and `"generate"`; None as for `image`, with `audio`.
            prompt_column: of `"generate"` without a `prompt`: the column with each row's.
            output: another name of the column that is added.
            error: of the column that `on_error="return"` adds: what went wrong with a row, or null.
            on_error: `"return"` goes on with the other rows; `"raise"` ends with an error that names the row.
            num_threads: of the model; None for the CPUs that Ray assigned, and without Ray for all.
            model_kwargs: further arguments of :meth:`gemma4.Model.from_pretrained`.
            options: arguments of the model's method, such as `threshold`, `max_new_tokens` or `sampling_rate`.

        Raises:
            RequestError: an argument is wrong.
            ModelFileError: as :meth:`gemma4.Model.from_pretrained`.
        """
        if task not in _OUTPUTS:
            raise RequestError(f"task: expected one of {', '.join(_OUTPUTS)}, found {str(task)[:40]!r}")
        if on_error not in ("raise", "return"):
            raise RequestError(f"on_error: expected 'raise' or 'return', found {str(on_error)[:40]!r}")
        if labels is not None and task != "detect":
            raise RequestError(f"labels: {task} takes none")
        if prompt is not None and task not in ("detect", "generate"):
            raise RequestError(f"prompt: {task} takes none")
        if on_error == "return" and error == (output or _OUTPUTS[task]):
            raise RequestError(f"error: {error!r} is the column of the results already; give another name")
        if twice := {"source", "num_threads"} & {*(model_kwargs or {})}:
            raise RequestError(f"model_kwargs: {min(twice)} is an argument of its own")
        self._arguments = dict(
            model=model, task=task, labels=labels, prompt=prompt, image=image, audio=audio, output=output, error=error,
            prompt_column=prompt_column, on_error=on_error, num_threads=num_threads, model_kwargs=model_kwargs,
            **options,
        )  # fmt: skip
        self.task, self._labels, self._prompt, self._options = task, labels, prompt, options
        self._image, self._audio, self._prompt_column = image, audio, prompt_column
        self._output, self._error, self._returns = output or _OUTPUTS[task], error, on_error == "return"
        self._own = not isinstance(model, Model)
        threads = _assigned_threads() if num_threads is None else num_threads
        self._model = (
            Model.from_pretrained(model, num_threads=threads, **(model_kwargs or {})) if self._own else model
        )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), self._arguments)

    def close(self) -> None:
        """Let go of the weights, as the end of the generator does; not of a model that was given."""
        if self._own:
            self._model.close()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch with the results beside it: `{name: (n, …) array}` in, the same and one or two Arrow arrays out.

        `detections` are lists of `{"label", "score", "xyxy", "box_2d"}` as in :class:`gemma4.Detection`; the other
        results are strings. With `on_error="return"` a row that failed has null there and its error in `error`.

        Raises:
            RequestError: a column is missing, or would be overwritten; a row cannot be answered (or MediaError).
        """
        added, schema = self.columns(batch), self.schema
        arrow = extra("pyarrow", "ray")
        arrays = {name: arrow.array(values, schema.field(name).type) for name, values in added.items()}
        return {**batch, **arrays}

    def columns(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """The columns that a batch gets, as lists.

        This is what `datasets.Dataset.map(generator.columns, batched=True)` takes. Give it the types too, which it
        cannot guess of rows in which nothing is found:
        `features=datasets.Features({**ds.features, **datasets.Features.from_arrow_schema(generator.schema)})`.
        """
        names = (self._output, self._error) if self._returns else (self._output,)
        for name in names:
            if name in batch:
                raise RequestError(f"{name}: the batch has this column already; give output= or error= another name")
        _ = self._model.modalities  # of a closed model it is no row's error
        answers = self._answers(batch)
        results: list[Any] = []
        errors: list[str | None] = []
        for row, answer in enumerate(answers):
            failed = isinstance(answer, BaseException)
            if failed and (not self._returns or not _is_of_a_row(answer)):
                _raise(answer, row)
            results.append(None if failed else _plain(answer))
            errors.append(f"{type(answer).__name__}: {answer}" if failed else None)
        return {self._output: results, self._error: errors} if self._returns else {self._output: results}

    @property
    def schema(self) -> pa.Schema:
        """Arrow's types of the columns that are added."""
        arrow = extra("pyarrow", "ray")
        found = arrow.struct(
            [
                ("label", arrow.string()),
                ("score", arrow.float64()),
                ("xyxy", arrow.list_(arrow.float64())),
                ("box_2d", arrow.list_(arrow.int32())),
            ]
        )
        kind = arrow.list_(found) if self.task == "detect" else arrow.string()
        errors = [(self._error, arrow.string())] if self._returns else []
        return arrow.schema([(self._output, kind), *errors])

    def _answers(self, batch: Mapping[str, Any]) -> list[Any]:
        """For each row what the model says, or the error."""
        more = {**self._options, "on_error": "return"}
        if self.task == "transcribe":
            heard: list[Any] = self._model.transcribe(self._media(batch, self._audio, _SOUNDS), **more)
            return heard
        if self.task == "generate":
            images = None if self._image is None else self._media(batch, self._image, ())
            audio = None if self._audio is None else self._media(batch, self._audio, ())
            rows = len(next(iter(batch.values()), ()))
            prompts = [self._prompt] * rows if self._prompt is not None else self._column(batch, self._prompt_column)
            # A string from an array is one of NumPy's own, and a null no string: an error in its place.
            texts = [str(one) if isinstance(one, str) else one for one in prompts]
            return self._generated(texts, images, audio, more)
        pictures = self._media(batch, self._image, _PICTURES)
        if self.task == "detect":
            return self._model.detect(pictures, self._labels, prompt=self._prompt, **more)
        ask: Callable[..., list[Any]] = self._model.caption if self.task == "caption" else self._model.read
        return ask(pictures, **more)

    def _generated(self, prompts: list[Any], images: Any, audio: Any, more: dict[str, Any]) -> list[Any]:
        """Of an iterator, since a list whose first element is null would be taken for one prompt."""
        return self._model.generate(iter(prompts), images, audio, **more)

    def _media(self, batch: Mapping[str, Any], column: str | None, usual: tuple[str, ...]) -> list[Any]:
        name = column or next((name for name in usual if name in batch), usual[0] if usual else "")
        return [_medium(cell) for cell in self._column(batch, name)]

    def _column(self, batch: Mapping[str, Any], name: str) -> Any:
        if name not in batch:
            raise RequestError(f"{name}: no such column; the batch has {', '.join(map(str, batch)) or 'none'}")
        return batch[name]


def make_predict_fn(
    model: Any = "demo", task: Task = "detect", *, on_error: Literal["raise", "return"] = "raise", **arguments: Any
) -> Callable[[], Callable[[NDArray[Any]], Any]]:
    """For Spark's `predict_batch_udf`: a function that loads the model and returns one on a column of pictures, sounds
    (paths or bytes) or prompts.

    With a `prompt`, `"generate"` asks it about every picture of the column, or every sound with `audio="value"`.

    It gives strings, since Spark takes none but flat results: detections as JSON. With `on_error="return"` it gives
    `{"<output>": …, "error": …}` with an empty string for null, for which the return type is a struct of two strings::

        find = predict_batch_udf(gemma4.ray.make_predict_fn("demo", "detect", labels=["cat"]),
                                 return_type=StringType(), batch_size=16)
        spark.read.format("binaryFile").load("photos").withColumn("found", find("content"))

    A Python worker loads the model once and keeps it; set `spark.task.cpus` so that one runs on a machine.

    Args:
        model: as of :class:`Generator`, and so are `task`, `on_error` and `arguments`.

    >>> import gemma4, numpy as np
    >>> predict = gemma4.ray.make_predict_fn("demo", "generate", max_new_tokens=4)()
    >>> predict(np.array(["Hello"], object)).shape
    (1,)
    """
    return partial(_predictor, dict(model=model, task=task, on_error=on_error, **arguments))


def _predictor(arguments: dict[str, Any]) -> Callable[[NDArray[Any]], Any]:
    column = {"transcribe": "audio", "generate": "prompt_column"}.get(arguments["task"], "image")
    if column == "prompt_column" and arguments.get("prompt") is not None and arguments.get("audio") is None:
        column = "image"  # of which all are asked the same
    generator = Generator(**{column: "value", **arguments})

    def predict(values: NDArray[Any]) -> Any:
        columns = generator.columns({"value": values})
        flat = {name: np.array([_written(one) for one in column], object) for name, column in columns.items()}
        return flat if len(flat) > 1 else next(iter(flat.values()))

    return predict


def _written(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _made(cls: type[Generator], arguments: dict[str, Any]) -> Generator:
    return cls(**arguments)


def _assigned_threads() -> int | None:
    """The CPUs that Ray assigned to this actor; None outside of Ray, or where it assigned none."""
    if "ray" not in sys.modules:
        return None
    import ray

    if not ray.is_initialized():
        return None
    context: Any = ray.get_runtime_context()
    if context.worker.mode != ray.WORKER_MODE:
        return None
    cpus = context.get_assigned_resources().get("CPU", 0)
    return min(max(1, int(cpus)), usable_cpus()) if cpus else None


def _medium(cell: Any) -> Any:
    """A picture or a sound as the model takes it; Hugging Face's datasets store `{"bytes", "path"}`."""
    if isinstance(cell, Mapping) and ("bytes" in cell or "path" in cell) and "array" not in cell:
        return cell.get("bytes") or cell.get("path")
    return cell


def _plain(answer: Any) -> Any:
    """What Arrow can hold."""
    from ..detections import Detections

    return _rows(answer) if isinstance(answer, Detections) else str(answer)


def _rows(found: Detections) -> list[dict[str, Any]]:
    return [{name: one[name] for name in ("label", "score", "xyxy", "box_2d")} for one in found.to_dicts()]


def _is_of_a_row(error: BaseException) -> bool:
    return isinstance(error, Gemma4Error) and not isinstance(error, _OF_THE_MODEL)


def _raise(error: BaseException, row: int) -> None:
    if not _is_of_a_row(error):
        raise error
    kind = MediaError if isinstance(error, MediaError) else RequestError
    raise kind(f"row {row} of the batch: {error}") from error
