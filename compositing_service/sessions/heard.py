"""Keeps the input of a session: its messages, and its sound in segments. `tables` has the states."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from compositing_service.sessions.plan import Plan
from compositing_service.sessions.segment import Segment
from compositing_service.sessions.sound import SegmentSound
from compositing_service.sessions.tables import INPUT, Input, Message
from service_kit.errors import InvalidRequest, Violation

_US_A_FRAME = 40_000


@dataclass(eq=False, slots=True)
class Heard:
    """The messages and the sound of one session, as far as it is not shown."""

    plan: Plan
    input: Input = field(default=Input.BETWEEN_SEGMENTS, init=False)
    segments: deque[Segment] = field(default_factory=deque, init=False)
    """Begun and not shown to the end; sound is added to the last one while `input` is IN_SEGMENT."""
    _begun_segments: int = field(init=False)
    _leaving: bool = field(default=False, init=False)
    _last_segment: Segment | None = field(default=None, init=False)
    _last_us: int = field(default=0, init=False)
    """Sound shown of the segment begun last, once it is shown or dropped."""

    def __post_init__(self) -> None:
        self._begun_segments = self.plan.first_segment

    def message(self, message: Message) -> None:
        """Moves the input state. Raises InvalidRequest for a message that may not come now."""
        following = INPUT[self.input].get(message)
        if following is None:
            problem = "send it first" if self.input is Input.AWAITING_CONFIG else "may be sent only once, first"
            raise InvalidRequest([Violation("config", problem)])
        self.input = following

    def sound(self, samples: NDArray[Any]) -> None:
        """Takes sound; it begins a segment if none is open."""
        if not len(samples):
            return
        if self.input is Input.BETWEEN_SEGMENTS:
            is_first = self._begun_segments == self.plan.first_segment
            begins_at = self.plan.audio_start_frame if is_first else 0
            first = self.plan.first_frame if is_first else 0
            sound = SegmentSound(self.plan.rate, start_frame=begins_at)
            self.segments.append(Segment(self._begun_segments, sound, next_frame=first, shown=first))
            self._begun_segments += 1
        self.message(Message.SOUND)
        self.segments[-1].add(samples)

    def end_of_segment(self, message: Message = Message.END_OF_SEGMENT) -> None:
        """Ends the open segment, if there is one."""
        if self.input is Input.IN_SEGMENT:
            segment = self.segments[-1]
            segment.sound.end()
            segment.ended = True
        self.message(message)

    def drop_all(self) -> tuple[int, int]:
        """Drops all sound. Returns the first segment not shown to its end, else the last one, and its sound shown, in us."""
        if self.plan.resumes_in_a_segment and self._begun_segments == self.plan.first_segment:
            # Of the segment that it resumes no sound has come yet in this stream.
            self._begun_segments += 1
            self._last_us = _US_A_FRAME * self.plan.first_frame
        segment = self.segments[0] if self.segments else None
        number = segment.number if segment else self._begun_segments - 1
        audio_us = segment.shown_us if segment else self._last_us
        if self.segments:
            self._last_us = self.segments[-1].shown_us
        self.message(Message.INTERRUPT)
        self.segments.clear()
        self._last_segment = None
        return number, audio_us

    def leave(self) -> None:
        """Begins no further segment: the session ends after the running one."""
        self._leaving = True
        begun = [segment for segment in self.segments if segment.begun] or list(self.segments)[:1]
        self._last_segment = begun[-1] if begun else None

    @property
    def reads_sound(self) -> bool:
        """False when further sound would begin a segment that is not shown any more."""
        return not self._leaving or (self.input is Input.IN_SEGMENT and self.segments[-1] is self._last_segment)

    @property
    def buffered_ms(self) -> int:
        """Sound received and not shown."""
        return sum(segment.buffered_us for segment in self.segments) // 1000

    @property
    def may_take_new_files(self) -> bool:
        """Tells if the next frame that is planned is idle or the first of a segment."""
        return not any(segment.begun and not segment.is_finished() for segment in self.segments)

    def ended_without_frames(self) -> Segment | None:
        """Takes out a resumed segment of which no frame is left to show, and returns it."""
        segment = self.segments[0] if self.segments else None
        if segment and not segment.begun and segment.ended and segment.next_frame >= segment.frames:
            self.segments.popleft()
            self._last_us = segment.audio_us
            return segment
        return None

    @property
    def _last_number(self) -> int:
        return self._last_segment.number if self._last_segment else -1
