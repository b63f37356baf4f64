"""Many at once: lists, threads, tasks and streams give the answers that each would get alone, and leave nothing."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import MediaError, RequestError
from gemma4.runtime.scheduler import MOST_RUNNING, Scheduler
from numpy.typing import NDArray

PICTURES = sorted((Path(__file__).parents[1] / "data" / "pictures").glob("*.png"))
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def model() -> gemma4.Model:
    return gemma4.Model.from_pretrained("demo")


@pytest.fixture(scope="module")
def alone() -> gemma4.Model:
    """Another one of the same, which keeps nothing and computes nothing together."""
    return gemma4.Model.from_pretrained("demo", cache_bytes=0)


def pictures(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    draw = np.random.default_rng(seed)
    return [
        draw.integers(0, 256, (int(draw.integers(40, 200)), int(draw.integers(40, 200)), 3), np.uint8)
        for _ in range(count)
    ]


def asked(picture: Any, text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}]}]


def same(a: gemma4.GenerationResult, b: gemma4.GenerationResult) -> bool:
    return np.array_equal(a.token_ids, b.token_ids) and np.array_equal(
        np.zeros(0) if a.logprobs is None else a.logprobs, np.zeros(0) if b.logprobs is None else b.logprobs
    )


# -- lists -------------------------------------------------------------------------------------------------------------


def test_lists_are_the_answers_one_by_one(model: gemma4.Model, alone: gemma4.Model) -> None:
    shown = pictures(2 * MOST_RUNNING + 3)
    together = model.detect(shown, "red circle")
    for found, picture in zip(together, shown, strict=True):
        one = alone.detect(picture, "red circle")
        assert found.raw_text == one.raw_text and np.array_equal(found.scores, one.scores)
    assert model.caption(shown[:3]) == [alone.caption(picture) for picture in shown[:3]]
    assert [points.raw_text for points in model.point(shown[:3], "star")] == [
        alone.point(picture, "star").raw_text for picture in shown[:3]
    ]
    assert model.read(shown[:3]) == [alone.read(picture) for picture in shown[:3]]
    rows = model.encode_image(shown[:2])
    assert all(np.array_equal(row, alone.encode_image(one)) for row, one in zip(rows, shown, strict=False))


def test_lists_of_prompts(model: gemma4.Model, alone: gemma4.Model) -> None:
    prompts: list[Any] = ["Hello", asked(pictures(1)[0], "Describe the image."), model.prepare("Hi"), [2, 9, 30, 7]]
    options: dict[str, Any] = {**GREEDY, "max_new_tokens": 12, "logprobs": True}
    outs = model.generate(prompts[:3], **options) + model.generate([np.array(prompts[3])], **options)
    assert all(same(out, alone.generate(one, **options)) for out, one in zip(outs, prompts, strict=True))
    seeded = model.generate(["Hello"] * 3, temperature=1.5, seed=4, max_new_tokens=9)
    assert all(same(out, alone.generate("Hello", temperature=1.5, seed=4, max_new_tokens=9)) for out in seeded)
    shown = pictures(2)
    with_media = model.generate(["Describe the image."] * 3, images=[shown[0], None, shown], **options)
    for out, images in zip(with_media, [shown[0], None, shown], strict=True):
        assert same(out, alone.generate("Describe the image.", images=images, **options))
    assert len(model.generate(iter(["Hello", "Hi"]), max_new_tokens=1)) == 2
    with pytest.raises(RequestError, match="images: expected a list of 2"):
        model.generate(["a", "b"], images=shown[:1])
    with pytest.raises(RequestError, match="images: expected a list of 2"):
        model.generate(["a", "b"], images=shown[0])


def test_sounds(model: gemma4.Model, alone: gemma4.Model) -> None:
    draw = np.random.default_rng(3)
    sounds = [draw.normal(0, 0.1, int(16_000 * seconds)).astype(np.float32) for seconds in (0.4, 1.3, 2.1)]
    assert model.transcribe(sounds) == [alone.transcribe(sound) for sound in sounds]
    assert model.transcribe(sounds[0].tolist()) == alone.transcribe(sounds[0]), "numbers are one sound"
    cut = model.transcribe([sounds[2]], chunk_seconds=1)[0]
    assert cut == alone.transcribe(sounds[2], chunk_seconds=1) and len(cut.segments) == 3


def test_an_error_in_its_place(model: gemma4.Model) -> None:
    good = pictures(1)[0]
    found: list[Any] = model.detect([good, "/nowhere.png", good, b"no picture"], "star", on_error="return")
    assert [type(one) for one in found] == [gemma4.Detections, MediaError, gemma4.Detections, MediaError]
    with pytest.raises(MediaError, match="nowhere"):
        model.detect([good, "/nowhere.png"], "star")
    with pytest.raises(RequestError, match="on_error"):
        model.detect([good], "star", on_error="ignore")  # type: ignore[call-overload]
    outs: list[Any] = model.generate(["Hello", [2] * 100_000], max_new_tokens=1, on_error="return")
    assert isinstance(outs[1], gemma4.ContextLengthError) and outs[0].text is not None
    assert model.detect([], "star") == []


@pytest.mark.filterwarnings("ignore:the answer was cut")
def test_an_iterator_is_taken_as_it_is_computed(model: gemma4.Model) -> None:
    taken = 0

    def shown() -> Iterator[Any]:
        nonlocal taken
        for picture in pictures(3 * MOST_RUNNING):
            taken += 1
            yield picture
        raise KeyError("the end of a bad iterator")

    with pytest.raises(KeyError):
        model.caption(shown(), max_new_tokens=2)
    taken = 0
    stopped = iter([*pictures(2), "/nowhere.png", *pictures(3 * MOST_RUNNING)])
    with pytest.raises(MediaError):
        model.caption(stopped, max_new_tokens=2)
    assert len(list(stopped)) >= 2 * MOST_RUNNING


@pytest.mark.filterwarnings("ignore:the answer was cut")
def test_an_iterator_may_ask_the_same_model(model: gemma4.Model, alone: gemma4.Model) -> None:
    shown = pictures(2 * MOST_RUNNING)

    def prompts() -> Iterator[str]:
        for picture in shown:
            yield model.caption(picture, max_new_tokens=64)

    options: dict[str, Any] = {**GREEDY, "max_new_tokens": 6}
    outs = model.generate(prompts(), **options)
    captions = [alone.caption(picture, max_new_tokens=64) for picture in shown]
    assert all(same(out, alone.generate(text, **options)) for out, text in zip(outs, captions, strict=True))


def test_lists_in_threads_do_not_wait_for_each_other(model: gemma4.Model) -> None:
    shown = pictures(MOST_RUNNING)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: model.detect(shown, "star"), range(4)))
    assert len({tuple(one.raw_text for one in several) for several in found}) == 1


# -- threads and event loops -------------------------------------------------------------------------------------------


def test_threads_share_steps(model: gemma4.Model, alone: gemma4.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    together: list[int] = []
    step = gemma4._core.step

    def counted(inputs: Any) -> None:
        together.append(len(inputs))
        step(inputs)

    monkeypatch.setattr(gemma4._core, "step", counted)
    prompts = [f"Hello {word}" for word in "abcdefgh"]
    options: dict[str, Any] = {**GREEDY, "max_new_tokens": 40}
    with ThreadPoolExecutor(8) as pool:
        outs = list(pool.map(lambda text: model.generate(text, **options), prompts))
    monkeypatch.undo()
    assert all(same(out, alone.generate(text, **options)) for out, text in zip(outs, prompts, strict=True))
    assert max(together) > 1


def test_tasks(model: gemma4.Model, alone: gemma4.Model) -> None:
    async def all_at_once() -> list[gemma4.GenerationResult]:
        return await asyncio.gather(*(model.agenerate(f"Hello {i}", **GREEDY, max_new_tokens=9) for i in range(20)))

    for i, out in enumerate(asyncio.run(all_at_once())):
        assert same(out, alone.generate(f"Hello {i}", **GREEDY, max_new_tokens=9))

    async def pieces() -> str:
        return "".join([chunk.text async for chunk in model.astream("Hello", max_new_tokens=9)])

    assert asyncio.run(pieces()) == alone.generate("Hello", max_new_tokens=9).text

    async def fails() -> None:
        with pytest.raises(MediaError):
            await model.agenerate("Hello", images="/nowhere.png")

    asyncio.run(fails())


def test_a_cancelled_task_ends_its_work(model: gemma4.Model) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(model.agenerate("Hello", **GREEDY, max_new_tokens=900, repetition_guard=False))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    for _ in range(200):
        if not any(thread.name == "gemma4-answer" for thread in threading.enumerate()):
            break
        time.sleep(0.05)
    assert not any(thread.name == "gemma4-answer" for thread in threading.enumerate())


def test_streams_that_rest_stop_nobody(model: gemma4.Model, alone: gemma4.Model) -> None:
    resting = [model.stream(f"Hello {i}", **GREEDY, max_new_tokens=20) for i in range(MOST_RUNNING + 4)]
    for stream in resting:
        next(stream)
    assert same(model.generate("Hi", **GREEDY, max_new_tokens=5), alone.generate("Hi", **GREEDY, max_new_tokens=5))
    for stream in resting:
        stream.close()


def test_too_many_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemma4.runtime.scheduler._MOST_WAITING", 2)
    scheduler = Scheduler()
    for _ in range(MOST_RUNNING):
        scheduler.enter()
    waiting = [threading.Thread(target=scheduler.enter) for _ in range(2)]
    for thread in waiting:
        thread.start()
    while len(scheduler._queue) < 2:
        time.sleep(0.01)
    with pytest.raises(RequestError, match="wait already"):
        scheduler.enter()
    assert not scheduler.try_enter()
    for _ in range(MOST_RUNNING):
        scheduler.leave()
    for thread in waiting:
        thread.join(10)
        assert not thread.is_alive()


# -- schedules ---------------------------------------------------------------------------------------------------------


def requests(draw: random.Random, shown: list[Any], sounds: list[Any]) -> tuple[Any, dict[str, Any]]:
    """A request of any kind."""
    kind = draw.choice(["text", "picture", "question", "sound", "grammar", "sampled", "tools", "thinking"])
    options: dict[str, Any] = {"max_new_tokens": draw.randrange(1, 24), "temperature": 0}
    text = " ".join(draw.choices(["Hello", "red", "circle", "how many", "star"], k=draw.randrange(1, 40)))
    if kind == "text":
        return text, {**options, "ignore_eos": True}
    if kind in ("picture", "question"):
        return asked(draw.choice(shown), "Describe the image." if kind == "picture" else text), options
    if kind == "sound":
        content = [
            {"type": "audio", "audio": draw.choice(sounds)},
            {"type": "text", "text": "Write down what is said."},
        ]
        return [{"role": "user", "content": content}], options
    if kind == "grammar":
        return text, {**options, "response_format": {"type": "regex", "regex": "[a-z]{3,9}(, [a-z]+)*"}}
    if kind == "sampled":
        return text, {**options, "temperature": 1.2, "seed": draw.randrange(1000), "top_k": 20}
    if kind == "tools":
        tool = {"name": "area", "description": "d", "parameters": {"type": "object", "properties": {}}}
        return text, {**options, "tools": [{"type": "function", "function": tool}]}
    return text, {**options, "thinking": draw.choice([True, 4])}


def outcome(work: Any) -> Any:
    """What came of it: the ids and log-probabilities, or which error."""
    try:
        out = work()
    except gemma4.Gemma4Error as error:
        return type(error), str(error)
    return out.token_ids.tolist(), out.logprobs.tolist()


@pytest.mark.parametrize("seed", range(8))
def test_schedules(model: gemma4.Model, alone: gemma4.Model, seed: int) -> None:
    """Requests that join, leave and are cancelled at random, with repeated prompts and media."""
    draw = random.Random(seed)
    shown = pictures(3, seed)
    noise = np.random.default_rng(seed)
    sounds = [noise.normal(0, 0.1, 9000 + 5000 * i).astype(np.float32) for i in range(2)]
    pool = [requests(draw, shown, sounds) for _ in range(12)]
    chosen = draw.choices(pool, k=25)
    delays = [draw.random() * 0.05 for _ in chosen]

    def run(index: int) -> Any:
        (messages, options), given_up = chosen[index], index % 7 == 3
        time.sleep(delays[index])
        if given_up:
            stream = model.stream(messages, **options)
            next(stream, None)
            stream.close()
            return None
        return outcome(lambda: model.generate(messages, logprobs=True, **options))

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(run, range(len(chosen))))
    for (messages, options), got in zip(chosen, found, strict=True):
        if got is not None:
            assert got == outcome(lambda: alone.generate(messages, logprobs=True, **options)), options  # noqa: B023
    scheduler = model._runtime.scheduler
    assert scheduler._running == 0 and scheduler._waiting == [] and not scheduler._queue
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one).__name__ == "Answer"], "an answer is left behind"


# -- closing -----------------------------------------------------------------------------------------------------------


def test_a_closed_model_is_told(model: gemma4.Model) -> None:
    with gemma4.Model.from_pretrained("demo") as other:
        view = other.tensors["model.language_model.norm.weight"]
    for call in (lambda: other.generate("x"), lambda: other.detect("x.png"), lambda: other.context_length):
        with pytest.raises(RequestError, match="closed"):
            call()
    assert repr(other) == "<gemma4.Model 'demo', closed>" and np.isfinite(view).all()
    other.close()


def test_answers_on_their_way_outlive_the_model() -> None:
    other = gemma4.Model.from_pretrained("demo")
    stream = other.stream("Hello", **GREEDY, max_new_tokens=9)
    first = next(stream)
    other.close()
    assert first.token_ids and list(stream)


def test_media_that_end_before_the_prompts(model: gemma4.Model) -> None:
    """None of the prompts is dropped in silence."""
    picture = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(RequestError, match="images: expected one for each prompt or None, found 1"):
        model.generate(iter(["Hello"] * 3), images=[picture], max_new_tokens=2)
    answers = model.generate(iter(["Hello"] * 3), images=itertools.repeat(picture), max_new_tokens=2)
    assert len(answers) == 3


def test_sounds_and_rates_of_numpy(model: gemma4.Model) -> None:
    samples = np.zeros(8000, np.float32)
    for sound in ((samples, np.int64(16_000)), (samples, np.float32(16_000)), list(samples)):
        assert model.generate("Hello", audio=sound, max_new_tokens=2).token_ids.size
    frames = [np.zeros((32, 32, 3), np.uint8)] * 3
    assert model.generate("Hello", video={"frames": frames, "fps": np.float32(1)}, max_new_tokens=2).token_ids.size
