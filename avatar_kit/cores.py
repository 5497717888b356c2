"""Counts the processor cores that this process may use, fewer than the machine's under taskset, a cpuset or a container's quota.

Libraries that count the machine's own cores start too many threads there, and some tie them to cores that are not allowed.
"""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

_OF_THIS_PROCESS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Returns the number of cores in this process's mask, or its groups' quota rounded up to whole cores if that is less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, cgroup_quota(_OF_THIS_PROCESS, _MOUNTED))))


def cgroup_quota(membership: Path, mounted: Path) -> float:
    """Returns the processor time a second that control groups grant, in seconds; infinite where they set no limit.

    `membership` lists this process's groups as /proc/self/cgroup does, `mounted` holds them as /sys/fs/cgroup does. Both versions
    are read. A limit of an outer group counts too.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    quota = math.inf
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            root, read = mounted, _version_2
        elif "cpu" in controllers.split(","):
            root, read = mounted / "cpu", _version_1
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        # In a container the path may be the host's; the mount then shows the container's own group.
        quota = min(quota, *(read(root / group) for group in (inner, *inner.parents)))
    return quota


def _version_2(group: Path) -> float:
    """Reads cpu.max: "max 100000", or microseconds of time and of the period that they are granted in."""
    time_us, _, period_us = _text(group / "cpu.max").partition(" ")
    return _ratio(time_us, period_us)


def _version_1(group: Path) -> float:
    """Reads the two files of a cpu group; -1 sets no limit."""
    return _ratio(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))


def _ratio(time_us: str, period_us: str) -> float:
    if not (time_us.isdecimal() and period_us.isdecimal() and int(period_us)):
        return math.inf
    return int(time_us) / int(period_us)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
