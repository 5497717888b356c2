"""The endless timeline of an avatar: which frame lies at a position, however far the speech runs past the end of the clip."""

from __future__ import annotations

from enum import StrEnum


class Loop(StrEnum):
    """What follows the last frame: the way back, or the first frame."""

    BOUNCE = "bounce"
    FORWARD = "forward"


def frame_at(position: int, frame_count: int, loop: Loop) -> int:
    """The frame shown at `position` >= 0; 0 .. frame_count - 1.

    A bounce shows its two end frames once a turn: 0 1 2 3 2 1 0 1 ... for four frames.
    """
    if position < 0:
        raise ValueError(f"position {position} is negative")
    if frame_count < 1:
        raise ValueError(f"an avatar has at least one frame, not {frame_count}")
    if loop is Loop.FORWARD or frame_count == 1:
        return position % frame_count
    last = frame_count - 1
    turn = position % (2 * last)
    return turn if turn <= last else 2 * last - turn
