"""Little address space: a typed error, never an end of the process, and a model that answers afterwards."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from measured import measure
from more_threads import allow_threads


def see(model: Any) -> Any:
    return model.encode_image(np.zeros((300, 400, 3), np.uint8))


def hear(model: Any) -> Any:
    return model.encode_audio(np.sin(np.arange(80_000, dtype=np.float32) * 0.05), sampling_rate=16_000)


def read(model: Any) -> Any:
    return model.forward(np.arange(30, 630))


CALLS: dict[str, Callable[[Any], Any]] = {"see": see, "hear": hear, "read": read}


def with_room_for(megabytes: int, name: str, threads: int) -> tuple[list[str], bool]:
    """The classes of the error that the first such call ends with, and whether it is right without a limit."""
    allow_threads(threads)
    model = gemma4.Model.from_pretrained("demo", num_threads=threads)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), resource.RLIM_INFINITY))
    classes: list[str] = []
    try:
        CALLS[name](model)
    except Exception as error:
        classes = [kind.__name__ for kind in type(error).__mro__]
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wanted = CALLS[name](gemma4.Model.from_pretrained("demo", num_threads=threads))
    return classes, bool(np.array_equal(CALLS[name](model), wanted))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize(("name", "threads"), [("see", 1), ("hear", 2), ("read", 2)])
def test_the_first_call_with_little_room(name: str, threads: int) -> None:
    ended = []
    for megabytes in (8, 20, 60, 100, 400):
        outcome = measure(with_room_for, megabytes, name, threads)
        assert not outcome.error, outcome
        classes, usable = outcome.result
        assert usable, (megabytes, outcome)
        # Python's own part may lack memory too, or a library that it loads then
        assert not classes or {"MemoryError", "ImportError", "OSError"} & set(classes), (megabytes, classes)
        ended.append("OutOfMemoryError" in classes)
    assert any(ended)
    assert not ended[-1]


def test_the_error_is_both() -> None:
    assert issubclass(gemma4.OutOfMemoryError, gemma4.Gemma4Error)
    assert issubclass(gemma4.OutOfMemoryError, MemoryError)


def threads_without_room() -> None:
    allow_threads(1000)
    gemma4.Model.from_pretrained("demo", num_threads=1)  # and all that this imports
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20), resource.RLIM_INFINITY))
    gemma4.Model.from_pretrained("demo", num_threads=1000)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_threads_that_cannot_start() -> None:
    measure(threads_without_room).check_refused("OutOfMemoryError")
