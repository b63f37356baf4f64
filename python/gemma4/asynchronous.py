"""Answers that are awaited: each is computed on a thread of its own, which shares its steps with all others.

Knows: event loops, threads. Must not know: what is computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from .answer import Chunk, GenerationResult

if TYPE_CHECKING:
    from .runtime import Answer

__all__ = ["chunks", "whole"]


async def whole(answer: Answer) -> GenerationResult:
    """All of an answer; cancelling the task ends the work."""
    async with contextlib.aclosing(_results(answer, lambda put: put(answer.whole()))) as results:
        result: GenerationResult = await anext(results)
        return result


async def chunks(answer: Answer) -> AsyncGenerator[Chunk, None]:
    """An answer piece by piece; closing the iterator or cancelling the task ends the work."""

    def work(put: Callable[[Any], None]) -> None:
        with contextlib.closing(answer.chunks()) as pieces:
            for piece in pieces:
                put(piece)

    async with contextlib.aclosing(_results(answer, work)) as pieces:
        async for piece in pieces:
            yield piece


async def _results(answer: Answer, work: Callable[[Callable[[Any], None]], None]) -> AsyncGenerator[Any, None]:
    """What `work` puts out on a thread of its own; it is told to stop when nobody wants it any more."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    ended, waits = threading.Event(), threading.current_thread()

    def stop() -> bool:
        """Whether nobody waits any more: the interpreter, at its end, waits for this answer's thread, but neither for a
        loop that nobody closed nor for one in a daemon."""
        over = waits.daemon and not threading.main_thread().is_alive()
        return ended.is_set() or over or not waits.is_alive()

    answer.stop = stop

    def put(kind: str, value: Any = None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
            loop.call_soon_threadsafe(queue.put_nowait, (kind, value))

    def run() -> None:
        try:
            work(lambda value: put("value", value))
        except BaseException as error:  # whatever it is, the task that waits shall have it
            put("error", error)
        else:
            put("end")

    threading.Thread(target=run, name="gemma4-answer", daemon=False).start()
    try:
        while True:
            kind, value = await queue.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        ended.set()
