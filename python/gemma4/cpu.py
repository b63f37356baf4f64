"""What this machine's processor offers, and how many threads to use of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from . import _core
from .errors import RequestError

__all__ = ["cpu_info", "default_threads"]

MAX_THREADS = 1024


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


def usable_cpus(root: Path = Path("/")) -> int:
    """The CPUs that this process may use: its affinity, cut to the CPU quotas of its control groups under `root`."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota in _quotas(root):
        count = min(count, max(1, int(quota + 0.5)))
    return min(count, MAX_THREADS)


def default_threads() -> int:
    """What GEMMA4_NUM_THREADS says, or OMP_NUM_THREADS, as far as there are CPUs; without them, every usable CPU."""
    most = usable_cpus()
    wish = os.environ.get("GEMMA4_NUM_THREADS", "").strip()
    if wish:
        return _checked("GEMMA4_NUM_THREADS", int(wish) if re.fullmatch("[0-9]{1,9}", wish) else wish, most)
    # A list, for nested loops, begins with the outermost. What is no number is ignored, as OpenMP does, which many
    # programs on this machine may read it with.
    first = re.match(r"\s*\+?([0-9]+)", os.environ.get("OMP_NUM_THREADS", ""))
    return min(int(first[1][:9]) or most, most) if first else most


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes that programs can still have on this machine; as good as endless where the system does not say."""
    try:
        found = re.search(r"^MemAvailable:\s*([0-9]+) kB", meminfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) << 10 if found else 1 << 62


def check_threads(count: Any) -> int:
    """`num_threads=`; None is the default. Raises RequestError for what is no number of usable CPUs."""
    return default_threads() if count is None else _checked("num_threads", count, usable_cpus())


def _checked(name: str, count: Any, most: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise RequestError(f"{name}: expected 1 to {most}, found {str(count)[:40]}")
    if count > most:
        raise RequestError(
            f"{name}: found {str(count)[:40]}, but this process may use {most} CPU{'s' * (most > 1)} "
            "(its affinity and its container's quota)"
        )
    return count


def _quotas(root: Path) -> Iterator[float]:
    """CPUs' worth of time that each control group around this process may spend, where that is limited."""
    try:
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    # Of each hierarchy that can limit the CPU: what of it is mounted where.
    mounted: dict[str, tuple[PurePosixPath, Path]] = {}
    for mount in mounts:
        place, _, kind = mount.partition(" - ")
        own, what = place.split(" "), kind.split(" ")
        if len(own) < 5 or len(what) < 3:
            continue
        which = {"cgroup2": "", "cgroup": "cpu" if "cpu" in what[2].split(",") else None}.get(what[0])
        if which is not None:
            mounted.setdefault(which, (PurePosixPath(own[3]), root / own[4].lstrip("/")))
    for group in groups:
        _, controllers, path = group.split(":", 2) if group.count(":") > 1 else ("", "none", "")
        for which in {"", "cpu"} & set(controllers.split(",")) & set(mounted):
            inner, outer = mounted[which]
            # In a container the path may be the host's, which is not to be seen there: then the top is the group.
            full = PurePosixPath(path)
            seen = full.is_relative_to(inner) and ".." not in full.parts
            folder = outer / full.relative_to(inner) if seen else outer
            while True:
                yield from _quota(folder)
                if folder == outer:
                    break
                folder = folder.parent


def _quota(folder: Path) -> Iterator[float]:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        if int(quota) > 0 and int(period) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError):  # "max", -1, or no such file: no quota
        return
