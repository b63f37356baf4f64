"""A run that ends anywhere goes on: nothing is lost, nothing is twice, and the output is that of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, product
from pathlib import Path
from typing import Any

import gemma4
import pytest
from gemma4.errors import RequestError
from gemma4.pipelines import Job, run_job
from gemma4.pipelines.journal import Journal
from labelled import draw, draw_all

JOB = Job("detect", ["red circle", "blue square"], options={"max_soft_tokens": 70})
WORDS = Job("generate", options={"max_new_tokens": 6})


@pytest.fixture(scope="module")
def model() -> Any:
    """Of one thread: a forked process has none of its parent's others."""
    return gemma4.Model.from_pretrained("demo", num_threads=1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(path: Path) -> dict[str, bytes]:
    """Of a file, or of all files in a folder."""
    paths = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return {str(one.relative_to(path)): one.read_bytes() for one in paths}


def killed(model: Any, out: str, after: float) -> bool:
    """Whether a run in a process of its own was still on its way when it was killed."""
    process = os.fork()
    if process == 0:
        try:
            run_job(model, WORDS, ["in.jsonl"], out)
        finally:
            os._exit(0)
    time.sleep(after)
    ended, _ = os.waitpid(process, os.WNOHANG)
    if not ended:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return not ended


def test_kill_at_twenty_moments(here: Path, model: Any) -> None:
    """Of words, which are answered so quickly that many moments are different ones."""
    prompts = "".join(f'{{"prompt": "Tell {number}"}}\n' for number in range(12))
    Path("in.jsonl").write_text(prompts + '{"prompt": 7}\n' + prompts)
    out, journal, chance, kills = Path("out.jsonl"), Path("out.jsonl.part.jsonl"), random.Random(20), 0
    started = time.perf_counter()
    run_job(model, WORDS, ["in.jsonl"], "whole.jsonl")
    usual = time.perf_counter() - started
    expected = Path("whole.jsonl").read_bytes()
    known = {0}
    for _ in range(200):
        if kills == 20:
            break
        if killed(model, "out.jsonl", chance.uniform(0, 0.7 * usual)):
            kills += 1
            known.add(journal.read_bytes().count(b"\n") if journal.exists() else 0)
            continue
        assert out.read_bytes() == expected and not journal.exists()
        os.unlink(out)  # it came to its end: the next one begins anew
    assert kills == 20 and len(known) > 3, known
    run_job(model, WORDS, ["in.jsonl"], out, restart=out.exists())
    assert out.read_bytes() == expected and sorted(os.listdir()) == ["in.jsonl", "out.jsonl", "whole.jsonl"]


class Killed(BaseException):
    """In the place of a signal, for moments that are too short to be hit by chance."""


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet", "out.json", "yolo"])
def test_kill_while_the_output_takes_its_place(here: Path, model: Any, name: str) -> None:
    """Whatever step it was, the next run has it all; also where there is one that is replaced."""
    draw_all(here / "in", 3)
    run_job(model, JOB, ["in"], name)
    expected, out = contents(Path(name)), Path(name)
    for patched, step in product(("replace", "unlink", "mkdir"), range(3)):
        calls, original = count(), getattr(os, patched)

        def stop(*args: Any, calls: Any = calls, original: Any = original, step: int = step, **kwargs: Any) -> Any:
            if next(calls) >= step:
                raise Killed
            return original(*args, **kwargs)

        with pytest.MonkeyPatch.context() as context, suppress(Killed):
            context.setattr(os, patched, stop)
            run_job(model, JOB, ["in"], out, restart=True)
        run_job(model, JOB, ["in"], out, restart=not Path(f"{name}.part.jsonl").exists())
        assert contents(out) == expected and not list(here.glob("*.part*"))


# --- what is refused


@pytest.fixture
def half(here: Path, model: Any) -> Iterator[Path]:
    """A journal with half of the rows; at the end they are all there."""
    draw_all(here / "in", 8)
    run_job(model, JOB, ["in"], "whole.jsonl")
    journal = Path("out.jsonl.part.jsonl")
    rows = [json.loads(line) for line in Path("whole.jsonl").read_text().splitlines()]
    with pytest.raises(ZeroDivisionError):
        _run_to(4, model)
    assert [json.loads(line) for line in journal.read_text().splitlines()[1:]] == rows[:4]
    before = journal.read_bytes()
    yield journal
    if journal.exists() and journal.read_bytes() == before:
        run_job(model, JOB, ["in"], "out.jsonl")
        assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def _run_to(count: int, model: Any) -> None:
    with pytest.MonkeyPatch.context() as context:
        append = Journal.append

        def stop(self: Journal, row: Any) -> None:
            if self.count == count:
                raise ZeroDivisionError
            append(self, row)

        context.setattr(Journal, "append", stop)
        run_job(model, JOB, ["in"], "out.jsonl")


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (Job("detect", ["star"]), r'labels: \["red circle", "blue square"\], not \["star"\]'),
        (Job("point", "star"), "task"),
        (Job("detect", JOB.labels, options={"max_soft_tokens": 140}), "options: "),
    ],
)
def test_another_question(half: Path, model: Any, other: Job, name: str) -> None:
    with pytest.raises(RequestError, match=rf"begun with another {name}.*--restart"):
        run_job(model, other, ["in"], "out.jsonl")


