"""A process ends well while its threads still compute."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

BEGINNING = """
    import asyncio, atexit, threading, time, gemma4

    model = gemma4.Model.from_pretrained()
    LONG = {"max_tokens": 3000, "ignore_eos": True, "repetition_guard": False}

    async def many():
        await asyncio.gather(*(model.agenerate(f"Hello {number} " * 200, **LONG) for number in range(200)))

    atexit.register(lambda: print(time.perf_counter() - end))
    """
PROGRAMS = {
    "a daemon thread": """
        began = threading.Event()

        def work():
            while True:
                began.set()
                model.generate("Hello " * 900, max_tokens=2)

        threading.Thread(target=work, daemon=True).start()
        began.wait()
        time.sleep(DELAY)
        """,
    "answers that are cancelled": """
        try:
            asyncio.run(asyncio.wait_for(many(), DELAY))
        except asyncio.TimeoutError:
            pass
        """,
    "a loop that nobody closes": """
        async def main():
            global task
            task = asyncio.create_task(many())
            await asyncio.sleep(DELAY)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        """,
    "a loop in a daemon thread": """
        threading.Thread(target=lambda: asyncio.run(many()), daemon=True).start()
        time.sleep(DELAY)
        """,
}


def run(program: str) -> str:
    whole = textwrap.dedent(BEGINNING) + textwrap.dedent(program) + "\nend = time.perf_counter()\n"
    done = subprocess.run([sys.executable, "-c", whole], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "terminate" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("delay", [0.1, 0.2, 0.31])
@pytest.mark.parametrize("program", PROGRAMS)
def test_nobody_waits_for_what_nobody_wants(program: str, delay: float) -> None:
    """All of it would take minutes; what a thread is doing takes a moment."""
    assert float(run(PROGRAMS[program].replace("DELAY", str(delay)))) < 20


def test_somebody_still_waits() -> None:
    """The main thread is over, but a loop runs in another one that the interpreter waits for."""
    program = """
        async def one():
            answer = await model.agenerate("Hello", max_tokens=300, ignore_eos=True, repetition_guard=False)
            print(len(answer.token_ids))

        def work():
            threading.main_thread().join()
            asyncio.run(one())

        threading.Thread(target=work).start()
        """
    assert run(program).splitlines()[0] == "300"
