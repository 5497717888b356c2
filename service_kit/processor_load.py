"""Tells how much of the processors a number of frames a second will need, from what frames have cost so far.

The frames of live sessions take time in several services and in their clients, which may be on one machine or on several. Each
service sees how busy the cores are that it may use, and how much of that it did itself. Pure policy: readings come from outside.
"""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import NamedTuple, Protocol

READ_EVERY_S = 0.5
# The cost is that of the last readings between which frames were made, ten seconds at least.
_READINGS = 20
# Fewer frames tell nothing: a service that starts, or loads an avatar, is busy with other things.
_ENOUGH_FRAMES = 50
# Other services and clients on the same machine take up to twice the time of this one for its frames. What is beyond that is work
# of others, which does not grow with the frames.
_MOST_BY_OWN = 3.0


class Reading(Protocol):
    """Processor time of the usable cores, in seconds since an arbitrary moment."""

    @property
    def at_s(self) -> float:
        """When it was read."""

    @property
    def cores(self) -> float:
        """Number of cores."""

    @property
    def busy_s(self) -> float:
        """Time in which they worked."""

    @property
    def own_s(self) -> float:
        """The part of this process."""


class _Cost(NamedTuple):
    """The processor time of the frames that were made between two readings."""

    seconds_a_frame: float
    frames: float


class ProcessorLoad:
    """Follows one process. Use it from one thread."""

    def __init__(self) -> None:
        self._last: Reading | None = None
        self._frames = 0.0  # since then
        self._costs: deque[_Cost] = deque(maxlen=_READINGS)
        self._others: deque[float] = deque(maxlen=_READINGS)  # cores

    def note_frames(self, frames: float) -> None:
        """Notes frames that were made, of sessions or of batch work, which cost much the same."""
        self._frames += frames

    def note(self, reading: Reading) -> None:
        """Takes a reading; call it every READ_EVERY_S."""
        last, frames = self._last, self._frames
        self._last, self._frames = reading, 0.0
        if last is None or (passed_s := reading.at_s - last.at_s) <= 0:
            return
        own_s = reading.own_s - last.own_s
        busy_s = max(reading.busy_s - last.busy_s, own_s)
        for_frames_s = min(busy_s, _MOST_BY_OWN * own_s)
        self._others.append((busy_s - for_frames_s) / passed_s)
        if frames:
            self._costs.append(_Cost(for_frames_s / frames, frames))

    def share(self, frames_a_second: float) -> float:
        """Returns the share of the cores that so many frames a second will need, beside what others take; 0: not known yet.

        Batch work is not in it.
        """
        if self._last is None or sum(cost.frames for cost in self._costs) < _ENOUGH_FRAMES:
            return 0.0
        return (median(self._others) + self.seconds_a_frame() * frames_a_second) / self._last.cores

    def seconds_a_frame(self) -> float:
        """Returns the processor time of a frame: the median of all frames, which a load of an avatar does not move."""
        left = sum(cost.frames for cost in self._costs) / 2
        for cost in sorted(self._costs):
            left -= cost.frames
            if left <= 0:
                return cost.seconds_a_frame
        return 0.0
