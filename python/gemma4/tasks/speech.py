"""Tasks on speech: the family's prompts, long recordings piece by piece, and what the answers say.

Knows: the wording, languages. Must not know: templates, samples, the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import MediaError, RequestError
from ..media import SAMPLE_RATE, load_audio, load_pieces
from ..notices import warn
from ..tokens import check_text
from .asking import CUT, Task, request, why_cut

if TYPE_CHECKING:
    from ..answer import GenerationArguments, GenerationResult

__all__ = ["MOST_SPEECH_TOKENS", "Cut", "Segment", "Transcript", "Translation"]

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


@dataclass(frozen=True)
class Cut:
    """How a sound is read, and cut into parts."""

    seconds: Any
    """See `chunk_seconds` of `Model.transcribe`."""
    sampling_rate: Any


class Translation(Transcript):
    """A translated text; `segments` and `transcription` also hold what was said."""

    @property
    def transcription(self) -> str:
        """What was said, in the language it was said in."""
        return " ".join(part.transcription for part in self.segments if part.transcription)


Said = TypeVar("Said", Transcript, Translation)


def transcribe(
    modalities: Collection[str], audio: Any, language: Any, cut: Cut, options: GenerationArguments
) -> Task[Transcript]:
    """See `Model.transcribe`."""

    def segment(start: float, end: float, answer: str) -> Segment:
        return Segment(start, end, answer)

    return _listen(modalities, audio, transcription_prompt(language), cut, options, segment, Transcript)


def translate(
    modalities: Collection[str], audio: Any, source: Any, target: Any, cut: Cut, options: GenerationArguments
) -> Task[Translation]:
    """See `Model.translate`."""
    question, name = translation_prompt(source, target), _language(target, "target")

    def segment(start: float, end: float, answer: str) -> Segment:
        return _translated(start, end, answer, name)

    return _listen(modalities, audio, question, cut, options, segment, Translation)


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


def _listen(
    modalities: Collection[str], audio: Any, question: str, cut: Cut, options: GenerationArguments,
    segment: Callable[[float, float, str], Segment], whole: Callable[[list[Segment]], Said],
) -> Task[Said]:  # fmt: skip
    """The same question about every part of a sound; greedy."""
    if "audio" not in modalities:
        raise MediaError("audio: this model has no audio: it cannot take sounds")
    times: list[tuple[float, float]] = []  # of the parts so far
    if cut.seconds is None:
        samples = load_audio(audio, "audio", cut.sampling_rate)
        parts = iter([(0.0, len(samples) / SAMPLE_RATE, samples)])
    else:
        pieces = load_pieces(audio, cut.seconds, "audio", cut.sampling_rate)
        parts = ((piece.start, piece.end, piece.samples) for piece in pieces)

    def requests() -> Iterator[Any]:
        for start, end, samples in parts:
            times.append((start, end))
            content: list[dict[str, Any]] = [{"type": "audio", "audio": samples}, {"type": "text", "text": question}]
            yield request(content, {"temperature": 0, **options})

    def read(answers: list[GenerationResult]) -> Said:
        for (start, end), out in zip(times, answers, strict=True):
            if out.finish_reason in CUT:
                warn(f"the answer for {start:g} to {end:g} s was cut {why_cut(out)}")
        return whole([segment(*time, out.text.strip()) for time, out in zip(times, answers, strict=True)])

    return Task(requests(), read)


def _translated(start: float, end: float, answer: str, target: str) -> Segment:
    said, marker, meant = answer.partition(f"\n{target}: ")
    if marker:
        return Segment(start, end, meant.strip(), said.strip())
    warn(f"the answer for {start:g} to {end:g} s has no line that begins with {target + ': '!r}; all of it is returned")
    return Segment(start, end, answer)
