"""Sound: every way in gives the same samples, whatever is no sound is refused by name, and each clip has its place."""

from __future__ import annotations

import base64
import io
import itertools
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from gemma4 import MediaError, ModelFileError, RequestError
from gemma4.media.audio import load_audio, load_pieces
from gemma4.media.mel import FrontEnd, frame_count, token_count
from hearing import Samples, encoded, tone
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

# -- files -------------------------------------------------------------------------------------------------------------

# Container, coding, and how far the samples may be off.
CODINGS = {
    "8-bit wav": ("WAV", "PCM_U8", 1e-2),
    "16-bit wav": ("WAV", "PCM_16", 1e-4),
    "24-bit wav": ("WAV", "PCM_24", 1e-6),
    "32-bit wav": ("WAV", "PCM_32", 1e-7),
    "float wav": ("WAV", "FLOAT", 0.0),
    "double wav": ("WAV", "DOUBLE", 0.0),
    "wav, extensible": ("WAVEX", "PCM_16", 1e-4),
    "rf64": ("RF64", "PCM_16", 1e-4),
    "16-bit flac": ("FLAC", "PCM_16", 1e-4),
    "24-bit flac": ("FLAC", "PCM_24", 1e-6),
    "vorbis": ("OGG", "VORBIS", 0.2),
    "opus": ("OGG", "OPUS", 0.2),
    "mp3": ("MP3", None, 0.2),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_codings(coding: str) -> None:
    container, subtype, tolerance = CODINGS[coding]
    sound = tone(16_000)
    got = load_audio(encoded(sound, container, subtype))
    assert got.dtype == np.float32
    assert got.shape == sound.shape
    assert np.abs(got - sound).max() <= tolerance


def test_ways_in_agree(tmp_path: Path) -> None:
    data = encoded(tone(5_000))
    path = tmp_path / "a sound.wav"
    path.write_bytes(data)
    expected = load_audio(data)
    url = "data:audio/wav;base64," + base64.b64encode(data).decode()
    with path.open("rb") as file:
        ways = [path, str(path), bytearray(data), memoryview(data), io.BytesIO(data), file, url]
        ways += [{"bytes": data, "path": None}, {"path": str(path)}, {"array": expected, "sampling_rate": 16_000}]
        ways += [(expected, 16_000), expected, expected.tolist(), Pipe(data)]
        for way in ways:
            assert np.array_equal(load_audio(way), expected)


class Pipe:
    """A file that cannot be sought in."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, *_: int) -> int:
        raise OSError("a pipe")

    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_rates_and_channels(rate: int, channels: int) -> None:
    """Averaged, then resampled, to the length that the reference has: rounded up."""
    for count in (1, 7, 1_001, 70_001):
        sound = np.random.default_rng(count).normal(0, 0.2, (count, channels)).astype(np.float32)
        mono = sound.mean(axis=1, dtype=np.float32)
        expected = soxr.resample(mono, rate, 16_000, quality="HQ")
        length = -(-count * 16_000 // rate)
        expected = np.pad(expected, (0, max(0, length - len(expected))))[:length]
        if count > channels:  # else the shape says channels first
            assert np.array_equal(load_audio(sound, sampling_rate=rate), expected)
        assert np.array_equal(load_audio(encoded(sound, subtype="FLOAT", rate=rate)), expected)


def test_streamed_wav_is_read_to_its_end() -> None:
    """Programs that write to a pipe leave the sizes at their largest value."""
    data = bytearray(encoded(tone(1_000)))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    assert len(load_audio(bytes(data))) == 1_000


def test_ogg_that_was_never_closed_is_read() -> None:
    data = encoded(tone(160_000), "OGG", "VORBIS")
    cut = data.rfind(b"OggS")
    assert 0 < len(load_audio(data[:cut])) < 160_000


# -- arrays ------------------------------------------------------------------------------------------------------------


def test_array_types() -> None:
    sound = tone(3_000)
    wide = sound.astype(np.float64)
    arrays: dict[str, tuple[NDArray[Any], float]] = {
        "float64": (wide, 1e-7),
        "float16": (sound.astype(np.float16), 1e-3),
        "big-endian": (sound.astype(">f4"), 0.0),
        "int8": ((wide * 127).astype(np.int8), 2e-2),
        "uint8": ((wide * 127 + 128).astype(np.uint8), 2e-2),
        "int16": ((wide * 32_767).astype(np.int16), 1e-4),
        "int24 in int32": ((wide * (2**23 - 1)).astype(np.int32), 1e-6),
        "int24, left": ((wide * (2**23 - 1)).astype(np.int32) << 8, 1e-6),
        "int32": ((wide * (2**31 - 1)).astype(np.int32), 1e-7),
        "strided": (np.stack([sound, sound], axis=1)[:, 1], 0.0),
        "reversed": (sound[::-1].copy()[::-1], 0.0),
        "stereo": (np.stack([sound, sound], axis=1), 1e-7),
        "channels first": (np.stack([sound, sound]), 1e-7),
    }
    for name, (array, tolerance) in arrays.items():
        array.flags.writeable = False
        got = load_audio(array)
        assert got.shape == sound.shape, name
        assert np.abs(got - sound).max() <= tolerance, name


# -- pieces ------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 200_000), seconds=st.sampled_from([1, 1.5, 2.25, 7, 30]))
def test_pieces_are_the_whole(count: int, seconds: float) -> None:
    """Nothing is lost or heard twice; only a tail of less than a frame is filled up."""
    sound = np.arange(count, dtype=np.float32) / count
    pieces = list(load_pieces(sound, seconds))
    assert pieces[0].start == 0
    assert pieces[-1].end == count / 16_000
    assert all(a.end == b.start for a, b in itertools.pairwise(pieces))
    assert all(len(piece.samples) == seconds * 16_000 for piece in pieces[:-1])
    assert all(token_count(len(piece.samples)) > 0 for piece in pieces)
    joined = np.concatenate([piece.samples for piece in pieces])
    assert np.array_equal(joined[:count], sound)
    assert len(joined) - count in (0, max(0, 161 - (count - len(joined) + len(pieces[-1].samples))))
    assert not joined[count:].any()


def test_pieces_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    path.write_bytes(encoded(np.zeros(22_050 * 70, np.float32), "FLAC", "PCM_16", 22_050))
    assert [(p.start, p.end) for p in load_pieces(path, 30)] == [(0.0, 30.0), (30.0, 60.0), (60.0, 70.0)]
    with pytest.raises(MediaError, match=r"longer than 30 s.*chunk_seconds"):
        load_audio(path)


@pytest.mark.parametrize("seconds", [0, -1, 0.5, 31, float("nan"), float("inf"), True, "10"])
def test_bad_chunk_seconds(seconds: Any) -> None:
    with pytest.raises(RequestError, match="chunk_seconds"):
        list(load_pieces(tone(1_000), seconds))


# -- what is no sound --------------------------------------------------------------------------------------------------


def wav_header(**fields: int) -> bytes:
    """A WAV of 100 samples with a forged header."""
    values = {"channels": 1, "rate": 16_000, "bits": 16, "data": 200, **fields}
    align = values["channels"] * values["bits"] // 8
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + 200, b"WAVE", b"fmt ", 16, 1, values["channels"] & 0xFFFF,
        values["rate"], values["rate"] * align & 0xFFFF_FFFF, align & 0xFFFF, values["bits"], b"data", values["data"],
    )  # fmt: skip
    return head + b"\1" * 200


def _nan(at: int) -> Samples:
    sound = tone(4_000)
    sound[at] = np.nan
    return sound


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "nothing": (lambda: b"", MediaError, "empty"),
    "text": (lambda: b"hello, this is text " * 20, MediaError, "not a sound file"),
    "html": (lambda: b"<!doctype html><html></html>" * 20, MediaError, "HTML"),
    "aiff": (lambda: encoded(tone(500), "AIFF"), MediaError, "AIFF"),
    "no such file": (lambda: "/no/such/file.wav", MediaError, "no such file"),
    "a directory": (lambda: "/", MediaError, "not a regular file"),
    "a device": (lambda: "/dev/zero", MediaError, "not a regular file"),
    "a URL": (lambda: "https://example.com/a.wav", RequestError, "not fetched"),
    "a bad data URL": (lambda: "data:audio/wav;base64,%%%", MediaError, "base64"),
    "wav without data": (lambda: encoded(tone(1))[:44], MediaError, "truncated|empty|not a sound"),
    "wav of no samples": (lambda: encoded(np.zeros(0, np.float32)), MediaError, "empty"),
    "forged channels": (lambda: wav_header(channels=1_000), MediaError, "channels|not a sound|truncated"),
    "no channels": (lambda: wav_header(channels=0), MediaError, "not a sound"),
    "forged low rate": (lambda: wav_header(rate=3), MediaError, "rate"),
    "forged high rate": (lambda: wav_header(rate=2**31), MediaError, "rate|not a sound"),
    "no rate": (lambda: wav_header(rate=0), MediaError, "rate|not a sound"),
    "forged length": (lambda: wav_header(data=10**9), MediaError, "truncated"),
    "30 s and a sample": (lambda: np.zeros(480_001, np.int16), MediaError, "longer than 30 s"),
    "30 s and a sample, 44.1 kHz": (lambda: (np.zeros(44_100 * 30 + 1), 44_100), MediaError, "longer than 30 s"),
    "31 s of flac": (lambda: encoded(np.zeros(16_000 * 31), "FLAC"), MediaError, "longer than 30 s"),
    "31 s of opus": (lambda: encoded(np.zeros(16_000 * 31), "OGG", "OPUS"), MediaError, "longer than 30 s"),
    "31 s of mp3": (lambda: encoded(np.zeros(16_000 * 31), "MP3", None), MediaError, "longer than 30 s"),
    "NaN": (lambda: _nan(17), MediaError, "finite"),
    "NaN at the end": (lambda: _nan(-1), MediaError, "finite"),
    "NaN in a file": (lambda: encoded(_nan(3), subtype="FLOAT"), MediaError, "finite"),
    "infinity": (lambda: np.array([0.0, -np.inf, 0.0]), MediaError, "finite"),
    "integers as floats": (lambda: tone(500) * 32_768, MediaError, "expected -1 to 1"),
    "no samples": (lambda: np.zeros(0, np.float32), MediaError, "empty"),
    "three dimensions": (lambda: np.zeros((2, 3, 4), np.float32), MediaError, "expected"),
    "no dimension": (lambda: np.array(0.5), MediaError, "expected"),
    "complex": (lambda: np.zeros(9, np.complex64), MediaError, "expected float"),
    "int64": (lambda: np.zeros(9, np.int64), MediaError, "expected float"),
    "bool": (lambda: np.zeros(9, np.bool_), MediaError, "expected float"),
    "objects": (lambda: np.array([None, {}], dtype=object), MediaError, "expected float"),
    "ragged": (lambda: [[0.0], [0.0, 0.0]], MediaError, "read as samples"),
    "a number": (lambda: 3, RequestError, "expected a path"),
    "None": (lambda: None, RequestError, "expected a path"),
    "an empty dict": (dict, RequestError, "array"),
    "a rate that is no number": (lambda: {"array": tone(99), "sampling_rate": "16k"}, RequestError, "sampling_rate"),
    "a rate of 0": (lambda: (tone(99), 0), MediaError, "rate"),
    "a rate of NaN": (lambda: (tone(99), float("nan")), RequestError, "sampling_rate"),
    "text mode": (lambda: io.StringIO("RIFF"), RequestError, "binary"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sound(name: str) -> None:
    make, kind, expected = BAD[name]
    with pytest.raises(kind, match=expected) as caught:
        load_audio(make())
    assert len(str(caught.value)) <= 500
    assert " at 0x" not in str(caught.value)
    with pytest.raises(kind):
        # In pieces a sound may be long, but not broken.
        pieces = list(load_pieces(make(), 30))
        assert "longer" in str(caught.value) and len(pieces) > 1
        raise kind


@pytest.mark.parametrize("coding", [name for name in CODINGS if name != "rf64"])
@pytest.mark.parametrize("part", [0.05, 0.1, 0.5, 0.9, 0.99])
def test_truncated(coding: str, part: float) -> None:
    container, subtype, _ = CODINGS[coding]
    data = encoded(tone(48_000), container, subtype)
    with pytest.raises(MediaError):
        load_audio(data[: int(len(data) * part)])


@pytest.mark.parametrize("coding", ["16-bit wav", "16-bit flac", "vorbis", "mp3"])
def test_flipped_bytes(coding: str) -> None:
    """Read or refused, never anything else."""
    container, subtype, _ = CODINGS[coding]
    data = encoded(tone(2_000), container, subtype)
    rng = np.random.default_rng(1)
    for at in [*range(0, min(128, len(data))), *rng.integers(0, len(data), 40).tolist()]:
        flipped = bytearray(data)
        flipped[at] ^= int(rng.integers(1, 256))
        try:
            assert np.isfinite(load_audio(bytes(flipped))).all()
        except MediaError as error:
            assert len(str(error)) <= 500


def test_no_files_stay_open(tmp_path: Path) -> None:
    fds = Path("/proc/self/fd")
    if not fds.is_dir():
        pytest.skip("needs /proc")
    good, cut = tmp_path / "good.wav", tmp_path / "cut.wav"
    good.write_bytes(encoded(tone(48_000)))
    cut.write_bytes(encoded(tone(48_000))[:-1_000])
    before = len(os.listdir(fds))
    for _ in range(10):
        load_audio(good)
        next(load_pieces(good, 1)).samples.sum()
        with pytest.raises(MediaError):
            load_audio(cut)
    assert len(os.listdir(fds)) == before


# -- frames ------------------------------------------------------------------------------------------------------------


def test_every_length_has_its_frames() -> None:
    front_end = FrontEnd(mel_bins=8)
    sound = tone(4_000)
    for count in range(1, 4_001, 1):
        # Of the frames that begin every 10 ms, 10 ms before the sound, those count that the sound outlasts.
        frames = sum(160 * i + 320 < count + 160 for i in range(30))
        assert frame_count(count) == frames
        assert token_count(count) == -(-frames // 4)
        if count % 97 == 0 or count % 160 < 2:
            assert front_end.log_mel(sound[:count]).shape == (frames, 8)


def test_frames_do_not_depend_on_what_follows() -> None:
    sound = tone(2_000)
    assert np.array_equal(FrontEnd().log_mel(sound)[:5], FrontEnd().log_mel(sound[:801]))
    assert FrontEnd().log_mel(np.zeros(400, np.float32)) == pytest.approx(np.log(1e-3))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("feature_size", 80), ("sampling_rate", 8_000), ("hop_length", 200), ("frame_length_ms", 25.0),
        ("preemphasis", 0.97), ("per_bin_mean", [0.0] * 128), ("dither", 1e-4), ("mel_floor", 0), ("mel_floor", "x"),
        ("min_frequency", 9_000), ("max_frequency", 0.0), ("fft_overdrive", True), ("padding_side", "left"),
    ],
)  # fmt: skip
def test_settings_that_are_not_computed(setting: str, value: Any) -> None:
    with pytest.raises(ModelFileError, match=setting.replace("min_", "m.._")):
        FrontEnd.from_settings({setting: value}, "processor_config.json: feature_extractor", 128)
