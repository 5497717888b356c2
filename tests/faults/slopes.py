"""Judges series of a long run: does a figure grow, or does it only go up and down?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Series = Sequence[tuple[float, float]]
"""Pairs of a time in seconds and a value."""

_MOST_POINTS = 120


@dataclass(frozen=True)
class Rule:
    """Bounds of a figure after the warm-up."""

    unit: str
    growth: float
    """Allowed from the beginning to the end of what is judged, whatever its length: noise of one moment."""
    per_minute: float = 0.0
    """Allowed beside it."""
    share: float = 0.0
    """Allowed beside it, of the median."""


@dataclass(frozen=True)
class Verdict:
    """A judged figure."""

    name: str
    median: float
    per_minute: float
    growth: float
    allowed: float
    unit: str

    @property
    def is_good(self) -> bool:
        """True when it does not grow beyond what is allowed."""
        return self.growth <= self.allowed

    def line(self) -> str:
        """The verdict in words."""
        figures = (
            f"median {self.median:.1f}, {self.per_minute:+.3f} a minute, {self.growth:+.1f} in all, allowed {self.allowed:.1f}"
        )
        return f"{'ok  ' if self.is_good else 'FAIL'} {self.name:32} {figures} {self.unit}"


def judged(name: str, series: Series, rule: Rule, *, warm_up_s: float) -> Verdict:
    """Judges a series by its robust slope (Theil and Sen: the median of those between all pairs of points).

    Neither a peak nor a fall at an end turns it. Medians of equal parts of the time are taken first, so that a value that comes
    often counts no more.
    """
    times, values = np.array([each for each in series if each[0] >= warm_up_s]).T
    parts = np.linspace(times[0], times[-1], min(_MOST_POINTS, max(3, len(times) // 5)) + 1)
    places = np.clip(np.searchsorted(parts, times, side="right") - 1, 0, len(parts) - 2)
    points = [(np.median(times[places == part]), np.median(values[places == part])) for part in np.unique(places)]
    x, y = np.array(points).T
    first, second = np.triu_indices(len(x), 1)
    per_second = float(np.median((y[second] - y[first]) / (x[second] - x[first])))
    length_s = float(times[-1] - times[0])
    median = float(np.median(y))
    allowed = rule.growth + rule.per_minute * length_s / 60 + rule.share * median
    return Verdict(name, median, per_second * 60, per_second * length_s, allowed, rule.unit)
