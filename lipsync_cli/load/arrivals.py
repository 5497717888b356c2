"""Judges the frames of one live session by the times at which they came. All functions are pure.

Frame n is due 40 n ms after a base. The base of a session is the earliest one that any of its frames suggests: the line through
the frame that came earliest for its number. A frame is `behind` by the time between the line and its arrival; one that is behind
by 40 ms or more is late, since its successor was due by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared_proto.timing import FRAME_RATE

FRAME_MS = 1000 / FRAME_RATE
LATE_MS = FRAME_MS

Times = NDArray[np.float64]
IDLE = -1


@dataclass(frozen=True)
class Arrivals:
    """The frames of a session in the order in which they came."""

    numbers: NDArray[np.int64]
    """[frames], growing."""
    arrived_ms: Times
    """[frames], on any monotonic clock."""
    segments: NDArray[np.int64]
    """[frames], the segment that each speaks; IDLE for none."""

    @classmethod
    def of(cls, frames: Sequence[tuple[int, float, int]]) -> Arrivals:
        """Takes number, milliseconds and segment of each frame."""
        numbers, arrived_ms, segments = zip(*frames, strict=True) if frames else ((), (), ())
        return cls(np.array(numbers, np.int64), np.array(arrived_ms, np.float64), np.array(segments, np.int64))

    @property
    def offsets_ms(self) -> Times:
        """Returns the base that each frame suggests."""
        return self.arrived_ms - self.numbers * FRAME_MS

    @property
    def behind_ms(self) -> Times:
        """Returns how far each frame came after its time."""
        offsets_ms = self.offsets_ms
        least_ms: np.float64 = offsets_ms.min(initial=np.inf)
        return offsets_ms - least_ms

    def late(self, until_ms: float) -> int:
        """Counts late frames, and those that had not come at all at `until_ms` although they would have been late then."""
        if not self.numbers.size:
            return 0
        due = int((until_ms - LATE_MS - self.offsets_ms.min()) // FRAME_MS)
        return int((self.behind_ms >= LATE_MS).sum()) + max(0, due - int(self.numbers[-1]))

    def drift_ms(self) -> float:
        """Returns how much later than by the line the best frame of the last quarter came, against that of the first."""
        if self.numbers.size < 4:
            return 0.0
        first, *_, last = np.array_split(self.offsets_ms, 4)
        return float(last.min() - first.min())

    def stalls(self) -> int:
        """Counts the idle times in the middle of a segment."""
        places = np.flatnonzero(self.segments != IDLE)
        spoken = self.segments[places]
        return int(((np.diff(places) > 1) & (np.diff(spoken) == 0)).sum())


@dataclass(frozen=True)
class Spread:
    """The distribution of some times, in ms."""

    count: int
    p50: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, values_ms: Times | Sequence[float]) -> Spread | None:
        """Returns None for no values. A percentile lies between two values as `numpy.percentile` has it."""
        values = np.asarray(values_ms, np.float64)
        if not values.size:
            return None
        p50, p95, p99 = np.percentile(values, [50, 95, 99])
        return cls(values.size, float(p50), float(p95), float(p99), float(values.max()))

    def __str__(self) -> str:
        return f"{self.p50:.1f} / {self.p95:.1f} / {self.p99:.1f} ms, most {self.most:.1f}"
