"""An avatar's endless timeline: which picture is shown at a position, also past the end of the clip, and with which mouth."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Self

from avatar_kit.number_lists import whole_numbers


class Loop(StrEnum):
    """Order after the last picture: backwards, or again from the first."""

    BOUNCE = "bounce"
    FORWARD = "forward"


class IdleMouth(StrEnum):
    """The mouth of a person who does not speak."""

    REST = "rest"  # the network's, for silence: in most clips the person talks
    STORED = "stored"  # the picture's own, which is shut in every picture of the idle range


@dataclass(frozen=True, slots=True)
class FrameRange:
    """Pictures `first` to `last` of a clip, both included."""

    ACCEPTED: ClassVar[str] = "list of two whole numbers (first, last)"  # as files and messages have it

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ValueError(f"frames {self.first} to {self.last}: the first must be 0 or more, and the last not before it")

    @classmethod
    def parse(cls, value: object) -> Self:
        """Parses a file's `[10, 80]` or a command line's `10,80`; returns a FrameRange unchanged. Raises ValueError."""
        if isinstance(value, cls):
            return value
        if (numbers := whole_numbers(value, 2)) is None:
            raise ValueError("expected two whole numbers: first, last")
        return cls(*numbers)

    def problem(self, frame_count: int) -> str | None:
        """Says why a clip of `frame_count` pictures does not contain it; None if it does."""
        return None if self.last < frame_count else f"idle is {self}, but the avatar has frames 0 to {frame_count - 1}"

    def __contains__(self, frame: int) -> bool:
        return self.first <= frame <= self.last

    def __str__(self) -> str:
        return f"[{self.first}, {self.last}]"


def frame_at(position: int, frame_count: int, loop: Loop) -> int:
    """Returns the index of the picture shown at `position` >= 0; 0 .. frame_count - 1.

    A bounce shows each end picture once a turn: 0 1 2 3 2 1 0 1 ... for four pictures.
    """
    if position < 0:
        raise ValueError(f"position {position} is negative")
    if frame_count < 1:
        raise ValueError(f"an avatar has at least one frame, not {frame_count}")
    turn = position % period(frame_count, loop)
    return turn if turn < frame_count else 2 * (frame_count - 1) - turn


def period(frame_count: int, loop: Loop) -> int:
    """Returns the number of positions after which the timeline repeats."""
    return frame_count if loop is Loop.FORWARD or frame_count == 1 else 2 * (frame_count - 1)


def idle_positions(start: int, count: int, *, frame_count: int, loop: Loop, idle: FrameRange | None) -> tuple[list[int], int]:
    """Returns the positions of `count` frames without speech from `start` on, and the position after them.

    They follow the timeline, as in speech, until they reach a picture of `idle`, and then stay within it. A clip that bounces
    turns at both ends of the range: it jumps to the position of the opposite direction that shows the next picture, so speech
    can continue from any position without a visible jump. In a clip that runs forward the first picture of the range follows
    its last. With `idle` None, the whole clip, the timeline is followed. `idle` must be inside the clip.
    """
    positions, position = [], start
    for _ in range(count):
        positions.append(position)
        position = _after(position, frame_count, loop, idle)
    return positions, position


def _after(position: int, frame_count: int, loop: Loop, idle: FrameRange | None) -> int:
    frame = frame_at(position, frame_count, loop)
    if idle is None or frame not in idle:
        return position + 1
    if idle.first == idle.last:
        return position
    if loop is Loop.FORWARD:
        return position + 1 if frame < idle.last else position - (idle.last - idle.first)
    turn = position % period(frame_count, loop)
    forth = turn < frame_count - 1  # at the last picture the way back has begun
    if forth and frame == idle.last:
        return position - turn + period(frame_count, loop) - (frame - 1)
    if not forth and frame == idle.first:
        return position - turn + frame + 1
    return position + 1
