"""What this machine's processor offers, and how many threads to use of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from . import _core
from .errors import RequestError

__all__ = ["cpu_info", "default_threads"]

MAX_THREADS = 1024
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def cpu_info() -> dict[str, Any]:
    """The instruction set in use, those that this CPU supports, its features, and the threads used by default.

    >>> sorted(cpu_info())
    ['features', 'isa', 'supported', 'threads']
    """
    return {
        "isa": _core.isa(),
        "supported": list(_core.supported_isas()),
        "features": list(_core.cpu_features()),
        "threads": default_threads(),
    }


def default_threads() -> int:
    """The CPUs that this process may use: its affinity, cut to a container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_MAX.read_text().split()
        count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no quota
        pass
    return min(count, MAX_THREADS)


def check_threads(count: Any) -> int:
    """`num_threads=`; None is all that may be used. Raises RequestError for anything but 1 to 1024."""
    if count is None:
        return default_threads()
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_THREADS:
        raise RequestError(f"num_threads: expected 1 to {MAX_THREADS}, found {str(count)[:40]}")
    return count
