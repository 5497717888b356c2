"""The state of a live session as its client sees it, without I/O: what to send next, what came, and how to go on after a break.

A session outlives its streams. It keeps what a server needs to go on: the last frame's number and place, the sound that is not
shown yet and a little before it, the ends of segments, and the switches without an answer. `broken` prepares the next stream
from that; `start` is its first message.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from lipsync_client.cutting import sample_of_frame
from lipsync_client.session_config import SessionSetup, StreamStart
from lipsync_client.session_events import (
    Frame,
    Interrupted,
    PushedSound,
    SegmentEnded,
    SessionEvent,
    read_frame,
    read_other,
)
from lipsync_client.session_sound import SegmentSound, on_the_wire
from shared_proto import compositing_pb2 as pb
from shared_proto.timing import FRAME_RATE

US_A_FRAME = 1_000_000 // FRAME_RATE
# Before the server says how much sound it takes, it gets what every server takes.
_FIRST_BUFFERED_MS = 1000
# Sound is sent in messages of at most so much; less room than the second is not worth a message.
_MESSAGE_MS, _LEAST_MS = 200, 40


@dataclass(eq=False, slots=True)
class _Segment:
    number: int
    sound: SegmentSound
    shown: int = 0
    """Frames received: the place of the last one + 1."""
    ended: bool = False
    start_frame: int = 0
    """The frame at which this stream's sound of it begins."""
    sent: int = 0
    """Samples up to which this stream has it."""
    begun: bool = False
    """This stream has some of it."""
    end_sent: bool = False

    @property
    def is_shown(self) -> bool:
        return self.ended and self.shown >= self.sound.frames

    @property
    def shown_us(self) -> int:
        shown_us = US_A_FRAME * self.shown
        return min(shown_us, self.sound.audio_us) if self.ended else shown_us


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the sound that was pushed."""

    segment: int
    sample: int


@dataclass(slots=True)
class _PendingInterrupt:
    """An interrupt of the caller without an answer."""

    before: int
    """The first segment after it."""
    answers: int
    """Answers of the server that are still to come."""


class HalfClose:
    """Stands for the end of what the client sends."""


HALF_CLOSE = HalfClose()
Outgoing = pb.SessionRequest | HalfClose


@dataclass(slots=True, eq=False)
class SessionState:
    """The state of one session."""

    setup: SessionSetup
    next_number: int = 0
    """Of the next frame wanted."""
    closed: bool = False
    """Nothing more will be pushed."""
    avatar: str = field(init=False)
    """That of the next frame."""
    _position: int = field(init=False)
    _segments: deque[_Segment] = field(default_factory=deque)
    """Not ended, as far as it is known; the oldest first."""
    _next_segment: int = 0
    _open: bool = False
    """The last segment goes on with the next sound."""
    _live_from: int = 0
    """Segments before this one were dropped by an interrupt, which may have no answer yet."""
    _interrupts: deque[_PendingInterrupt] = field(default_factory=deque)
    """Those without an answer."""
    _switches: list[pb.SwitchAvatar] = field(default_factory=list)
    """Those without an answer."""
    _urgent: deque[pb.SessionRequest] = field(default_factory=deque)
    """To be sent before any sound."""
    _started: bool = False
    _going_away: bool = False
    _half_closed: bool = False
    _max_buffered_ms: int = _FIRST_BUFFERED_MS
    _last_shown_us: int = 0
    """Sound shown of the last segment that is over."""

    def __post_init__(self) -> None:
        self.avatar = self.setup.avatar
        self._position = self.setup.options.get("start_frame", 0)
        if resume := self.setup.resume:
            self.next_number = resume.next_number
            self._next_segment = resume.segment
            if resume.first_frame:
                sound = SegmentSound(self.setup.sample_rate, first_frame=resume.audio_start_frame)
                segment = self._open_segment(sound)
                segment.shown, segment.start_frame, segment.sent = resume.first_frame, resume.audio_start_frame, sound.count

    # The caller

    def push(self, samples: PushedSound) -> Mark:
        """Takes sound; it begins a segment if none is open. Returns its end."""
        if len(samples) and not self._open:
            self._open_segment(SegmentSound(self.setup.sample_rate))
        if not self._open:
            return Mark(-1, 0)
        segment = self._segments[-1]
        segment.sound.add(samples)
        return Mark(segment.number, segment.sound.count)

    @property
    def next_segment(self) -> int:
        """The segment that the next sound belongs to."""
        return self._next_segment - 1 if self._open else self._next_segment

    def _open_segment(self, sound: SegmentSound) -> _Segment:
        segment = _Segment(self._next_segment, sound)
        self._segments.append(segment)
        self._next_segment += 1
        self._open = True
        return segment

    def is_sent(self, mark: Mark) -> bool:
        """Tells if the sound up to a mark was sent, or is not needed any more."""
        segment = self._find(mark.segment)
        return segment is None or segment.number < self._live_from or segment.sent >= mark.sample

    def end_segment(self) -> None:
        """Ends the open segment, if there is one."""
        if self._open and not self._segments[-1].sound.is_empty:
            self._segments[-1].ended = True
            self._open = False

    def interrupt(self) -> None:
        """Drops the sound that was pushed so far."""
        answers = self._send_interrupt()
        self._interrupts.append(_PendingInterrupt(self._next_segment, answers))
        self._live_from = self._next_segment
        self._open = False

    def switch(self, avatar: str, start_frame: int) -> None:
        """Asks for another avatar. Raises ValueError for a number over 32 bits."""
        switch = pb.SwitchAvatar(model_id=avatar, start_frame_idx=start_frame)
        self._switches.append(switch)
        self._urgent.append(pb.SessionRequest(switch_avatar=switch))

    def close(self) -> None:
        """Says that nothing more comes."""
        self.end_segment()
        if self._open:  # the rest of a resumed segment, of which nothing was pushed
            self._drop_before(self._next_segment)
            self._open = False
        self.closed = True

    # Sending

    @property
    def has_message(self) -> bool:
        """Tells if there is something to send now."""
        return bool(self._urgent) or self._next_sound() is not None or self._next_end() is not None or self._may_half_close

    def take(self) -> Outgoing | None:
        """Takes the next message to send; None: not now."""
        if self._urgent:
            return self._urgent.popleft()
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

    def _live(self) -> list[_Segment]:
        """Returns the segments that are to be shown to their end, the oldest first."""
        return [segment for segment in self._segments if segment.number >= self._live_from]

    def _next_end(self) -> _Segment | None:
        """Returns the segment whose end is to be sent next."""
        first = next((each for each in self._live() if not each.end_sent), None)
        return first if first and first.ended and first.begun and first.sent == first.sound.count else None

    def _next_sound(self) -> tuple[_Segment, int] | None:
        """Returns the segment whose sound is to be sent next, and the sample up to which there is room for it."""
        segment = next((each for each in self._live() if each.sent < each.sound.count), None)
        if segment is None or (self._going_away and not segment.begun):
            return None
        rate = self.setup.sample_rate
        room = (self._max_buffered_ms - 1) * rate // 1000 - self._samples_ahead()
        wanted = min(segment.sound.count - segment.sent, _MESSAGE_MS * rate // 1000)
        if room < min(wanted, _LEAST_MS * rate // 1000):
            return None
        return segment, segment.sent + min(wanted, room)

    def _samples_ahead(self) -> int:
        """Counts the samples that this stream has and of which no frame has come."""
        rate = self.setup.sample_rate
        return sum(max(0, segment.sent - sample_of_frame(segment.shown, rate)) for segment in self._live())

    @property
    def _may_half_close(self) -> bool:
        return self.closed and not self._half_closed and all(each.end_sent for each in self._live())

    def _send_interrupt(self) -> int:
        """Interrupts what the stream knows. Returns the number of answers that it will give.

        Of each segment that it does not know it gets a sample, to be interrupted too: so it counts segments as the caller does.
        """
        interrupt = pb.SessionRequest(interrupt=pb.Interrupt())
        unknown = [] if self._going_away else [segment for segment in self._live() if not segment.begun]
        known = len(self._live()) > len(unknown) or not unknown
        messages = [interrupt] if known else []
        for segment in unknown:
            if not segment.sound.is_empty:
                data = on_the_wire(segment.sound.samples(segment.sent, segment.sent + 1))
                messages.append(pb.SessionRequest(audio=pb.SessionAudio(data=data)))
            messages.append(interrupt)
        self._urgent += messages
        return known + len(unknown)

    # Receiving

    @property
    def is_over(self) -> bool:
        """Tells if nothing more is wanted."""
        return self.closed and not self._segments and not self._interrupts

    def started(self, message: pb.SessionStarted) -> None:
        """Notes that a stream runs."""
        self._started = True
        self._max_buffered_ms = message.max_buffered_ms or _FIRST_BUFFERED_MS

    def receive(self, event: pb.SessionEvent) -> list[SessionEvent]:
        """Takes an event of a running stream. Returns those for the caller."""
        match event.WhichOneof("event"):
            case "frames":
                return [frame for message in event.frames.frames if (frame := self._frame(message))]
            case "segment_ended":
                ended = event.segment_ended
                self._drop_before(ended.segment + 1)
                return [SegmentEnded(ended.segment, ended.frames, ended.audio_us)]
            case "interrupted":
                return self._interrupted(event.interrupted.next_number)
            case "avatar_switched":
                self._switched(event.avatar_switched.model_id)
            case "switch_failed":
                self._answered(event.switch_failed.model_id)
            case "going_away":
                self._going_away = True
        told = read_other(event)
        return [told] if told else []

    def _frame(self, message: pb.SessionFrame) -> Frame | None:
        if message.number < self.next_number:
            return None
        self.next_number = message.number + 1
        self._position = message.next_position
        segment = self._find(message.segment) if message.audio_us >= 0 else None
        if segment is None:
            return read_frame(message, None)
        place = message.audio_us // US_A_FRAME
        segment.shown = place + 1
        frame = read_frame(message, segment.sound.of_frame(place))
        segment.sound.forget(segment.shown)
        return frame

    def _interrupted(self, next_number: int) -> list[SessionEvent]:
        if not self._interrupts:
            return []
        self._interrupts[0].answers -= 1
        return [] if self._interrupts[0].answers else [self._answer_interrupt(next_number)]

    def _answer_interrupt(self, next_number: int) -> Interrupted:
        """Says how far the oldest interrupt let the sound come, and forgets the rest of it."""
        before = self._interrupts.popleft().before
        first = self._segments[0] if self._segments and self._segments[0].number < before else None
        answer = Interrupted(
            segment=first.number if first else before - 1,
            next_number=next_number,
            audio_us=first.shown_us if first else self._last_shown_us,
        )
        self._drop_before(before)
        return answer

    def _switched(self, avatar: str) -> None:
        """Takes the avatar of the next frame; one that nobody asked for has new files and goes on where it is."""
        self.avatar = avatar
        switch = self._answered(avatar)
        if switch is not None:
            self._position = switch.start_frame_idx

    def _answered(self, avatar: str) -> pb.SwitchAvatar | None:
        switch = next((each for each in self._switches if each.model_id == avatar), None)
        if switch is not None:
            self._switches.remove(switch)
        return switch

    # Going on

    def broken(self) -> list[SessionEvent]:
        """Gives up the stream. Returns what its server would have said, as far as that is known, and prepares the next stream.

        A segment whose last frame came has ended. An interrupt has its effect: the next stream gets nothing from before it.
        """
        events: list[SessionEvent] = []
        while self._segments and self._segments[0].is_shown:
            segment = self._segments[0]
            events.append(SegmentEnded(segment.number, segment.sound.frames, segment.sound.audio_us))
            self._drop_before(segment.number + 1)
        while self._interrupts:
            events.append(self._answer_interrupt(self.next_number))
        for segment in self._segments:
            segment.start_frame = segment.sound.start_for(segment.shown)
            segment.sent = sample_of_frame(segment.start_frame, self.setup.sample_rate)
            segment.begun = segment.end_sent = False
        self._urgent = deque(pb.SessionRequest(switch_avatar=switch) for switch in self._switches)
        self._going_away = self._half_closed = False
        self._max_buffered_ms = _FIRST_BUFFERED_MS
        return events

    def start(self) -> pb.SessionRequest:
        """Returns the first message of the next stream."""
        first = self._segments[0] if self._segments else None
        resume = pb.SessionResume(next_number=self.next_number, segment=first.number if first else self._next_segment)
        if first and first.shown:
            resume.first_frame = first.shown
            resume.audio_start_frame = first.start_frame
        is_new = not self._started and resume == pb.SessionResume()
        start = StreamStart(self.avatar, self._position, None if is_new else resume)
        return pb.SessionRequest(config=self.setup.message(start))

    def _find(self, number: int) -> _Segment | None:
        return next((segment for segment in self._segments if segment.number == number), None)

    def _drop_before(self, number: int) -> None:
        while self._segments and self._segments[0].number < number:
            self._last_shown_us = self._segments.popleft().shown_us
