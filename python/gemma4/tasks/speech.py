"""Tasks on speech: the family's prompts, long recordings piece by piece, and what the answers say.

Knows: the wording, languages. Must not know: templates, samples, the engine.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import MediaError, RequestError
from ..media import SAMPLE_RATE, load_audio, load_pieces
from ..tokens import check_text
from .asking import CUT, Asked, why_cut

if TYPE_CHECKING:
    from ..answer import GenerationResult

__all__ = ["MOST_SPEECH_TOKENS", "Segment", "Transcript", "Translation"]

MOST_SPEECH_TOKENS = 512  # of one piece; 30 s of fast speech are some 150

# From the model cards of E2B and E4B.
_FORMAT = (
    "Follow these specific instructions for formatting the answer:\n"
    "* Only output the transcription, with no newlines.\n"
    "* When transcribing numbers, write the digits, i.e. write 1.7 and not one point seven, and write 3 instead of "
    "three."
)
TRANSCRIBE = "Transcribe the following speech segment in {language} into {language} text.\n\n" + _FORMAT
TRANSCRIBE_ANY = "Transcribe the following speech segment in its original language. " + _FORMAT
TRANSLATE = (
    "Transcribe the following speech segment in {source}, then translate it into {target}. When formatting the answer, "
    "first output the transcription in {source}, then one newline, then output the string '{target}: ', then the "
    "translation in {target}."
)
_ORIGINAL = "its original language"

_LANGUAGES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish", "fr": "French",
    "gu": "Gujarati", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian",
    "it": "Italian", "ja": "Japanese", "kn": "Kannada", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian",
    "ml": "Malayalam", "mr": "Marathi", "ms": "Malay", "nl": "Dutch", "no": "Norwegian", "pa": "Punjabi",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian",
    "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai", "tr": "Turkish",
    "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


@dataclass(frozen=True)
class Segment:
    """What was said in a part of the sound."""

    start: float
    """Seconds from the beginning."""
    end: float
    text: str
    transcription: str | None = None
    """Of a translated part: what was said, in the language it was said in."""


class Transcript(str):
    """A text, and the parts of the sound that it comes from: one, unless `chunk_seconds` cut it.

    >>> said = Transcript([Segment(0.0, 1.5, "one two"), Segment(1.5, 3.0, "three")])
    >>> said == "one two three", said.segments[1].start
    (True, 1.5)
    """

    segments: tuple[Segment, ...]

    def __new__(cls, segments: Iterable[Segment]) -> Transcript:
        parts = tuple(segments)
        self = super().__new__(cls, " ".join(part.text for part in parts if part.text))
        self.segments = parts
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.segments,)


class Translation(Transcript):
    """A translated text; `segments` and `transcription` also hold what was said."""

    @property
    def transcription(self) -> str:
        """What was said, in the language it was said in."""
        return " ".join(part.transcription for part in self.segments if part.transcription)


def transcribe(
    model: Asked, audio: Any, language: Any, chunk_seconds: Any, sampling_rate: Any, max_new_tokens: int,
    adapter: Any = None,
) -> Transcript:  # fmt: skip
    """See `Model.transcribe`."""
    question = transcription_prompt(language)
    options = {"max_new_tokens": max_new_tokens, "adapter": adapter}
    answers = _ask(model, audio, question, chunk_seconds, sampling_rate, **options)
    return Transcript(Segment(start, end, answer) for start, end, answer in answers)


def translate(
    model: Asked, audio: Any, source: Any, target: Any, chunk_seconds: Any, sampling_rate: Any, max_new_tokens: int,
    adapter: Any = None,
) -> Translation:  # fmt: skip
    """See `Model.translate`."""
    question = translation_prompt(source, target)
    name = _language(target, "target")
    options = {"max_new_tokens": max_new_tokens, "adapter": adapter}
    answers = _ask(model, audio, question, chunk_seconds, sampling_rate, **options)
    return Translation([_translated(*answer, name) for answer in answers])


def transcription_prompt(language: Any = None) -> str:
    """The family's request for a transcription.

    >>> transcription_prompt("en").splitlines()[0]
    'Transcribe the following speech segment in English into English text.'
    """
    return TRANSCRIBE_ANY if language is None else TRANSCRIBE.replace("{language}", _language(language, "language"))


def translation_prompt(source: Any, target: Any) -> str:
    """The family's request for a translation; `source` may be None for whatever is spoken."""
    spoken = _ORIGINAL if source is None else _language(source, "source")
    return TRANSLATE.replace("{source}", spoken).replace("{target}", _language(target, "target"))


def _language(value: Any, argument: str) -> str:
    """A language's English name; codes of two letters are looked up."""
    name = check_text(value, argument).strip()
    if not name or len(name) > 60 or "\n" in name:
        raise RequestError(f"{argument}: expected a language, such as 'English' or 'en', found {name[:40]!r}")
    if len(name) > 2:
        return name
    if name.lower() not in _LANGUAGES:
        raise RequestError(f"{argument}: unknown code {name!r}; give the language's English name")
    return _LANGUAGES[name.lower()]


def _ask(
    model: Asked, audio: Any, question: str, chunk_seconds: Any, sampling_rate: Any, **options: Any
) -> list[tuple[float, float, str]]:
    """(start, end, answer) of every part of a sound; greedy."""
    if "audio" not in model.modalities:
        raise MediaError("audio: this model has no audio: it cannot take sounds")
    if chunk_seconds is None:
        samples = load_audio(audio, "audio", sampling_rate)
        parts = iter([(0.0, len(samples) / SAMPLE_RATE, samples)])
    else:
        pieces = load_pieces(audio, chunk_seconds, "audio", sampling_rate)
        parts = ((piece.start, piece.end, piece.samples) for piece in pieces)
    from tqdm import tqdm  # type: ignore[import-untyped]

    answers = []
    for start, end, samples in tqdm(parts, desc="listening", unit="part", delay=1, leave=False, disable=None):
        content = [{"type": "audio", "audio": samples}, {"type": "text", "text": question}]
        out = model.generate([{"role": "user", "content": content}], temperature=0, **options)
        _warn_if_cut(out, start, end)
        answers.append((start, end, out.text.strip()))
    return answers


def _warn_if_cut(out: GenerationResult, start: float, end: float) -> None:
    if out.finish_reason in CUT:
        warnings.warn(
            f"the answer for {start:g} to {end:g} s was cut {why_cut(out)}",
            RuntimeWarning,
            stacklevel=5,
        )


def _translated(start: float, end: float, answer: str, target: str) -> Segment:
    said, marker, meant = answer.partition(f"\n{target}: ")
    if marker:
        return Segment(start, end, meant.strip(), said.strip())
    warnings.warn(
        f"the answer for {start:g} to {end:g} s has no line that begins with {target + ': '!r}; all of it is returned",
        RuntimeWarning,
        stacklevel=4,
    )
    return Segment(start, end, answer)
