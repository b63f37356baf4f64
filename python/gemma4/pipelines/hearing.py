"""`"automatic-speech-recognition"`.

Knows: transformers' forms of sounds and of what was said. Must not know: questions, the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import Any

from ..arguments import number
from ..errors import RequestError
from ..notices import warn
from .calls import Pipeline, refuse_unknown

__all__ = ["AutomaticSpeechRecognitionPipeline"]

_LONGEST = 30.0  # seconds that the family hears at once
_GENERATE = ("max_new_tokens", "language", "task", "do_sample", "temperature", "num_beams", "return_timestamps")


class AutomaticSpeechRecognitionPipeline(Pipeline):
    """What is said in a sound.

    >>> import gemma4, numpy as np
    >>> recognizer = gemma4.pipeline("automatic-speech-recognition")
    >>> said = recognizer({"raw": np.zeros(8000, np.float32), "sampling_rate": 8000}, return_timestamps=True)
    >>> sorted(said), said["chunks"][0]["timestamp"]
    (['chunks', 'text'], (0.0, 1.0))
    """

    _ARGUMENTS = (
        "chunk_length_s", "stride_length_s", "ignore_warning", "return_timestamps", "return_language",
        "generate_kwargs", "adapter", *(name for name in _GENERATE if name != "return_timestamps"),
    )  # fmt: skip

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """`{"text"}` of a sound, with `"chunks": [{"text", "timestamp": (start, end)}, …]` in seconds where
        `return_timestamps=True`; a list for a list of sounds, an iterator for a generator or a dataset.

        Args:
            inputs: a path, bytes, an array at 16 kHz, or `{"raw" or "array": …, "sampling_rate": …}`, whose other keys
                come back in the result, as lists; or several of these.
            chunk_length_s: 1 to 30: where a longer sound is cut. Without it, 30: a sound of any length is heard.
            return_timestamps: True for the times of these parts. Those of words are not known to this model.
            generate_kwargs: `language` (`"en"`, `"english"`), `task` (`"transcribe"`, or `"translate"` into English)
                and `max_new_tokens` of each part; these may also be given directly.
            options: `stride_length_s` and `num_beams` change nothing, which a RuntimeWarning says; `adapter` as in
                :meth:`gemma4.Model.generate`; `batch_size`.

        Raises:
            RequestError: an argument is wrong, or asks for the times of words or the language.
            MediaError: a sound cannot be read.
        """
        single = isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[1], int)  # samples with a rate
        return self._run([inputs], options)[0] if single else self._run(inputs, options)

    def _check(self, options: Mapping[str, Any]) -> None:
        _Hearing(options).warn()

    def _answers(self, items: list[Any], options: dict[str, Any]) -> list[Any]:
        hearing = _Hearing(options)
        sounds = [_sound(item) for item in items]
        heard = [sound for sound, _ in sounds]
        if hearing.translates:
            said: list[Any] = self.model.translate(heard, hearing.language, "English", **hearing.options)
        else:
            said = self.model.transcribe(heard, hearing.language, **hearing.options)
        return [
            {"text": str(text), **({"chunks": _chunks(text)} if hearing.times else {}), **more}
            for text, (_, more) in zip(said, sounds, strict=True)
        ]


class _Hearing:
    """The arguments of a call in the words of `Model.transcribe`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        inner = options.get("generate_kwargs", {})
        if not isinstance(inner, Mapping):
            raise RequestError(f"generate_kwargs: expected a dict, found {type(inner).__name__}")
        refuse_unknown(inner, _GENERATE)
        both = {**inner, **{name: value for name, value in options.items() if name != "generate_kwargs"}}
        self.times = both.get("return_timestamps", False)
        if self.times not in (True, False):
            raise RequestError(f"return_timestamps: True or False, found {self.times!r}: words have no times here")
        if both.get("return_language"):
            raise RequestError("return_language: this model does not say which language it heard")
        if both.get("do_sample") or both.get("temperature"):
            raise RequestError("do_sample, temperature: a transcription is greedy; Model.generate samples")
        if both.get("task", "transcribe") not in ("transcribe", "translate"):
            raise RequestError(f"task: expected 'transcribe' or 'translate', found {both['task']!r}")
        self.translates = both.get("task") == "translate"
        self.language = _language(both.get("language"))
        seconds = both.get("chunk_length_s") or _LONGEST
        self.options: dict[str, Any] = {"chunk_seconds": number("chunk_length_s", seconds, 1, _LONGEST)}
        self.options |= {name: both[name] for name in ("max_new_tokens", "adapter") if name in both}
        self._beams, self._stride = both.get("num_beams", 1), both.get("stride_length_s")

    def warn(self) -> None:
        """Of what changes nothing here."""
        if self._beams != 1:
            warn("num_beams: no search with beams here; the answer is the greedy one")
        if self._stride:
            warn("stride_length_s: the parts of a sound do not overlap here")


def _language(given: Any) -> Any:
    """Whisper writes `"<|en|>"` and `"english"`."""
    if not isinstance(given, str):
        return given
    name = given.removeprefix("<|").removesuffix("|>")
    return name if len(name) <= 2 else name[:1].upper() + name[1:]


def _sound(item: Any) -> tuple[Any, dict[str, list[Any]]]:
    """A sound as `Model.transcribe` takes it, and what else came with it."""
    if isinstance(item, Number):
        raise RequestError("expected sounds, found numbers: the samples of one sound are an array")
    if not isinstance(item, Mapping):
        return item, {}
    if item.get("stride") is not None:
        raise RequestError("stride: the parts of a sound do not overlap here")
    samples = item.get("raw") if item.get("raw") is not None else item.get("array")
    if samples is None or "sampling_rate" not in item:
        raise RequestError(f"expected a dict with raw (or array) and sampling_rate, found {sorted(map(str, item))[:5]}")
    known = ("raw", "array", "sampling_rate", "path", "stride")
    more = {key: [value] for key, value in item.items() if key not in known}
    return {"array": samples, "sampling_rate": item["sampling_rate"]}, more


def _chunks(said: Any) -> list[dict[str, Any]]:
    """The parts; their texts joined are the whole."""
    chunks: list[dict[str, Any]] = []
    for part in said.segments:
        space = " " if part.text and any(chunk["text"] for chunk in chunks) else ""
        chunks.append({"text": space + part.text, "timestamp": (float(part.start), float(part.end))})
    return chunks
