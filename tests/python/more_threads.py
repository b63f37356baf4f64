"""Threads beyond the usable CPUs, which users are refused: their results are the same, and small machines test, too."""

from __future__ import annotations

from gemma4 import cpu


def allow_threads(most: int) -> None:
    """From now on, `num_threads=` in this process may be up to `most` on any machine."""
    check = cpu.check_threads
    cpu.check_threads = lambda count: count if type(count) is int and 1 <= count <= most else check(count)
