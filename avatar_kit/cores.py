"""Counts the processor cores that this process may use, fewer than the machine's under taskset, a cpuset or a container's quota.

Libraries that count the machine's own cores start too many threads there, and some tie them to cores that are not allowed.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_OF_THIS_PROCESS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")


# Kinds of processor time that psutil tells. That of niced programs is left out: they give way.
_BUSY = "user", "system", "irq", "softirq", "steal"


class Granted(NamedTuple):
    """The processor time that a control group grants, and how much of it was used."""

    cores: float
    """Seconds a second; infinite where it sets no limit."""
    used_s: float = math.nan
    """Since the group was made; NaN where it does not say."""


@dataclass(frozen=True, slots=True)
class CoreTime:
    """A reading of the processor time of the cores that this process may use. Two of them tell how busy they were between."""

    at_s: float
    """On the monotonic clock."""
    cores: float
    """Number of cores; a quota may grant parts of one."""
    busy_s: float
    """Time in which they worked for anybody, or under a quota for this process's control group."""
    own_s: float
    """The part of this process."""


def usable_cores() -> int:
    """Returns the number of cores in this process's mask, or its groups' quota rounded up to whole cores if that is less."""
    return max(1, math.ceil(min(len(_mask()), cgroup_grant(_OF_THIS_PROCESS, _MOUNTED).cores)))


def core_time() -> CoreTime:
    """Reads the processor time so far."""
    import psutil  # not in the image of the compositing service, which only counts cores

    mask, granted = _mask(), cgroup_grant(_OF_THIS_PROCESS, _MOUNTED)
    own_s, at_s = time.process_time(), time.monotonic()
    if granted.cores < len(mask) and not math.isnan(granted.used_s):
        return CoreTime(at_s, granted.cores, granted.used_s, own_s)
    times = psutil.cpu_times(percpu=True)
    usable = [each for number, each in enumerate(times) if number in mask] or times
    busy_s = sum(getattr(each, kind, 0.0) for each in usable for kind in _BUSY)
    return CoreTime(at_s, min(len(mask), granted.cores), busy_s, own_s)


def _mask() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def cgroup_grant(membership: Path, mounted: Path) -> Granted:
    """Returns what the control group with the lowest limit grants; without any limit, infinitely much.

    `membership` lists this process's groups as /proc/self/cgroup does, `mounted` holds them as /sys/fs/cgroup does. Both versions
    are read. A limit of an outer group counts too.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return Granted(math.inf)
    lowest = Granted(math.inf)
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
        lowest = min(lowest, *(read(root / group) for group in (inner, *inner.parents)), key=lambda granted: granted.cores)
    return lowest


def _version_2(group: Path) -> Granted:
    """Reads cpu.max, "max 100000" or microseconds of time and of the period that they are granted in, and cpu.stat."""
    time_us, _, period_us = _text(group / "cpu.max").partition(" ")
    counts = dict(line.partition(" ")[::2] for line in _text(group / "cpu.stat").splitlines())
    return Granted(_ratio(time_us, period_us), _seconds(counts.get("usage_usec", ""), 1e6))


def _version_1(group: Path) -> Granted:
    """Reads the two files of a cpu group, -1 for no limit, and the nanoseconds of the cpuacct group that lies with it."""
    quota = _ratio(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))
    return Granted(quota, _seconds(_text(group / "cpuacct.usage"), 1e9))


def _ratio(time_us: str, period_us: str) -> float:
    if not (time_us.isdecimal() and period_us.isdecimal() and int(period_us)):
        return math.inf
    return int(time_us) / int(period_us)


def _seconds(text: str, units: float) -> float:
    return int(text) / units if text.isdecimal() else math.nan


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
