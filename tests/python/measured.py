"""What a call costs in a process of its own, which is killed where it does not end."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

MOST_SECONDS = 2.0  # of CPU
MOST_MEGABYTES = 300  # beyond what the process had before

_KILLED_AFTER = 100  # seconds of CPU
_LOST_AFTER = 120  # seconds

# A server that has loaded the package forks a fresh process for every call.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["measured", "gemma4.prompt.template", "gemma4.model", "numpy"])


@dataclass(frozen=True)
class Outcome:
    """How a call ended."""

    result: Any
    error: str
    """Name of the exception's class; empty where there was none."""
    message: str
    seconds: float
    megabytes: float

    def check_refused(self, kind: str) -> None:
        assert self.error == kind, self
        assert self.seconds < MOST_SECONDS, self
        assert self.megabytes < MOST_MEGABYTES, self
        assert len(self.message) < 700
        assert " at 0x" not in self.message


def measure(call: Callable[..., Any], *arguments: Any) -> Outcome:
    """Runs a module's function in a child. Fails where the child dies."""
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_run, args=(sender, call, arguments))
    process.start()
    sender.close()
    try:
        assert receiver.poll(_LOST_AFTER), f"{call.__name__}{arguments!r:.200} does not end"
        outcome: Outcome = receiver.recv()
    except EOFError:
        raise AssertionError(f"{call.__name__}{arguments!r:.200} ended the process") from None
    finally:
        process.kill()
        process.join()
    return outcome


def _run(sender: Connection, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_KILLED_AFTER, _KILLED_AFTER))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    result, error, message = None, "", ""
    try:
        result = call(*arguments)
    except Exception as caught:
        error, message = type(caught).__name__, str(caught)
    seconds = time.process_time() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sender.send(Outcome(result, error, message, seconds, grown / 1024))
