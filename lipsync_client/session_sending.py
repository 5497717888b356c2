"""Chooses what a live session's client sends next: urgent messages, the ends of segments, and sound as far as there is room."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from lipsync_client.cutting import sample_of_frame
from lipsync_client.session_segments import Segment, Segments
from lipsync_client.session_sound import on_the_wire
from shared_proto import compositing_pb2 as pb

# Before the server says how much sound it takes, it gets what every server takes.
_FIRST_BUFFERED_MS = 1000
# Sound is sent in messages of at most so much; less room than the second is not worth a message.
_MESSAGE_MS, _LEAST_MS = 200, 40


class HalfClose:
    """Stands for the end of what the client sends."""


HALF_CLOSE = HalfClose()
Outgoing = pb.SessionRequest | HalfClose


@dataclass(slots=True, eq=False)
class Sending:
    """The part of a session that one stream after the other gets."""

    _segments: Segments
    urgent: deque[pb.SessionRequest] = field(default_factory=deque)
    """To be sent before any sound."""
    going_away: bool = False
    """The server begins no further segment."""
    max_buffered_ms: int = _FIRST_BUFFERED_MS
    closes: bool = False
    """The stream may be closed when all is sent."""
    _half_closed: bool = False

    def begin_again(self, first: Iterable[pb.SessionRequest]) -> None:
        """Prepares the next stream, which gets these messages first."""
        self.urgent = deque(first)
        self.going_away = self._half_closed = False
        self.max_buffered_ms = _FIRST_BUFFERED_MS

    def started(self, message: pb.SessionStarted) -> None:
        """Notes how much sound the server takes."""
        self.max_buffered_ms = message.max_buffered_ms or _FIRST_BUFFERED_MS

    @property
    def has_message(self) -> bool:
        """Tells if there is something to send now."""
        if not self._segments.kept:  # as while nobody speaks, with each frame
            return bool(self.urgent) or self._may_half_close
        return bool(self.urgent) or self._next_sound() is not None or self._next_end() is not None or self._may_half_close

    def take(self) -> Outgoing | None:
        """Takes the next message to send; None: not now."""
        if self.urgent:
            return self.urgent.popleft()
        if (segment := self._next_end()) is not None:
            segment.end_sent = True
            return pb.SessionRequest(end_of_segment=pb.EndOfSegment())
        if (found := self._next_sound()) is not None:
            segment, end = found
            data = on_the_wire(segment.sound.samples(segment.sent, end))
            segment.sent, segment.begun = end, True
            return pb.SessionRequest(audio=pb.SessionAudio(data=data))
        if self._may_half_close:
            self._half_closed = True
            return HALF_CLOSE
        return None

    def _next_end(self) -> Segment | None:
        """Returns the segment whose end is to be sent next."""
        first = next((each for each in self._segments.live() if not each.end_sent), None)
        return first if first and first.ended and first.begun and first.sent == first.sound.count else None

    def _next_sound(self) -> tuple[Segment, int] | None:
        """Returns the segment whose sound is to be sent next, and the sample up to which there is room for it."""
        segment = next((each for each in self._segments.live() if each.sent < each.sound.count), None)
        if segment is None or (self.going_away and not segment.begun):
            return None
        rate = self._segments.rate
        room = (self.max_buffered_ms - 1) * rate // 1000 - self._samples_ahead()
        wanted = min(segment.sound.count - segment.sent, _MESSAGE_MS * rate // 1000)
        if room < min(wanted, _LEAST_MS * rate // 1000):
            return None
        return segment, segment.sent + min(wanted, room)

    def _samples_ahead(self) -> int:
        """Counts the samples that this stream has and of which no frame has come."""
        rate = self._segments.rate
        return sum(max(0, segment.sent - sample_of_frame(segment.shown, rate)) for segment in self._segments.live())

    @property
    def _may_half_close(self) -> bool:
        return self.closes and not self._half_closed and all(each.end_sent for each in self._segments.live())

    def interrupt(self) -> int:
        """Interrupts what the stream knows. Returns the number of answers that it will give.

        Of each segment that it does not know it gets a sample, to be interrupted too: so it counts segments as the caller does.
        """
        interrupt = pb.SessionRequest(interrupt=pb.Interrupt())
        unknown = [] if self.going_away else [segment for segment in self._segments.live() if not segment.begun]
        known = len(self._segments.live()) > len(unknown) or not unknown
        messages = [interrupt] if known else []
        for segment in unknown:
            if not segment.sound.is_empty:
                data = on_the_wire(segment.sound.samples(segment.sent, segment.sent + 1))
                messages.append(pb.SessionRequest(audio=pb.SessionAudio(data=data)))
            messages.append(interrupt)
        self.urgent += messages
        return known + len(unknown)
