"""After each bad input: a `Gemma4Error` that names it, no address in its text, and a model that answers as before."""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import ContextLengthError, Gemma4Error, MediaError, RequestError
from PIL import Image

GREEDY = {"temperature": 0, "max_new_tokens": 6, "ignore_eos": True}
PICTURE = np.zeros((32, 48, 3), np.uint8)
VOCAB = 1669  # at most that of the bundled model


def cut_png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()[:300]


Call = Callable[[Any], Any]
CASES: dict[str, tuple[Call, type[Gemma4Error], str]] = {
    "no messages": (lambda m: m.generate([]), RequestError, "messages"),
    "None": (lambda m: m.generate(None), RequestError, "messages"),
    "a number": (lambda m: m.generate(3), RequestError, "messages"),
    "bytes": (lambda m: m.generate(b"Hello"), RequestError, "messages"),
    "a lone surrogate": (lambda m: m.generate("\ud800"), RequestError, "surrogate"),
    "an evil role": (lambda m: m.generate([{"role": "evil", "content": "x"}]), RequestError, "role"),
    "ids of floats": (lambda m: m.generate(np.zeros(3)), RequestError, "token ids"),
    "ids of bools": (lambda m: m.generate(np.zeros(3, bool)), RequestError, "token ids"),
    "ids in two dimensions": (lambda m: m.generate(np.zeros((2, 3), int)), RequestError, "token ids"),
    "ids without any": (lambda m: m.generate(np.zeros(0, int)), RequestError, "token ids"),
    "ids that are negative": (lambda m: m.generate(np.array([5, -1])), RequestError, "-1"),
    "ids beyond the vocabulary": (lambda m: m.generate(np.array([VOCAB * 9])), RequestError, "vocabulary"),
    "ids of 64 bits": (lambda m: m.generate(np.array([2**63], np.uint64)), RequestError, "vocabulary"),
    "placeholders without a picture": (lambda m: m.generate(m.prepare("x", images=PICTURE).input_ids), RequestError,
                                       "placeholder"),
    "a mixed list": (lambda m: m.forward([1, "a"]), RequestError, "token ids"),
    "too long a prompt": (lambda m: m.generate("word " * 50_000), ContextLengthError, "tokens"),
    "10 million ids": (lambda m: m.forward(np.full(10_000_000, 30)), ContextLengthError, "10000000"),
    "a thousand pictures": (lambda m: m.generate("x", images=[PICTURE] * 1000), ContextLengthError, "1000 pictures"),
    "NaN temperature": (lambda m: m.generate("x", temperature=math.nan), RequestError, "temperature"),
    "infinite temperature": (lambda m: m.generate("x", temperature=math.inf), RequestError, "temperature"),
    "bool as a number": (lambda m: m.generate("x", top_k=True), RequestError, "top_k"),
    "text as a number": (lambda m: m.generate("x", top_p="0.9"), RequestError, "top_p"),
    "negative length": (lambda m: m.generate("x", max_new_tokens=-1), RequestError, "max_new_tokens"),
    "empty stop string": (lambda m: m.generate("x", stop=""), RequestError, "stop"),
    "negative seed": (lambda m: m.generate("x", seed=-1), RequestError, "seed"),
    "thinking as text": (lambda m: m.generate("x", thinking="yes"), RequestError, "thinking"),
    "last_only as a number": (lambda m: m.forward([5], last_only=1), RequestError, "last_only"),
    "budget": (lambda m: m.encode_image(PICTURE, max_soft_tokens=100), RequestError, "max_soft_tokens"),
    "budget in a request": (lambda m: m.generate("x", images=PICTURE, max_soft_tokens=0), RequestError, "max_soft"),
    "picture of 0 pixels": (lambda m: m.encode_image(np.zeros((0, 5, 3), np.uint8)), MediaError, "empty"),
    "picture of NaN": (lambda m: m.encode_image(np.full((4, 4, 3), np.nan)), MediaError, "finite"),
    "a cut picture": (lambda m: m.detect(cut_png(), "cat"), MediaError, "image"),
    "no picture": (lambda m: m.detect(b"not a picture", "cat"), MediaError, "image"),
    "no such file": (lambda m: m.detect("/no/such/file.png", "cat"), MediaError, "no such file"),
    "a picture of None": (lambda m: m.detect(None, "cat"), RequestError, "image"),
    "None among pictures": (lambda m: m.generate("x", images=[None]), RequestError, r"images\[0\]"),
    "a URL": (lambda m: m.detect("http://localhost/x.png", "cat"), RequestError, "not fetched"),
    "a picture too thin": (lambda m: m.encode_image(np.zeros((1, 80_000_000, 3), np.uint8)), MediaError, "pixels"),
    "no label": (lambda m: m.detect(PICTURE, ""), RequestError, "label"),
    "a box outside the grid": (lambda m: gemma4.boxes.to_pixels([0, 0, 1001, 5], (10, 10)), RequestError, "grid"),
    "an inverted box": (lambda m: gemma4.boxes.to_pixels([5, 0, 1, 5], (10, 10)), RequestError, "inverted"),
    "unknown tensor id": (lambda m: m.tokenizer.decode([10**9]), RequestError, "token id"),
}  # fmt: skip


