"""The number of cores that a process may use, by its mask and its control groups."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avatar_kit.cores import Granted, cgroup_grant, core_time, usable_cores

TWO = {"cpu.max": "200000 100000\n"}
HALF = {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("membership", "groups", "quota"),
    [
        ("0::/\n", {".": TWO}, 2.0),
        ("0::/\n", {".": {"cpu.max": "150000 100000\n"}}, 1.5),
        ("0::/\n", {".": {"cpu.max": "max 100000\n"}}, math.inf),
        ("0::/\n", {".": {}}, math.inf),
        ("0::/a/b\n", {"a": TWO, "a/b": {"cpu.max": "max 100000\n"}}, 2.0),
        ("0::/a/b\n", {"a": TWO, "a/b": {"cpu.max": "50000 100000\n"}}, 0.5),
        ("0::/of/the/host\n", {".": TWO}, 2.0),
        ("0::/../..\n", {".": TWO}, 2.0),
        ("4:memory:/m\n3:cpu,cpuacct:/c\n0::/\n", {"cpu/c": HALF}, 0.5),
        ("3:cpu:/\n", {"cpu/.": {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}}, math.inf),
        ("3:cpuset:/x\n2:name=systemd:/\n", {"cpuset/x": HALF}, math.inf),
        ("0::/\n", {".": {"cpu.max": "nonsense"}}, math.inf),
        ("nonsense\n", {}, math.inf),
        ("", {}, math.inf),
    ],
)
def test_the_quota_of_control_groups(tmp_path: Path, membership: str, groups: dict[str, dict[str, str]], quota: float) -> None:
    (tmp_path / "cgroup").write_text(membership)
    for group, files in groups.items():
        folder = tmp_path / "mounted" / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    assert cgroup_grant(tmp_path / "cgroup", tmp_path / "mounted").cores == quota


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cgroup_grant(tmp_path / "none", tmp_path).cores == math.inf


@pytest.mark.parametrize(("quota", "cores"), [(math.inf, 2), (1.5, 2), (1.0, 1), (0.2, 1), (7.0, 2)])
def test_the_mask_and_the_quota_both_count(monkeypatch: pytest.MonkeyPatch, quota: float, cores: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {3, 5})
    monkeypatch.setattr("avatar_kit.cores.cgroup_grant", lambda *_: Granted(quota))
    assert usable_cores() == cores


def test_a_process_under_taskset_counts_its_own_core() -> None:
    core = str(min(os.sched_getaffinity(0)))
    count = "from avatar_kit.cores import usable_cores; print(usable_cores())"
    told = subprocess.run(["taskset", "-c", core, sys.executable, "-c", count], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("membership", "used"),
    [
        ("0::/a\n", {"a": {**TWO, "cpu.stat": "usage_usec 2500000\nuser_usec 1\n"}}),
        ("3:cpu,cpuacct:/a\n", {"cpu/a": {**HALF, "cpuacct.usage": "2500000000\n"}}),
    ],
)
def test_a_group_tells_what_it_used(tmp_path: Path, membership: str, used: dict[str, dict[str, str]]) -> None:
    (tmp_path / "cgroup").write_text(membership)
    for group, files in used.items():
        (tmp_path / "mounted" / group).mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / "mounted" / group / name).write_text(text)
    assert cgroup_grant(tmp_path / "cgroup", tmp_path / "mounted").used_s == 2.5


def test_under_a_quota_the_time_of_the_group_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr("avatar_kit.cores.cgroup_grant", lambda *_: Granted(1.5, 77.0))
    assert (core_time().cores, core_time().busy_s) == (1.5, 77.0)


def test_the_cores_were_busy_for_as_long_as_this_process_worked() -> None:
    before = core_time()
    while core_time().own_s < before.own_s + 0.3:
        sum(range(10000))
    after = core_time()
    own, busy = after.own_s - before.own_s, after.busy_s - before.busy_s
    assert 0.3 <= own <= busy + 0.05  # the kernel counts in ticks
    assert busy <= after.cores * (after.at_s - before.at_s) + 0.05 * after.cores
