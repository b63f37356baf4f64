"""A process ends well while its threads still compute."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

BEGINNINGS = {
    "daemon": """
        import threading, time, gemma4

        model = gemma4.Model.from_pretrained()
        began = threading.Event()

        def work():
            while True:
                began.set()
                model.generate("Hello " * 900, max_tokens=2)

        threading.Thread(target=work, daemon=True).start()
        began.wait()
        time.sleep(DELAY)
        """,
    "cancelled": """
        import asyncio, gemma4

        model = gemma4.Model.from_pretrained()

        async def main():
            task = asyncio.create_task(model.agenerate("Hello " * 900, max_tokens=400))
            await asyncio.sleep(DELAY)

        asyncio.run(main())
        """,
    "a loop that nobody closes": """
        import asyncio, gemma4

        model = gemma4.Model.from_pretrained()

        async def main():
            global task
            task = asyncio.create_task(model.agenerate("Hello " * 900, max_tokens=3000))
            await asyncio.sleep(DELAY)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        """,
}


@pytest.mark.parametrize("delay", [0.1, 0.2, 0.31])
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_the_end_of_a_process(beginning: str, delay: float) -> None:
    program = textwrap.dedent(BEGINNINGS[beginning]).replace("DELAY", str(delay))
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "terminate" not in done.stderr
