"""Every array that Python hands to the engine, in every form that one can have: read as NumPy reads it, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import Gemma4Error, _core
from numpy.typing import NDArray

Array = NDArray[Any]
Call = Callable[[Any], Any]

DEMO = Path(gemma4.__file__).parent / "demo_model"


def other_forms(plain: Array) -> dict[str, Any]:
    """The same values otherwise in memory, and values that are something else."""
    twice = np.repeat(plain, 2, axis=-1)
    bytes_before = np.zeros(plain.nbytes + 1, np.uint8)
    misplaced = bytes_before[1:].view(plain.dtype).reshape(plain.shape)
    misplaced[...] = plain
    locked = plain.copy()
    locked.flags.writeable = False
    forms: dict[str, Any] = {
        "reversed": np.ascontiguousarray(plain[::-1])[::-1],
        "reversed in rows": np.ascontiguousarray(plain[..., ::-1])[..., ::-1],
        "every other": twice[..., ::2],
        "Fortran's": np.asfortranarray(plain),
        "swapped bytes": plain.astype(plain.dtype.newbyteorder()),
        "misplaced": misplaced,
        "locked": locked,
        "a list": plain.tolist(),
        "stretched": np.broadcast_to(plain[:1], plain.shape),
        "wider": plain.astype(np.complex128),
        "words": plain.astype(str),
        "objects": plain.astype(object),
        "empty": plain[:0],
        "a number": plain.reshape(-1)[0],
        "more dimensions": plain[None],
        "fewer dimensions": plain.reshape(-1),
        "strides of nothing": np.lib.stride_tricks.as_strided(plain, plain.shape, (0,) * plain.ndim),
        "far too long": np.lib.stride_tricks.as_strided(plain, (1 << 40, *plain.shape[1:]), (0,) * plain.ndim),
        "None": None,
        "bytes": plain.tobytes(),
    }
    return forms


class Subject:
    """What takes an array, and one that is right."""

    def __init__(self, plain: Array, call: Call, raw: bool = False) -> None:
        self.plain, self.call = plain, call
        self.raw = raw  # the bytes of any object are read

    def agrees(self, form: Any) -> None:
        """As with a plain copy, or an error that says so."""
        try:
            got = self.call(form)
        except (TypeError, ValueError, BufferError, MemoryError, Gemma4Error):
            return
        if form is None:  # an argument that is not given
            return
        copied = np.frombuffer(bytes(form), np.uint8) if self.raw else np.array(form, self.plain.dtype, order="C")
        again = self.call(copied)
        if isinstance(again, np.ndarray):
            assert np.array_equal(got, again)
        else:
            assert repr(got) == repr(again)


@pytest.fixture(scope="module")
def subjects(gemma4_model: Any) -> dict[str, Subject]:
    rng = np.random.default_rng(3)
    core, vocab = gemma4_model._runtime.loaded.core, gemma4_model._runtime.loaded.parsed.core.text.vocab
    hidden = gemma4_model._runtime.loaded.parsed.core.text.hidden
    ids = rng.integers(30, 400, 9).astype(np.int32)
    rows = rng.normal(size=(4, hidden)).astype(np.float32)
    logits = rng.normal(size=vocab).astype(np.float32)
    values = rng.normal(size=(3, 64)).astype(np.float32)

    def sampled(logits: Any, history: Any = ids, allowed: Any = None) -> Any:
        options = _core.SamplingOptions()
        options.temperature, options.repetition_penalty = 0.5, 1.3
        return _core.Sampler(options, 5).sample(logits, history, allowed)

    def with_rows(soft: Any) -> Any:
        return core.sequence(64).prefill(ids, [_core.SoftTokens(2, soft, True)], "last")

    def kept(form: Any) -> Any:
        store = _core.TensorStore()
        store.add_owned("t", "F32", [6, 16], form)
        return np.array(store.array("t"))

    mask = np.full((vocab + 31) // 32, 0xFFFFFFFF, np.uint32)
    packed = _core.encode("Q4_0", values)
    return {
        "ids": Subject(ids, lambda a: core.sequence(64).prefill(a, (), "all")),
        "soft tokens": Subject(rows, with_rows),
        "pixels": Subject(rng.integers(0, 256, (64, 96, 3)).astype(np.uint8), core.encode_image),
        "resampled": Subject(rng.integers(0, 256, (9, 7, 3)).astype(np.uint8), lambda a: _core.resample(a, 5, 6)),
        "frames": Subject(rng.normal(size=(24, 128)).astype(np.float32), core.encode_audio),
        "logits": Subject(logits, sampled),
        "history": Subject(ids, lambda a: sampled(logits, a)),
        "mask": Subject(mask, lambda a: sampled(logits, ids, a)),
        "likeliest": Subject(logits, lambda a: _core.top_logprobs(a, 5)),
        "values": Subject(values, lambda a: _core.encode("Q8_0", a)),
        "blocks": Subject(packed, lambda a: _core.decode("Q4_0", a)),
        "a tensor": Subject(rng.integers(0, 256, 384).astype(np.uint8), kept),
        "strings": Subject(gguf_strings(["a", "bcd", ""]), lambda a: repr_strings(_core.read_strings(a, 0, 3)), True),
        "places": Subject(ids, lambda a: list(_core.Strings(["x"] * 40).without(a))),
    }


def gguf_strings(texts: list[str]) -> Array:
    data = b"".join(len(text).to_bytes(8, "little") + text.encode() for text in texts)
    return np.frombuffer(data, np.uint8)


def repr_strings(read: Any) -> Any:
    return None if read is None else (list(read[0]), read[1])


NAMES = [
    "ids", "soft tokens", "pixels", "resampled", "frames", "logits", "history", "mask", "likeliest", "values", "blocks",
    "a tensor", "strings", "places",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_form_of_an_array(name: str, subjects: dict[str, Subject]) -> None:
    subject = subjects[name]
    subject.call(subject.plain)  # the right one is taken
    for form in other_forms(subject.plain).values():
        subject.agrees(form)


def test_all_subjects_are_tried(subjects: dict[str, Subject]) -> None:
    assert list(subjects) == NAMES


def test_strings_are_not_read_backwards() -> None:
    data = np.frombuffer(bytes(64), np.uint8)
    for wrong in (data[::-1], data[::2], np.broadcast_to(data[:1], (1 << 40,))):
        with pytest.raises((BufferError, ValueError)):
            _core.read_strings(wrong, 0, 1)
    assert _core.read_strings(data, 65, 1) is None
    assert _core.read_strings(data, 0, 2**60) is None


def test_logits_are_written_where_they_are_wanted(gemma4_model: Any) -> None:
    core, vocab = gemma4_model._runtime.loaded.core, gemma4_model._runtime.loaded.parsed.core.text.vocab
    ids = np.arange(30, 35, dtype=np.int32)
    wanted = core.sequence(64).prefill(ids, (), "all")
    out = np.zeros((5, vocab), np.float32)
    assert core.sequence(64).prefill(ids, (), "all", out=out) is out
    assert np.array_equal(out, wanted)
    for name, form in other_forms(out).items():
        if name in ("swapped bytes", "misplaced", "locked", "Fortran's", "every other", "reversed", "stretched"):
            with pytest.raises(gemma4.RequestError, match="out"):
                core.sequence(64).prefill(ids, (), "all", out=form)


def test_frames_that_are_no_numbers(gemma4_model: Any) -> None:
    core = gemma4_model._runtime.loaded.core
    for value in (np.nan, np.inf):
        frames = np.zeros((8, 128), np.float32)
        frames[3, 5] = value
        with pytest.raises(gemma4.MediaError, match="finite"):
            core.encode_audio(frames)


def test_working_memory_is_kept_and_does_not_grow() -> None:
    """The model lends it: the second computation of a kind finds what the first has left. With one thread for all."""
    core = gemma4.Model.from_pretrained("demo", num_threads=1)._runtime.loaded.core
    assert core.workspace_bytes() == 0
    ids = np.arange(300, 340, dtype=np.int32)
    sizes = []
    for _ in range(3):
        session = core.sequence(64, "f32")
        session.prefill(ids)
        session.decode(7)
        sizes.append(core.workspace_bytes())
    assert sizes[0] > 0 and sizes == [sizes[0]] * 3
