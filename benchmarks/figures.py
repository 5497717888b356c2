"""Measured figures with their goals, and the timing of several ways to do the same thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import NotRequired, TypedDict

import psutil

from lipsync_cli.processes import ServiceProcess


class Figure(TypedDict):
    """One measured figure."""

    name: str
    value: float
    unit: str
    ratio: NotRequired[float]
    """The factor by which it is better than `compared_with`, measured in the same run."""
    compared_with: NotRequired[str]
    goal: NotRequired[str]
    """The goal, such as ">= 6x" or "<= 8 ms"."""
    reached: NotRequired[bool]


def figure(
    name: str,
    value: float,
    unit: str,
    *,
    ratio: float | None = None,
    compared_with: str = "",
    at_most: float | None = None,
    at_least: float | None = None,
    ratio_at_least: float | None = None,
) -> Figure:
    """Makes a figure. The last three are its goal, for the value or for the ratio; at most one of them is given."""
    made = Figure(name=name, value=value, unit=unit)
    if ratio is not None:
        made |= {"ratio": ratio, "compared_with": compared_with}
    if at_most is not None:
        made |= {"goal": f"<= {at_most:g} {unit}", "reached": value <= at_most}
    if at_least is not None:
        made |= {"goal": f">= {at_least:g} {unit}", "reached": value >= at_least}
    if ratio is not None and ratio_at_least is not None:
        made |= {"goal": f">= {ratio_at_least:g}x", "reached": ratio >= ratio_at_least}
    return made


def in_turn(ways: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """Runs each way to warm it up, then all in turn, `rounds` times, so that a noisy neighbour slows all alike.

    Returns the seconds of each way in each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            started = perf_counter()
            way()
            seconds[name].append(perf_counter() - started)
    return seconds


def cpu_seconds(process: ServiceProcess) -> float:
    """Returns the processor time that the process has used on all cores, in the kernel too."""
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """Returns the median of the ratios, round by round."""
    return median(value / other for value, other in zip(values, others, strict=True))
