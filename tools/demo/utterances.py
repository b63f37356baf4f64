"""Spoken words with the time at which each is heard: what the demo model learns to write down.

Speech comes from espeak-ng's library, which also says when each word and each sound of it begins. Frames come from the
package's own front end, so that training and inference hear the same. Knows nothing of tokens or models.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import numpy as np
from gemma4.media.mel import SAMPLE_RATE, FrontEnd, frame_count

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = (
    *DIGITS,
    *("red", "green", "blue", "yellow", "purple", "orange", "black", "white"),
    *("circle", "square", "triangle", "star"),
    *("up", "down", "left", "right", "go", "stop", "yes", "no", "on", "off", "hello", "world", "first", "second"),
    *("small", "today", "tomorrow", "city"),
)
FRAMES = 288  # of 10 ms; the longest utterance
SOFT = FRAMES // 4  # soft tokens of 40 ms
MOST = 4  # words of an utterance
_PHONES = """
s t n r l E oU k @ d f aI 0 p w 3: I g @L m u: b j eI a i: v V dZ O: h O2 N e@ i@ z A@ i aU o@ T ; A: aI2 t2 VR IR t# w#
t[ O@ r-
"""
PHONES = {name: number for number, name in enumerate(_PHONES.split(), 1)}  # what espeak-ng calls them; 0 is silence

ACCENTS = ("en-us", "en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029")
SPEAKERS = (
    *("", "m1", "m2", "m3", "m5", "m6", "m7", "f1", "f2", "f3", "f5"),
    *("adam", "belinda", "benjamin", "david", "ed", "linda", "michael", "paul", "steph", "victor"),
)
HELD_OUT = ("m4", "m8", "f4", "robert", "shelby")  # speakers that training never hears

RECORD = np.dtype(
    [
        ("frames", np.float16, (FRAMES, 128)),  # log-mel
        ("length", np.uint16),  # frames that count
        ("words", np.int8, MOST),  # indices into WORDS, -1 where there are fewer
        ("word", np.int8, SOFT),  # 1 + index of the word that a soft token should know, 0 for none, -1 after the end
        ("place", np.int8, SOFT),  # which word of the utterance that is, from 1
        ("phone", np.int8, SOFT),  # the sound in the middle of a soft token
    ]
)

_WORD_EVENT, _PHONE_EVENT = 1, 7
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER


def text_of(words: list[int]) -> str:
    """What an answer says: digits for numbers, as the family's prompt asks.

    >>> text_of([11, 3, 18])
    'green 3 circle'
    """
    return " ".join(str(word) if word < len(DIGITS) else WORDS[word] for word in words)


# ----------------------------------------------------------------------------------------------------------------------
# Speech


class _Name(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("type", "identifier", "text_position", "length", "milliseconds", "sample")),
        ("user", ctypes.c_void_p),
        ("id", _Name),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass
class Voice:
    """How something is said."""

    name: str  # of espeak-ng
    rate: int  # words per minute
    pitch: int  # 0 to 100
    range: int  # of the pitch, 0 to 100


@dataclass
class Speech:
    """Samples at 16 kHz from -1 to 1 and, in samples, where words and sounds begin."""

    samples: np.ndarray  # (n,) f32
    words: list[tuple[int, int]]  # place in the text, first sample
    sounds: list[tuple[str, int]]  # espeak-ng's name of the sound, first sample


class Synthesizer:
    """espeak-ng, one for a process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libespeak-ng.so.1")
        self._rate = self._library.espeak_Initialize(1, 0, None, 1)  # retrieve samples; report sounds
        if self._rate <= 0:
            raise OSError("espeak-ng does not start: are its data installed?")
        self._blocks: list[np.ndarray] = []
        self._events: list[tuple[int, int, int, str]] = []
        self._keep = _CALLBACK(self._take)
        self._library.espeak_SetSynthCallback(self._keep)

    def _take(self, samples: ctypes._Pointer, count: int, events: ctypes._Pointer) -> int:  # type: ignore[type-arg]
        if count > 0 and samples:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != 0:
            event = events[index]
            name = bytes(event.id.string).decode("utf-8", "replace") if event.type == _PHONE_EVENT else ""
            self._events.append((event.type, event.text_position, event.sample, name))
            index += 1
        return 0

    def say(self, text: str, voice: Voice) -> Speech:
        import soxr  # type: ignore[import-untyped]

        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice.name!r}")
        for parameter, value in ((_RATE, voice.rate), (_PITCH, voice.pitch), (_RANGE, voice.range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks.clear()
        self._events.clear()
        raw = text.encode()
        self._library.espeak_Synth(raw, len(raw) + 1, 0, 1, 0, 1, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate(self._blocks).astype(np.float32) / 32768
        scale = SAMPLE_RATE / self._rate
        found = [(kind, place, round(sample * scale), name) for kind, place, sample, name in self._events]
        return Speech(
            samples=np.asarray(soxr.resample(samples, self._rate, SAMPLE_RATE), np.float32),
            words=[(place, sample) for kind, place, sample, _ in found if kind == _WORD_EVENT],
            sounds=[(name, sample) for kind, _, sample, name in found if kind == _PHONE_EVENT],
        )


@functools.cache
def synthesizer() -> Synthesizer:
    return Synthesizer()


# ----------------------------------------------------------------------------------------------------------------------
# Utterances


@dataclass
class Utterance:
    """A clip, what is said in it, and when: (first, last + 1) samples of each word and of each sound."""

    samples: np.ndarray  # (n,) f32 at 16 kHz
    words: list[int]  # indices into WORDS
    spans: list[tuple[int, int]]
    sounds: list[tuple[str, int, int]]
    voice: Voice


def make_utterance(
    rng: np.random.Generator, speakers: tuple[str, ...] = SPEAKERS, quality: tuple[float, float] = (12, 40)
) -> Utterance:
    """One to four words in one breath, in a random voice, with a pause before and after and noise of a random kind.

    `quality` is the range of the ratio of speech to noise in dB.
    """
    while True:
        words = [int(word) for word in rng.integers(0, len(WORDS), int(rng.integers(1, MOST + 1)))]
        accent, speaker = ACCENTS[rng.integers(len(ACCENTS))], speakers[rng.integers(len(speakers))]
        voice = Voice(
            name=f"{accent}+{speaker}" if speaker else accent,
            rate=int(rng.integers(125, 216)),
            pitch=int(rng.integers(30, 71)),
            range=int(rng.integers(25, 76)),
        )
        joint = ", " if rng.random() < 0.3 else " "
        said = synthesizer().say(joint.join(WORDS[word] for word in words), voice)
        starts, at = [], 1
        for word in words:
            starts.append(at)
            at += len(WORDS[word]) + len(joint)
        begins = dict(reversed(said.words))
        if set(begins) != set(starts) or len(said.samples) == 0:
            continue  # some words were drawn together
        utterance = _recorded(rng, said, [begins[start] for start in starts], quality)
        if frame_count(len(utterance.samples)) <= FRAMES:
            utterance.words, utterance.voice = words, voice
            return utterance


def make_silence(rng: np.random.Generator) -> Utterance:
    """Nothing said: silence, or noise of a random kind."""
    count = int(rng.uniform(0.2, FRAMES / 100 - 0.1) * SAMPLE_RATE)
    level = 0.0 if rng.random() < 0.3 else 10 ** (rng.uniform(-75, -15) / 20)
    return Utterance(_noise(rng, count) * np.float32(level), [], [], [], Voice("", 0, 0, 0))


def _recorded(rng: np.random.Generator, said: Speech, begins: list[int], quality: tuple[float, float]) -> Utterance:
    """Speech as a microphone hears it: pauses around it, a level, noise."""
    before, after = (int(rng.uniform(0.03, 0.4) * SAMPLE_RATE) for _ in range(2))
    voiced = np.flatnonzero(np.abs(said.samples) > 0.01)
    end = int(voiced[-1]) + 1 if len(voiced) else len(said.samples)  # silence that espeak-ng adds is left out
    samples = np.concatenate([np.zeros(before, np.float32), said.samples[:end], np.zeros(after, np.float32)])
    level = 10 ** (rng.uniform(-22, -3) / 20)  # of the loudest sample
    samples *= np.float32(level / max(1e-3, float(np.abs(samples).max())))
    if rng.random() < 0.75:
        power = float(np.mean(samples[before : before + end] ** 2)) ** 0.5
        samples += _noise(rng, len(samples)) * np.float32(power * 10 ** (-rng.uniform(*quality) / 20))
    sounds = [(name, min(first, end) + before) for name, first in said.sounds]
    stops = [first for _, first in sounds[1:]] + [end + before]
    pauses = [first for name, first in sounds if name.startswith("_")]
    spans = []
    for index, begin in enumerate(begins):
        first = begin + before
        last = begins[index + 1] + before if index + 1 < len(begins) else end + before
        spans.append((first, min([last, *(pause for pause in pauses if first < pause)])))
    return Utterance(
        samples=np.clip(samples, -1, 1),
        words=[],
        spans=spans,
        sounds=[(name, first, last) for (name, first), last in zip(sounds, stops, strict=True)],
        voice=Voice("", 0, 0, 0),
    )


def _noise(rng: np.random.Generator, count: int) -> np.ndarray:
    """White, pink or humming noise of power 1."""
    kind = rng.random()
    if kind < 0.4:
        noise = rng.standard_normal(count)
    elif kind < 0.85:
        spectrum = np.fft.rfft(rng.standard_normal(1 << 16))  # longer than any utterance
        spectrum /= np.maximum(1, np.arange(len(spectrum))) ** rng.uniform(0.3, 1.0)
        noise = np.fft.irfft(spectrum)[:count]
    else:
        time = np.arange(count) / SAMPLE_RATE
        tones = rng.uniform(50, 400) * np.array([1, 2, 3])
        noise = sum(np.sin(2 * np.pi * tone * time + rng.uniform(0, 6.28)) / (i + 1) for i, tone in enumerate(tones))
        noise = noise + 0.3 * rng.standard_normal(count)
    return np.asarray(noise / np.sqrt(np.mean(np.square(noise))), np.float32)


# ----------------------------------------------------------------------------------------------------------------------
# Storage


def to_record(utterance: Utterance) -> np.ndarray:
    """One `RECORD`. A word is known to the soft tokens from its last part on, as the encoder hears no future."""
    record = np.zeros((), RECORD)
    frames = FrontEnd().log_mel(utterance.samples)
    record["frames"][: len(frames)], record["length"] = frames, len(frames)
    record["words"] = -1
    record["words"][: len(utterance.words)] = utterance.words
    centers = (np.arange(SOFT) * 40 + 20) * SAMPLE_RATE // 1000
    for place, (word, (first, last)) in enumerate(zip(utterance.words, utterance.spans, strict=True), 1):
        knows = (centers >= first + 0.7 * (last - first)) & (centers < last + 0.07 * SAMPLE_RATE)
        record["word"][knows], record["place"][knows] = word + 1, place
    for name, first, last in utterance.sounds:
        heard = (centers >= first) & (centers < last)
        record["phone"][heard] = PHONES.get(name, len(PHONES) + 1) if not name.startswith("_") else 0
    after = np.arange(SOFT) >= -(-len(frames) // 4)
    for name in ("word", "place", "phone"):
        record[name][after] = -1
    return record


def draw_record(rng: np.random.Generator) -> np.ndarray:
    """An utterance, now and then one without a word."""
    return to_record(make_silence(rng) if rng.random() < 0.08 else make_utterance(rng))
