"""The endless timeline of an avatar: which frame lies at a position, however far the speech runs past the end of the clip."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Self

from avatar_kit.number_lists import whole_numbers


class Loop(StrEnum):
    """What follows the last frame: the way back, or the first frame."""

    BOUNCE = "bounce"
    FORWARD = "forward"


@dataclass(frozen=True, slots=True)
class FrameRange:
    """Frames `first` to `last` of a clip, both included."""

    ACCEPTED: ClassVar[str] = "list of two whole numbers (first, last)"  # as files and messages have it

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ValueError(f"frames {self.first} to {self.last}: the first must be 0 or more, and the last not before it")

    @classmethod
    def parse(cls, value: object) -> Self:
        """What a file (`[10, 80]`) or a command line (`10,80`) says; a FrameRange is one already. Raises ValueError."""
        if isinstance(value, cls):
            return value
        if (numbers := whole_numbers(value, 2)) is None:
            raise ValueError("expected two whole numbers: first, last")
        return cls(*numbers)

    def problem(self, frame_count: int) -> str | None:
        """What keeps a clip of that many frames from having it; None when it does."""
        return None if self.last < frame_count else f"idle is {self}, but the avatar has frames 0 to {frame_count - 1}"

    def __contains__(self, frame: int) -> bool:
        return self.first <= frame <= self.last

    def __str__(self) -> str:
        return f"[{self.first}, {self.last}]"


def frame_at(position: int, frame_count: int, loop: Loop) -> int:
    """The frame shown at `position` >= 0; 0 .. frame_count - 1.

    A bounce shows its two end frames once a turn: 0 1 2 3 2 1 0 1 ... for four frames.
    """
    if position < 0:
        raise ValueError(f"position {position} is negative")
    if frame_count < 1:
        raise ValueError(f"an avatar has at least one frame, not {frame_count}")
    turn = position % period(frame_count, loop)
    return turn if turn < frame_count else 2 * (frame_count - 1) - turn


def period(frame_count: int, loop: Loop) -> int:
    """After so many positions the timeline begins anew."""
    return frame_count if loop is Loop.FORWARD or frame_count == 1 else 2 * (frame_count - 1)


def idle_positions(start: int, count: int, *, frame_count: int, loop: Loop, idle: FrameRange | None) -> tuple[list[int], int]:
    """The positions of `count` frames from `start` on while nobody speaks, and the position that follows them.

    Frame by frame along the timeline, as in speech, until a frame of `idle` is met; from there on within it. A clip that bounces
    turns at both ends of the range: it goes over to the position of the way back at which the next frame lies, so that speech can
    go on from any position without a jump. In a clip that runs forward the first frame of the range follows its last. With `idle`
    None, the whole clip, it is the timeline itself. `idle` must lie in the clip.
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
    forth = turn < frame_count - 1  # on the last frame the way back has begun
    if forth and frame == idle.last:
        return position - turn + period(frame_count, loop) - (frame - 1)
    if not forth and frame == idle.first:
        return position - turn + frame + 1
    return position + 1
