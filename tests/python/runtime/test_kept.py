"""What is kept between requests: the same answers with less work, under a cap, and never another picture's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import RequestError
from gemma4.cpu import available_memory
from gemma4.runtime import Kept
from numpy.typing import NDArray
from other_demos import demo_with

PICTURE: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
OPTIONS: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_new_tokens": 6, "logprobs": True}


def model(**options: Any) -> gemma4.Model:
    return gemma4.Model.from_pretrained("demo", **options)


def ask(one: gemma4.Model, text: str, picture: Any = PICTURE, **options: Any) -> gemma4.GenerationResult:
    content = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
    return one.generate([{"role": "user", "content": content}], **{**OPTIONS, **options})


def test_questions_about_one_picture_cost_one_picture() -> None:
    one, fresh = model(), model(cache_bytes=0)
    questions = ["Describe the image.", "How many stars are there?", "Read the text in the image."]
    few = {"max_soft_tokens": 70}  # one chunk of the prompt, which is reused as a whole
    outs = [ask(one, text, **few) for text in questions]
    assert outs[0].timings["reused_tokens"] == 0
    for out, text in zip(outs, questions, strict=True):
        alone = ask(fresh, text, **few)
        assert out.token_ids.tolist() == alone.token_ids.tolist() and np.array_equal(out.logprobs, alone.logprobs)
        assert alone.timings["reused_tokens"] == 0
    for out in outs[1:]:
        assert out.timings["reused_tokens"] >= out.usage["image_tokens"]


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "q8_0", "q4_0"])
def test_long_prompts_are_reused_across_sliding_windows(kv_cache: Any, tmp_path: Path) -> None:
    demo = demo_with(tmp_path / "demo", {"text_config": {"sliding_window": 256}})
    one, fresh = (gemma4.Model.from_pretrained(demo, kv_cache=kv_cache, **given) for given in ({}, {"cache_bytes": 0}))
    draw = np.random.default_rng(1)
    context = one.context_length
    start = [2, *draw.integers(100, 150, context // 2).tolist()]
    for cut in (len(start), len(start) - 1, 300, 129, 128, 40):
        ids = [*start[:cut], *draw.integers(100, 150, 20).tolist()]
        out, alone = one.generate(np.array(ids), **OPTIONS), fresh.generate(np.array(ids), **OPTIONS)
        assert out.token_ids.tolist() == alone.token_ids.tolist() and np.array_equal(out.logprobs, alone.logprobs)
    again = one.generate(np.array(ids), **OPTIONS)
    assert np.array_equal(again.logprobs, alone.logprobs)


def test_another_picture_shape_or_budget_is_another() -> None:
    one, fresh = model(), model(cache_bytes=0)
    changed = PICTURE.copy()
    changed[60, 80, 1] ^= 1
    for picture, options in (
        (PICTURE, {}), (changed, {}), (PICTURE.transpose(1, 0, 2), {}), (PICTURE, {"max_soft_tokens": 140}),
        (np.ascontiguousarray(PICTURE[:, ::-1]), {}), (PICTURE, {}),
    ):  # fmt: skip
        out, alone = (
            ask(one, "Describe the image.", picture, **options),
            ask(fresh, "Describe the image.", picture, **options),
        )
        assert np.array_equal(out.logprobs, alone.logprobs)


def test_the_cap_holds() -> None:
    one = model(cache_bytes=200_000)
    kept = one._runtime.kept
    for i in range(20):
        ask(one, f"{i} Describe the image.", np.full_like(PICTURE, i))
        assert kept.bytes <= 200_000
        assert kept.bytes == sum(entry.bytes for entry in kept._entries.values())
        assert sum(kept._lengths.values()) == len(kept._begun)
    assert kept.bytes > 0
    none = model(cache_bytes=0)
    ask(none, "Describe the image.")
    assert none._runtime.kept.bytes == 0
    for wrong in (-1, "1 GB", 1.5, True):
        with pytest.raises(RequestError, match="cache_bytes"):
            model(cache_bytes=wrong)


def test_keys_and_values_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = model()
    monkeypatch.setattr("gemma4.runtime.runtime._LITTLE", 0)
    monkeypatch.setattr("gemma4.runtime.runtime.available_memory", lambda: 1 << 20)
    with pytest.raises(gemma4.OutOfMemoryError, match=r"keys and values of .* tokens take .* MiB, 1 are left"):
        one.generate("Hello", max_new_tokens=4000)
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:   1234 kB\n")
    assert available_memory(tmp_path / "meminfo") == 1234 << 10
    assert available_memory(tmp_path / "none") > 1 << 60
    assert available_memory() < 1 << 50


def test_a_medium_is_read_once_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from gemma4.runtime import kept

    one, read, digest = model(), [], kept._digest
    monkeypatch.setattr(kept, "_digest", lambda medium: read.append(medium) or digest(medium))
    ask(one, "Describe the image.")
    assert len(read) == 1


def test_a_fork_while_another_thread_looks_something_up() -> None:
    kept = Kept(1000)
    with kept._lock:
        process = os.fork()
        if process == 0:
            os._exit(int(kept._lock.locked()))
        assert os.waitpid(process, 0)[1] == 0
        assert kept._lock.locked()
