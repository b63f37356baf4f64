"""`Skills`: what a model can be asked about pictures and sounds, one by one or in lists.

Knows: the arguments of each task, what a list is. Must not know: wordings (`tasks`), the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from numbers import Number
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

import numpy as np

from . import tasks
from .answer import GenerationArguments, GenerationOptions, GenerationResult
from .detections import Detections, Points
from .errors import RequestError
from .media import SAMPLE_RATE
from .progress import progress_bar
from .prompt import PreparedInputs, Question
from .runtime import Answer, PrefixCache, Questions, Runtime, answer_all

if TYPE_CHECKING:
    from .media import Image, Sound
    from .runtime import AdapterName

__all__ = ["OnError", "Several", "Skills"]

T = TypeVar("T")
OnError = Literal["raise", "return"]
OnInvalid = Literal["warn", "raise"]
Labels: TypeAlias = str | Iterable[str] | None
"""What to look for: one label, several in any collection, or None for everything."""
Several: TypeAlias = list[T] | Iterator[T]


class Skills:
    """The tasks of :class:`gemma4.Model`.

    Each takes one picture or sound, or a list or an iterator of them: then the answers are computed together, which
    takes less time than one after the other, and come as a list in the same order, each the one that it would be alone.
    Of an iterator no more is taken than is being computed. `on_error="return"` puts the exception in the place of a
    picture that raised one; otherwise the first ends the call.
    """

    _runtime: Runtime

    @property
    def modalities(self) -> frozenset[str]:
        """What can be put in: `"text"`, `"image"`, `"audio"`, `"video"`."""
        return self._runtime.loaded.modalities

    @overload
    def detect(
        self, image: Image, labels: Labels = None, *, prompt: str | None = None,
        open_labels: bool = False, threshold: float | None = None, tile: int | tuple[int, int] | None = None,
        refine: bool = False, on_invalid: OnInvalid = "warn", keep_image: bool = False,
        max_soft_tokens: int | None = None, max_new_tokens: int = tasks.MOST_PLACES_TOKENS,
        adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> Detections: ...  # fmt: skip
    @overload
    def detect(
        self, image: Several[Image], labels: Labels = None, *, prompt: str | None = None,
        open_labels: bool = False, threshold: float | None = None, tile: int | tuple[int, int] | None = None,
        refine: bool = False, on_invalid: OnInvalid = "warn", keep_image: bool = False,
        max_soft_tokens: int | None = None, max_new_tokens: int = tasks.MOST_PLACES_TOKENS,
        adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> list[Detections]: ...  # fmt: skip
    def detect(
        self, image: Any, labels: Labels = None, *, prompt: str | None = None,
        open_labels: bool = False, threshold: float | None = None, tile: int | tuple[int, int] | None = None,
        refine: bool = False, on_invalid: OnInvalid = "warn", keep_image: bool = False,
        max_soft_tokens: int | None = None, max_new_tokens: int = tasks.MOST_PLACES_TOKENS,
        adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> Any:  # fmt: skip
        """Objects in a picture, with boxes in its pixels.

        Args:
            image: a path, bytes, `PIL.Image` or array; or a list or an iterator of them, which gives a list.
            labels: what to look for, one or several, in capitals or not; None for everything. Only objects with one of
                these labels are returned, spelled as they are here.
            prompt: the whole question instead of the family's. Labels, if there are any, hold the answer all the same;
                what ends in one is of its kind then (a blue star is a star).
            open_labels: let the model name what it finds as it likes, whatever was asked.
            threshold: the least score, from 0 to 1. None gives all, but of `labels` only objects that the model itself
                would call so: with a score of 0.05 and a tenth of the label's probability at least. An object that is
                named twice has a score near 0 the second time.
            tile: pixels of a side, or (width, height): look at overlapping parts of that size beside the whole, and
                merge what is found. It finds smaller things, and costs as much as so many pictures.
            refine: pixels from the mean of each coordinate over its near alternatives, weighted by their probability:
                finer than the grid. `box_2d` stays as the model wrote it.
            on_invalid: what becomes of a box whose end lies before its beginning: `"warn"` leaves it out with a
                RuntimeWarning, `"raise"` raises.
            keep_image: keep the picture's pixels in the result; otherwise it remembers a path, or a small preview.
            max_soft_tokens: more see smaller things; None for the checkpoint's.
            max_new_tokens: if the answer is longer, the objects so far are returned with a RuntimeWarning.
            adapter: as in :meth:`gemma4.Model.generate`, and so it is in all methods below.
            on_error: of a list: `"return"` puts an exception in the place of a picture that raised it.

        Returns:
            Objects in the order of the answer (by score with `tile`); empty if there are none. A score is the
            probability, by the model's own token probabilities, that the list goes on, that the object has this label,
            that its box has an IoU of 0.5 with the true one, each edge for itself, and that it is not one of the other
            objects once more. The answer is greedy and held to the family's form: a list, maybe empty, of labels with
            four integers from 0 to 1000, in a code fence or not.

        Raises:
            DetectionParseError: a box that cannot be, with `on_invalid="raise"`; `raw_text` is the answer.
            RequestError: an argument is wrong.

        >>> import gemma4
        >>> from PIL import Image
        >>> model = gemma4.Model.from_pretrained("demo")
        >>> white = Image.new("RGB", (320, 240), "white")
        >>> len(model.detect(white, "red circle")), [len(found) for found in model.detect([white, white], "red circle")]
        (0, [0, 0])
        """
        options = _options(max_soft_tokens, max_new_tokens, adapter)
        search = tasks.Search.of(
            labels, prompt, open_labels=open_labels, threshold=threshold, tile=tile, refine=refine,
            on_invalid=on_invalid, keep_image=keep_image,
        )  # fmt: skip
        return self._ask(image, lambda one: tasks.detect(self.modalities, one, search, options), on_error)

    @overload
    def point(
        self, image: Image, label: str, *, open_labels: bool = False, threshold: float | None = None,
        refine: bool = False, keep_image: bool = False, max_soft_tokens: int | None = None,
        max_new_tokens: int = tasks.MOST_PLACES_TOKENS, adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> Points: ...  # fmt: skip
    @overload
    def point(
        self, image: Several[Image], label: str, *, open_labels: bool = False, threshold: float | None = None,
        refine: bool = False, keep_image: bool = False, max_soft_tokens: int | None = None,
        max_new_tokens: int = tasks.MOST_PLACES_TOKENS, adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> list[Points]: ...  # fmt: skip
    def point(
        self, image: Any, label: str, *, open_labels: bool = False, threshold: float | None = None,
        refine: bool = False, keep_image: bool = False, max_soft_tokens: int | None = None,
        max_new_tokens: int = tasks.MOST_PLACES_TOKENS, adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> Any:  # fmt: skip
        """Places of an object in a picture; arguments and errors as :meth:`detect`."""
        options = _options(max_soft_tokens, max_new_tokens, adapter)
        search = tasks.Search.of(
            label, open_labels=open_labels, threshold=threshold, refine=refine, keep_image=keep_image
        )
        return self._ask(image, lambda one: tasks.point(self.modalities, one, search, options), on_error)

    @overload
    def caption(
        self,
        image: Image,
        *,
        max_soft_tokens: int | None = None,
        max_new_tokens: int = 512,
        adapter: AdapterName = None,
        on_error: OnError = "raise",
    ) -> str: ...
    @overload
    def caption(
        self, image: Several[Image], *, max_soft_tokens: int | None = None, max_new_tokens: int = 512,
        adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> list[str]: ...  # fmt: skip
    def caption(
        self,
        image: Any,
        *,
        max_soft_tokens: int | None = None,
        max_new_tokens: int = 512,
        adapter: AdapterName = None,
        on_error: OnError = "raise",
    ) -> Any:
        """A description of a picture, or of each of a list. A RuntimeWarning says if `max_new_tokens` cut it."""
        return self._describe(image, tasks.CAPTION, _options(max_soft_tokens, max_new_tokens, adapter), on_error)

    @overload
    def read(
        self, image: Image, *, max_soft_tokens: int | None = None, max_new_tokens: int = 2048,
        adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> str: ...  # fmt: skip
    @overload
    def read(
        self, image: Several[Image], *, max_soft_tokens: int | None = None, max_new_tokens: int = 2048,
        adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> list[str]: ...  # fmt: skip
    def read(
        self,
        image: Any,
        *,
        max_soft_tokens: int | None = None,
        max_new_tokens: int = 2048,
        adapter: AdapterName = None,
        on_error: OnError = "raise",
    ) -> Any:
        """The text in a picture, or in each of a list. A RuntimeWarning says if `max_new_tokens` cut it."""
        return self._describe(image, tasks.READ, _options(max_soft_tokens, max_new_tokens, adapter), on_error)

    @overload
    def transcribe(
        self, audio: Sound, language: str | None = None, *, chunk_seconds: float | None = None,
        sampling_rate: int = SAMPLE_RATE, max_new_tokens: int = tasks.MOST_SPEECH_TOKENS,
        adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> tasks.Transcript: ...  # fmt: skip
    @overload
    def transcribe(
        self, audio: Several[Sound], language: str | None = None, *, chunk_seconds: float | None = None,
        sampling_rate: int = SAMPLE_RATE, max_new_tokens: int = tasks.MOST_SPEECH_TOKENS,
        adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> list[tasks.Transcript]: ...  # fmt: skip
    def transcribe(
        self, audio: Any, language: str | None = None, *, chunk_seconds: float | None = None,
        sampling_rate: int = SAMPLE_RATE, max_new_tokens: int = tasks.MOST_SPEECH_TOKENS,
        adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> Any:  # fmt: skip
        """What is said in a sound.

        Args:
            audio: as in :meth:`encode_audio`; or a list or an iterator of sounds, which gives a list.
            language: an English name or a code such as `"en"`; None for whatever is spoken.
            chunk_seconds: 1 to 30: cut a longer sound there, wherever a word may be, and transcribe the parts.
            sampling_rate: of an array that comes without one, in Hz.
            max_new_tokens: for each part; a RuntimeWarning says if they cut an answer.
            on_error: as in :meth:`detect`.

        Returns:
            A string; its `segments` say which part of the sound each piece of it comes from.

        Raises:
            MediaError: as :meth:`encode_audio`; over 30 s without `chunk_seconds`.
        """
        options, cut = _options(None, max_new_tokens, adapter), tasks.Cut(chunk_seconds, sampling_rate)
        return self._ask(audio, lambda one: tasks.transcribe(self.modalities, one, language, cut, options), on_error)

    @overload
    def translate(
        self, audio: Sound, source: str | None = None, target: str = "English", *, chunk_seconds: float | None = None,
        sampling_rate: int = SAMPLE_RATE, max_new_tokens: int = tasks.MOST_SPEECH_TOKENS,
        adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> tasks.Translation: ...  # fmt: skip
    @overload
    def translate(
        self, audio: Several[Sound], source: str | None = None, target: str = "English", *,
        chunk_seconds: float | None = None, sampling_rate: int = SAMPLE_RATE,
        max_new_tokens: int = tasks.MOST_SPEECH_TOKENS, adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> list[tasks.Translation]: ...  # fmt: skip
    def translate(
        self, audio: Any, source: str | None = None, target: str = "English", *, chunk_seconds: float | None = None,
        sampling_rate: int = SAMPLE_RATE, max_new_tokens: int = tasks.MOST_SPEECH_TOKENS,
        adapter: AdapterName = None, on_error: OnError = "raise",
    ) -> Any:  # fmt: skip
        """What is said in a sound, in another language; `transcription` of the result is what was said.

        Args and errors as :meth:`transcribe`; `source` is the language spoken, `target` the one wanted. A
        RuntimeWarning says if an answer does not have the form that was asked for.
        """
        options, cut = _options(None, max_new_tokens, adapter), tasks.Cut(chunk_seconds, sampling_rate)
        return self._ask(
            audio, lambda one: tasks.translate(self.modalities, one, source, target, cut, options), on_error
        )

    def _describe(self, image: Any, prompt: str, options: GenerationArguments, on_error: OnError) -> Any:
        return self._ask(image, lambda one: tasks.describe(self.modalities, one, prompt, options), on_error)

    def _ask(self, given: Any, task: Callable[[Any], tasks.Task[Any]], on_error: OnError) -> Any:
        """A task about one thing, or about each of several."""

        def questions(one: Any) -> Questions[Any]:
            asked = task(one)
            answers = (self._answer(Question(messages), options) for messages, options in asked.requests)
            return Questions(answers, asked.read)

        check_on_error(on_error)
        if is_several(given):
            return self._each(given, questions, on_error)
        return next(answer_all(self._runtime, [partial(questions, given)], _raise))

    def _each(self, items: Iterable[Any], questions: Callable[[Any], Questions[T]], on_error: OnError) -> list[T]:
        """Of each item what is made of its answers."""
        failed: Callable[[Exception], Any] = _raise if on_error == "raise" else lambda error: error
        made = answer_all(self._runtime, (partial(questions, item) for item in items), failed)
        total = len(items) if isinstance(items, Sequence) else None
        return list(progress_bar(made, total=total, unit="item", delay=1, leave=False))

    def _answer(self, question: Question, options: GenerationArguments, cache: PrefixCache | None = None) -> Answer:
        resolved = GenerationOptions.resolve(self._runtime.loaded.defaults, **options)
        return self._runtime.answer(question, resolved, cache)


def is_several(given: Any) -> bool:
    """Whether pictures or sounds come in a list, or one by one."""
    if isinstance(given, list):
        return not (given and isinstance(given[0], Number))  # numbers are one sound's
    return isinstance(given, Iterator) and not hasattr(given, "read")  # an open file gives its lines


def are_prompts(messages: Any) -> bool:
    """Whether these are prompts rather than one: a list of messages and one of token ids are one."""
    if isinstance(messages, Iterator):
        return True
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, str | list | PreparedInputs) or (isinstance(first, np.ndarray) and first.ndim > 0)


def with_media(prompts: Iterable[Any], **media: Any) -> Iterable[tuple[Any, Any, Any, Any]]:
    """(messages, images, audio, video) of each prompt. Raises RequestError for media of another number of prompts."""
    count = len(prompts) if isinstance(prompts, list) else None
    for name, given in media.items():
        if given is None or (count is None and isinstance(given, Iterator)):
            continue
        if not isinstance(given, list | tuple) or (count is not None and len(given) != count):
            found = f"{len(given)}" if isinstance(given, list | tuple) else type(given).__name__
            raise RequestError(f"{name}: expected a list of {count}, one for each prompt or None, found {found}")
    beside = (repeat(None) if given is None else _for_each_prompt(given, name) for name, given in media.items())
    tuples = zip(prompts, *beside, strict=False)
    return tuples if count is None else list(tuples)


def _for_each_prompt(given: Iterable[Any], name: str) -> Iterator[Any]:
    """These media; RequestError is raised where one more is wanted."""
    found = 0
    for one in given:
        found += 1
        yield one
    raise RequestError(f"{name}: expected one for each prompt or None, found {found}")


def check_on_error(value: Any) -> None:
    """Raises RequestError for anything but what `on_error` may be."""
    if value not in ("raise", "return"):
        raise RequestError(f"on_error: expected 'raise' or 'return', found {str(value)[:40]!r}")


def only(answers: list[GenerationResult]) -> GenerationResult:
    """The answer to a single request."""
    return answers[0]


def _raise(error: Exception) -> Any:
    raise error


def _options(max_soft_tokens: int | None, max_new_tokens: int, adapter: AdapterName) -> GenerationArguments:
    return {"max_soft_tokens": max_soft_tokens, "max_new_tokens": max_new_tokens, "adapter": adapter}