def test_another_model(half: Path) -> None:
    for changed in ({"kv_cache": "q8_0"}, {"resize": "pillow"}, {"dtype": "q8_0"}):
        other = gemma4.Model.from_pretrained("demo", **changed)  # type: ignore[arg-type]
        with pytest.raises(RequestError, match=f"begun with another {next(iter(changed))}"):
            run_job(other, JOB, ["in"], "out.jsonl")
    # What changes no answer is no other model.
    other = gemma4.Model.from_pretrained("demo", num_threads=1, cache_bytes=0, max_context=None)
    run_job(other, JOB, ["in"], "out.jsonl")
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_other_inputs(half: Path, model: Any) -> None:
    draw(9).save("in/0001a.png")
    with pytest.raises(RequestError, match=r"row 3 was in/0002\.png, now it would be in/0001a\.png; --restart"):
        run_job(model, JOB, ["in"], "out.jsonl")
    os.unlink("in/0001a.png")
    with pytest.raises(RequestError, match=r"row 2 was in/0001\.png, now it would be nothing"):
        run_job(model, JOB, ["in/0000.png"], "out.jsonl")


def test_restart(half: Path, model: Any) -> None:
    run_job(model, Job("detect", "blue square"), ["in"], "out.jsonl", restart=True)
    assert not half.exists()
    first = Path("out.jsonl").read_bytes()
    with pytest.raises(RequestError, match=r"out\.jsonl is there already; --restart replaces it"):
        run_job(model, JOB, ["in"], "out.jsonl")
    assert Path("out.jsonl").read_bytes() == first
    run_job(model, JOB, ["in"], "out.jsonl", restart=True)
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_a_torn_line_is_made_again(half: Path, model: Any) -> None:
    whole = half.read_bytes()
    ends = [place for place, byte in enumerate(whole) if byte == 10]
    for cut in (ends[0] - 3, ends[0], ends[0] + 1, ends[1] + 1, ends[2] + 7, ends[3], len(whole) - 1):
        half.write_bytes(whole[:cut])
        run_job(model, JOB, ["in"], "out.jsonl")
        assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes() and not half.exists()
        os.unlink("out.jsonl")
    half.write_bytes(whole + bytes(100))  # what a file system may leave of a last block
    run_job(model, JOB, ["in"], "out.jsonl")
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_a_damaged_line_is_told(half: Path, model: Any) -> None:
    lines = half.read_bytes().splitlines(keepends=True)
    half.write_bytes(b"".join([*lines[:2], b"{broken\n", *lines[3:]]))
    with pytest.raises(RequestError, match="line 3 is damaged"):
        run_job(model, JOB, ["in"], "out.jsonl")


def test_a_file_of_somebody_else_is_left_alone(here: Path, model: Any) -> None:
    draw_all(here / "in", 1)
    for text in ("precious\n", "[]\n", '{"mine": 1}\n'):
        Path("out.jsonl.part.jsonl").write_text(text)
        for restart in (False, True):
            with pytest.raises(RequestError, match="in the way"):
                run_job(model, JOB, ["in"], "out.jsonl", restart=restart)
        assert Path("out.jsonl.part.jsonl").read_text() == text


def test_two_runs_at_once(here: Path, model: Any) -> None:
    draw_all(here / "in", 1)
    other = Journal(Path("out.jsonl.part.jsonl"), {})
    with pytest.raises(RequestError, match="another run is writing to it"):
        run_job(model, JOB, ["in"], "out.jsonl")
    other.remove()
    run_job(model, JOB, ["in"], "out.jsonl")


def test_an_input_is_not_overwritten(here: Path, model: Any) -> None:
    draw_all(here, 1)
    Path("in.jsonl").write_text('{"image": "0000.png"}\n')
    os.symlink("in.jsonl", "link.jsonl")
    for out in ("in.jsonl", "link.jsonl"):
        with pytest.raises(RequestError, match="is an input"):
            run_job(model, JOB, ["in.jsonl"], out, restart=True)
    assert Path("in.jsonl").read_text() == '{"image": "0000.png"}\n'


def test_chance_is_the_same_when_a_run_goes_on(here: Path, model: Any) -> None:
    Path("in.jsonl").write_text("".join(f'{{"prompt": "Tell {k}"}}\n' for k in range(8)))
    job = Job("generate", options={"temperature": 1.5, "max_new_tokens": 6})
    run_job(model, job, ["in.jsonl"], "a.jsonl")
    run_job(model, job, ["in.jsonl"], "b.jsonl")
    assert Path("a.jsonl").read_bytes() == Path("b.jsonl").read_bytes()