@pytest.fixture(scope="module")
def control(gemma4_model: Any) -> tuple[list[int], list[int]]:
    """Answers before anything went wrong."""
    return answers(gemma4_model)


def answers(model: Any) -> tuple[list[int], list[int]]:
    seen = model.generate("What is this?", images=PICTURE, **GREEDY)
    return model.generate("Hello", **GREEDY).token_ids.tolist(), seen.token_ids.tolist()


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, gemma4_model: Any, control: tuple[list[int], list[int]]) -> None:
    call, kind, expected = CASES[name]
    with pytest.raises(kind, match=expected) as caught:
        call(gemma4_model)
    message = str(caught.value)
    assert len(message) <= 500
    assert " at 0x" not in message
    assert answers(gemma4_model) == control


def test_odd_but_valid(gemma4_model: Any, control: tuple[list[int], list[int]], tmp_path: Path) -> None:
    for prompt in ("", " ", "\x00", "\n" * 50, "👩‍🚀" * 20, "<turn|>" * 20):
        assert len(gemma4_model.generate(prompt, **GREEDY).token_ids) == 6
    for height, width in [(1, 1), (1, 200), (200, 1), (7, 3000)]:
        assert gemma4_model.encode_image(np.zeros((height, width, 3), np.uint8)).shape[0] >= 1
    path = tmp_path / "a name with spaces\nand a line end.png"
    Image.fromarray(PICTURE).save(path)
    assert gemma4_model.encode_image(path).shape[0] >= 1
    assert answers(gemma4_model) == control


def test_pixels_may_change_while_a_stream_runs(gemma4_model: Any) -> None:
    picture = PICTURE.copy()
    stream = gemma4_model.stream("What is this?", images=picture, **GREEDY)
    next(stream)
    picture[:] = 255
    for _ in stream:
        pass


def test_no_files_stay_open(gemma4_model: Any, tmp_path: Path) -> None:
    fds = Path("/proc/self/fd")
    if not fds.is_dir():
        pytest.skip("needs /proc")
    path = tmp_path / "x.png"
    path.write_bytes(cut_png())
    before = len(os.listdir(fds))
    for _ in range(4):
        with pytest.raises(MediaError):
            gemma4_model.encode_image(path)
        gemma4.Model.from_pretrained("demo")
    assert len(os.listdir(fds)) <= before + 1


def test_interrupts_are_quick(gemma4_model: Any, control: tuple[list[int], list[int]]) -> None:
    import signal
    import threading

    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.3, interrupt)
    ids = np.random.default_rng(0).integers(30, VOCAB, 4000)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            while True:
                gemma4_model.forward(ids, last_only=True)
        assert time.monotonic() - sent[0] < 1.0  # 0.2 s on an idle machine
    finally:
        timer.join()
        signal.signal(signal.SIGINT, old)
    assert answers(gemma4_model) == control
