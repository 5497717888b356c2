"""The frames of a session from plan to picture, the avatars that they show, and the steps that say what is due."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from compositing_service.sessions.segment import Segment

A = TypeVar("A")


@dataclass(frozen=True, slots=True, eq=False)
class Shown(Generic[A]):
    """An avatar that a session shows."""

    avatar: A
    first_position: int
    following: Callable[[int, bool], int]
    """Gives the position after a position; True: after an idle frame."""
    idle_frames: bool
    """Shows frames while nobody speaks."""
    timeline: object = field(default_factory=object)
    """Avatars of one timeline go on from each other's positions: the same avatar, also with new files."""


@dataclass(eq=False, slots=True)
class PlannedFrame(Generic[A]):
    """A frame that has its place. The shell sets `picture` when it is made."""

    number: int
    shown: Shown[A]
    position: int
    next_position: int
    segment: Segment | None
    """None: idle."""
    segment_number: int
    """The segment; for an idle frame the last one that had a frame, -1 before the first."""
    frame: int
    """Its place in the segment, -1 if idle."""
    is_last: bool
    """Ends its segment."""
    planned_s: float
    """When it was planned."""
    picture: Sequence[bytes | memoryview] | None = None
    """The file in pieces, once it is made."""
    speech: bool = False
    numerics: str = ""
    """The way in which its mouth was computed; "": it has none of its own, or that is not known."""


@dataclass(frozen=True, slots=True)
class SendFrames(Generic[A]):
    """These frames leave now. Call `sent` for each."""

    frames: list[PlannedFrame[A]]


@dataclass(frozen=True, slots=True)
class MakeIdle(Generic[A]):
    """This idle frame is due now: make it, and send it."""

    frame: PlannedFrame[A]


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing is due before then, whatever comes."""

    at_s: float


@dataclass(frozen=True, slots=True)
class WaitForChange:
    """Nothing is due until something comes or a picture is made."""


@dataclass(frozen=True, slots=True)
class Finished:
    """All was sent."""


Step: TypeAlias = SendFrames[A] | MakeIdle[A] | WaitUntil | WaitForChange | Finished
