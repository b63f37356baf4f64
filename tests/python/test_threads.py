"""How many threads are used, and how many may be asked for."""

from __future__ import annotations

import os
from pathlib import Path

import gemma4
import pytest
from gemma4 import cpu

CHECK = cpu.check_threads  # conftest.py lets the other tests use more


@pytest.fixture
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(cpu, "_quotas", lambda _: iter(()))
    monkeypatch.delenv("GEMMA4_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.usefixtures("four_cpus")
@pytest.mark.parametrize(
    ("own", "omp", "expected"),
    [
        (None, None, 4),
        ("", "", 4),
        ("3", None, 3),
        (" 2 ", "1", 2),
        (None, "3", 3),
        (None, "4,2", 4),
        (None, " 2 , 8", 2),
        (None, "100", 4),
        (None, "100,2", 4),
        (None, "99999999999999999999", 4),
        (None, "0", 4),
        (None, "-2", 4),
        (None, "many", 4),
    ],
)
def test_the_environment(monkeypatch: pytest.MonkeyPatch, own: str | None, omp: str | None, expected: int) -> None:
    for name, value in (("GEMMA4_NUM_THREADS", own), ("OMP_NUM_THREADS", omp)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert cpu.default_threads() == expected
    assert gemma4.cpu_info()["threads"] == expected
    assert CHECK(None) == expected
    assert CHECK(4) == 4, "an argument comes first"


@pytest.mark.usefixtures("four_cpus")
@pytest.mark.parametrize("value", ["many", "0", "-1", "2.5", "4,2", "1e1", "٣", "9" * 5000])
def test_a_malformed_wish(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GEMMA4_NUM_THREADS", value)
    with pytest.raises(gemma4.RequestError, match=r"^GEMMA4_NUM_THREADS: expected 1 to 4, found ") as caught:
        gemma4.Model.from_pretrained("demo")
    assert len(str(caught.value)) < 200


@pytest.mark.usefixtures("four_cpus")
def test_more_threads_than_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(gemma4.RequestError, match=r"^num_threads: found 5, but this process may use 4 CPUs "):
        gemma4.Model.from_pretrained("demo", num_threads=5)
    with pytest.raises(gemma4.RequestError, match=r"^num_threads: found 1000, but this process may use 4 CPUs "):
        gemma4.convert("demo", "never.gguf", num_threads=1000)
    monkeypatch.setenv("GEMMA4_NUM_THREADS", "5")
    with pytest.raises(gemma4.RequestError, match=r"^GEMMA4_NUM_THREADS: found 5, but this process may use 4 CPUs "):
        gemma4.Model.from_pretrained("demo")
    for wrong in (0, -1, True, 2.0, "2"):
        with pytest.raises(gemma4.RequestError, match=r"^num_threads: expected 1 to 4, found "):
            CHECK(wrong)


V2 = "30 23 0:26 {inner} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "31 23 0:27 {inner} /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"


def machine(root: Path, mounts: str, groups: str, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def quotas(root: Path, mounts: str, groups: str, files: dict[str, str]) -> list[float]:
    return list(cpu._quotas(machine(root, mounts, groups, **files)))


@pytest.mark.parametrize(
    ("inner", "group", "files", "expected"),
    [
        ("/", "/", {"cpu.max": "max 100000\n"}, []),
        ("/", "/", {"cpu.max": "150000 100000\n"}, [1.5]),
        ("/", "/", {}, []),  # the root of a machine has no such file
        ("/", "/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, [2.0]),
        ("/", "/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, [4.0, 2.0]),
        ("/docker/x", "/docker/x/y", {"y/cpu.max": "300000 100000"}, [3.0]),
        ("/docker/x", "/elsewhere", {"cpu.max": "100000 100000", "elsewhere/cpu.max": "1 1000"}, [1.0]),
        ("/", "/../x", {"cpu.max": "100000 100000"}, [1.0]),
        ("/", "/", {"cpu.max": "nonsense"}, []),
        ("/", "/", {"cpu.max": "1000 0"}, []),
    ],
)
def test_quotas_of_version_2(
    tmp_path: Path, inner: str, group: str, files: dict[str, str], expected: list[float]
) -> None:
    assert quotas(tmp_path, V2.format(inner=inner), f"0::{group}\n", files) == expected


def test_quotas_of_version_1(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n",
        "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    memory = "32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    groups = "5:memory:/m\n4:cpu,cpuacct:/a\n0::/\n"
    assert quotas(tmp_path, memory + V1.format(inner="/"), groups, files) == [2.5]


def test_quotas_that_cannot_be_read(tmp_path: Path) -> None:
    assert list(cpu._quotas(tmp_path)) == []
    assert quotas(tmp_path / "a", "", "0::/\n", {"cpu.max": "100000 100000"}) == []
    assert quotas(tmp_path / "b", V2.format(inner="/") + "damaged\n", "damaged\n\n0::/\n", {"cpu.max": "1 1"}) == [1.0]


@pytest.mark.parametrize(("quota", "expected"), [(1, 1), (149, 1), (150, 2), (260, 3), (100_000, 4)])
def test_cpus_by_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: int, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    machine(tmp_path, V2.format(inner="/"), "0::/\n", **{"cpu.max": f"{quota} 100"})
    assert cpu.usable_cpus(tmp_path) == expected
