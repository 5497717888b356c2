"""The clock of a session in real time: frame n leaves at start + (n - first) x 40 ms. Never a sum of sleeps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil

FRAME_S = 0.04
LATE_S = 0.04
MOST_BEHIND_S = 0.3
# The status says for so long that a frame was late.
_REMEMBERED_S = 5.0
# Rounding of sums of binary fractions, far below what anybody sees.
_EPSILON_S = 1e-9


@dataclass(slots=True)
class Slots:
    """Gives each number its time, and counts what left late. Times are seconds on the caller's clock."""

    first: int
    start_s: float
    late_frames: int = 0
    resets: int = 0
    _late_at: deque[float] = field(default_factory=lambda: deque(maxlen=1))

    def time_of(self, number: int) -> float:
        """Returns the time at which a frame leaves."""
        return self.start_s + (number - self.first) * FRAME_S

    def slot_at(self, now_s: float) -> int:
        """Returns the first number whose time has not passed."""
        return self.first + max(0, ceil((now_s - self.start_s - _EPSILON_S) / FRAME_S))

    def is_due(self, number: int, now_s: float) -> bool:
        """Tells if a frame may leave."""
        return self.time_of(number) <= now_s + _EPSILON_S

    def is_far_behind(self, number: int, now_s: float) -> bool:
        """Tells if a frame that leaves now moves the clock."""
        return now_s - self.time_of(number) > MOST_BEHIND_S

    def left(self, number: int, now_s: float) -> None:
        """Notes that a frame leaves now. If it is too far behind, the clock moves by the delay."""
        behind_s = now_s - self.time_of(number)
        if behind_s >= LATE_S - _EPSILON_S:
            self.late_frames += 1
            self._late_at.append(now_s)
        if self.is_far_behind(number, now_s):
            self.start_s += behind_s
            self.resets += 1

    def pause(self, next_number: int, waited_s: float, now_s: float) -> None:
        """Moves the clock by the time that a slow reader took, as far as the next frame would be late for it."""
        self.start_s += max(0.0, min(waited_s, now_s - self.time_of(next_number)))

    def meets_realtime(self, now_s: float) -> bool:
        """Tells if no frame was late in the last five seconds."""
        return not self._late_at or now_s - self._late_at[-1] > _REMEMBERED_S
