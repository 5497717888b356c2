"""A session without I/O: what is to be shown next, and when. `heard` has what came in, `tables` the states.

The shell passes in messages, loaded avatars and the time, makes the pictures of planned frames, and sends what `next_step` says.
A frame is planned when it can be made: it then has its number, its position and its avatar, and is never replaced, only late.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from compositing_service.sessions.frames import (
    Finished,
    MakeIdle,
    PlannedFrame,
    SendFrames,
    Shown,
    Step,
    WaitForChange,
    WaitUntil,
)
from compositing_service.sessions.heard import Heard
from compositing_service.sessions.segment import Segment
from compositing_service.sessions.slots import Slots
from compositing_service.sessions.tables import SHOW, Input, Show, Turn
from shared_proto.timing import SAMPLE_RATE_HZ

A = TypeVar("A")

# A resumed session's clock starts with its first frame, at the latest so long after `started`.
_LATEST_START_S = 0.5


@dataclass(frozen=True, slots=True)
class InterruptedAt:
    """The answer to an interrupt."""

    segment: int
    next_number: int
    audio_us: int


@dataclass(eq=False, slots=True)
class Machine(Heard, Generic[A]):
    """The state of one session."""

    shown: Shown[A]
    """The avatar of the next frame that is planned."""
    show: Show = Show.IDLE
    stalls: int = 0
    speech_us: int = 0
    """Sound shown."""
    slots: Slots | None = None
    """The clock; None as fast as possible, and before a resumed session's first frame."""
    planned: deque[PlannedFrame[A]] = field(default_factory=deque)
    """Not sent yet, in order."""
    frames_ahead: int = field(init=False)
    """The most frames that are planned and not sent."""
    _number: int = field(init=False)
    _position: int = field(init=False)
    _idle: PlannedFrame[A] | None = None
    """The idle frame that is being made."""
    _sent_timeline: object = None
    _sent_position: int = 0
    _last_shown: int = -1
    _opened_s: float | None = None

    def __post_init__(self) -> None:
        Heard.__post_init__(self)  # `super()` does not work in a dataclass with slots
        self.frames_ahead = self.plan.frames_ahead
        self._number = self.plan.first_number
        self._position = self.shown.first_position
        self._last_shown = self.plan.first_segment if self.plan.resumes_in_a_segment else self.plan.first_segment - 1

    # Messages

    def interrupt(self, now_s: float) -> InterruptedAt:
        """Drops all sound and all frames that were not sent."""
        number, audio_us = self.drop_all()
        self._drop_planned()
        self.show = SHOW[self.show][Turn.INTERRUPTED]
        return InterruptedAt(number, self.next_number(now_s), audio_us)

    def switch_to(self, shown: Shown[A]) -> None:
        """Shows another avatar from the next frame that is planned, or one again whose switch was taken back."""
        self.shown = shown
        self._idle = None
        self._position = self._position_on(shown)

    def go_on_with(self, shown: Shown[A]) -> None:
        """Shows the same avatar with other files from the next frame that is planned, at the same position."""
        self.shown = shown

    def replan(self, old: Shown[A], new: Shown[A]) -> None:
        """Shows `new`, the same avatar with other files, also in frames of `old` that are not made yet."""
        for frame in self.planned:
            if frame.shown is old and frame.picture is None:
                frame.shown = new
        if self.shown is old:
            self.shown = new

    # Frames

    @property
    def next_position(self) -> int:
        """The position of the next frame that is planned."""
        return self._position

    def is_next(self, frame: PlannedFrame[A]) -> bool:
        """Tells if a frame is the next one to leave; False once an interrupt or a switch has dropped it."""
        return frame is (self._idle if frame.segment is None else self.planned[0] if self.planned else None)

    @property
    def has_nothing_to_show(self) -> bool:
        """Tells if no sound is there, and no frame."""
        return not self.segments and not self.planned

    def start(self, now_s: float) -> None:
        """Starts the clock, or for a resumed session the wait for its first frame."""
        self._opened_s = now_s
        if self.plan.in_real_time and not self.plan.resumes_in_a_segment:
            self.slots = Slots(self._number, now_s)

    def next_number(self, now_s: float) -> int:
        """Returns the number of the next frame that is planned."""
        if self.planned:
            return self.planned[-1].number + 1
        if self.slots and not self.shown.idle_frames:
            return max(self._number, self.slots.slot_at(now_s))  # the periods without a frame are counted
        return self._number

    def plan_frames(self, now_s: float) -> list[PlannedFrame[A]]:
        """Plans the frames of one segment that can be made, as many as may be ahead, and returns them.

        Call it until it returns none. Between segments the avatar may take new files.
        """
        new: list[PlannedFrame[A]] = []
        segment = next((segment for segment in self.segments if not segment.is_finished()), None)
        if segment is None or (self._leaving and segment.number > self._last_number):
            return new
        while segment.next_frame < self._makeable(segment) and len(self.planned) < self.frames_ahead:
            new.append(self._plan_frame(segment, now_s))
        return new

    def can_plan(self) -> bool:
        """Tells if `plan_frames` has frames to plan."""
        if len(self.planned) >= self.frames_ahead:
            return False
        segment = next((segment for segment in self.segments if not segment.is_finished()), None)
        return segment is not None and segment.next_frame < self._makeable(segment)

    def is_wanted(self, now_s: float) -> bool:
        """Tells if the next planned frame may leave as soon as its picture is there."""
        return not self.planned or self.slots is None or self.slots.is_due(self.planned[0].number, now_s)

    def next_step(self, now_s: float) -> Step[A]:
        """Says what is to be done now."""
        self._start_resumed(now_s)
        if self._is_over():
            return Finished()
        if self.planned:
            return self._step_of_segment(self.planned[0], now_s)
        return self._step_without_frames(now_s)

    def _start_resumed(self, now_s: float) -> None:
        """Starts the clock of a resumed session with its first frame that is ready, or when it has waited long enough."""
        if self.plan.in_real_time and self.slots is None and self._opened_s is not None:
            latest_s = self._opened_s + _LATEST_START_S
            if now_s >= latest_s or (self.planned and self.planned[0].picture):
                self.slots = Slots(self._number, min(now_s, latest_s))

    def _step_of_segment(self, head: PlannedFrame[A], now_s: float) -> Step[A]:
        if self.slots and not self.slots.is_due(head.number, now_s):
            return WaitUntil(self.slots.time_of(head.number))
        due = self._due(now_s)
        return SendFrames(due) if due else WaitForChange()

    def _step_without_frames(self, now_s: float) -> Step[A]:
        if self.slots is None or not (self.shown.idle_frames or self._has_run_out()):
            return WaitForChange()
        number = self.next_number(now_s)
        if not self.slots.is_due(number, now_s):
            return WaitUntil(self.slots.time_of(number))
        self._note_run_out()
        if not self.shown.idle_frames:
            return WaitForChange()
        self._idle = self._idle_frame(number, now_s)
        return MakeIdle(self._idle)

    def sent(self, frame: PlannedFrame[A], now_s: float) -> Segment | None:
        """Notes that a frame leaves. Returns the segment that it ends."""
        if self.slots:
            self.slots.left(frame.number, now_s)
        if self.planned and self.planned[0] is frame:
            self.planned.popleft()
        self._idle = None
        self._number = frame.number + 1
        self._sent_timeline, self._sent_position = frame.shown.timeline, frame.next_position
        if not self.planned and self.shown is frame.shown:
            self._position = frame.next_position
        segment = frame.segment
        if segment is None:
            return None
        before_us = segment.shown_us
        segment.shown = frame.frame + 1
        self._last_shown = segment.number
        self.speech_us += segment.shown_us - before_us
        if not frame.is_last:
            return None
        self._last_us = segment.audio_us
        self.segments.remove(segment)
        if not self.planned:  # else the next segment is shown already
            self.show = SHOW[self.show][Turn.SEGMENT_SHOWN]
        return segment

    def _makeable(self, segment: Segment) -> int:
        waits = self.plan.in_real_time and (not segment.begun or self.show is Show.STALLED)
        cushion = self.plan.cushion_ms * SAMPLE_RATE_HZ // 1000 if waits else 0
        return segment.makeable(self.plan.look_ahead, cushion_samples=cushion)

    def _plan_frame(self, segment: Segment, now_s: float) -> PlannedFrame[A]:
        number, position, place = self.next_number(now_s), self._position, segment.next_frame
        segment.next_frame += 1
        segment.begun = True
        is_last = segment.is_finished()
        following = self.shown.following(position, False)
        frame = PlannedFrame(number, self.shown, position, following, segment, segment.number, place, is_last, now_s)
        self._position = following
        self.planned.append(frame)
        self.show = SHOW[self.show][Turn.FRAME_PLANNED]
        return frame

    def _idle_frame(self, number: int, now_s: float) -> PlannedFrame[A]:
        position = self._position
        following = self.shown.following(position, True)
        return PlannedFrame(number, self.shown, position, following, None, self._last_shown, -1, False, now_s)

    def _due(self, now_s: float) -> list[PlannedFrame[A]]:
        if self.slots is None and self.plan.in_real_time:
            return []
        frames = []
        for frame in self.planned:
            if frame.picture is None or (self.slots and not self.slots.is_due(frame.number, now_s)):
                break
            frames.append(frame)
            if self.slots and self.slots.is_far_behind(frame.number, now_s):
                break  # it moves the clock, and so the times of the others
        return frames

    def _has_run_out(self) -> bool:
        """Tells if a segment that has begun waits for sound, and this is not counted yet."""
        return self.show is Show.SPEAKING and bool(self.segments) and self.segments[0].begun

    def _note_run_out(self) -> None:
        if self._has_run_out():
            self.stalls += 1
            self.show = SHOW[self.show][Turn.SOUND_RAN_OUT]

    def _is_over(self) -> bool:
        if self.planned:
            return False
        if self._leaving and (self._last_segment is None or self._last_segment not in self.segments):
            return True
        return self.input is Input.CLOSED and not self.segments

    def _drop_planned(self) -> None:
        self.planned.clear()
        self._idle = None
        self._position = self._position_on(self.shown)

    def _position_on(self, shown: Shown[A]) -> int:
        """Returns the position after the last frame, planned or sent, if that is of this timeline; else its first one."""
        if self.planned and self.planned[-1].shown.timeline is shown.timeline:
            return self.planned[-1].next_position
        return self._sent_position if self._sent_timeline is shown.timeline else shown.first_position
