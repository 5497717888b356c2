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
from lipsync_client.session_segments import US_A_FRAME, Mark, Segments
from lipsync_client.session_sending import Outgoing, Sending
from lipsync_client.session_sound import SegmentSound
from shared_proto import compositing_pb2 as pb


@dataclass(slots=True)
class _PendingInterrupt:
    """An interrupt of the caller without an answer."""

    before: int
    """The first segment after it."""
    answers: int
    """Answers of the server that are still to come."""


@dataclass(slots=True, eq=False)
class SessionState:
    """The state of one session."""

    setup: SessionSetup
    next_number: int = 0
    """Number of the next frame wanted."""
    avatar: str = field(init=False)
    """The avatar of the next frame."""
    _position: int = field(init=False)
    _numerics: str = ""
    """The way in which the avatar's mouths are computed, as far as it was told."""
    _segments: Segments = field(init=False)
    _sending: Sending = field(init=False)
    _interrupts: deque[_PendingInterrupt] = field(default_factory=deque)
    """Those without an answer."""
    _switches: list[pb.SwitchAvatar] = field(default_factory=list)
    """Those without an answer."""
    _started: bool = False

    def __post_init__(self) -> None:
        self.avatar = self.setup.avatar
        self._position = self.setup.options.get("start_frame", 0)
        self._segments = Segments(self.setup.sample_rate)
        self._sending = Sending(self._segments)
        if resume := self.setup.resume:
            self.next_number, self._numerics = resume.next_number, resume.numerics
            self._segments.count = resume.segment
            if resume.first_frame:
                sound = SegmentSound(self.setup.sample_rate, first_frame=resume.audio_start_frame)
                segment = self._segments.open(sound)
                segment.shown, segment.start_frame, segment.sent = resume.first_frame, resume.audio_start_frame, sound.count

    # The caller

    def push(self, samples: PushedSound) -> Mark:
        """Takes sound; it begins a segment if none is open. Returns its end."""
        return self._segments.push(samples)

    @property
    def next_segment(self) -> int:
        """The segment that the next sound belongs to."""
        return self._segments.next_number

    def is_sent(self, mark: Mark) -> bool:
        """Tells if the sound up to a mark was sent, or is not needed any more."""
        return self._segments.is_sent(mark)

    def end_segment(self) -> None:
        """Ends the open segment, if there is one."""
        self._segments.end()

    def interrupt(self) -> None:
        """Drops the sound that was pushed so far."""
        answers = self._sending.interrupt()
        self._interrupts.append(_PendingInterrupt(self._segments.count, answers))
        self._segments.interrupt()

    def switch(self, avatar: str, start_frame: int) -> None:
        """Asks for another avatar. Raises ValueError for a number over 32 bits."""
        switch = pb.SwitchAvatar(model_id=avatar, start_frame_idx=start_frame)
        self._switches.append(switch)
        self._sending.urgent.append(pb.SessionRequest(switch_avatar=switch))

    def request_key_frame(self) -> None:
        """Asks for a key frame. The next stream begins with one, asked or not."""
        self._sending.urgent.append(pb.SessionRequest(request_key_frame=pb.RequestKeyFrame()))

    def close(self) -> None:
        """Says that nothing more comes."""
        self._segments.close()
        self._sending.closes = True

    @property
    def closed(self) -> bool:
        """Tells if nothing more will be pushed."""
        return self._sending.closes

    @property
    def has_message(self) -> bool:
        """Tells if there is something to send now."""
        return self._sending.has_message

    def take(self) -> Outgoing | None:
        """Takes the next message to send; None: not now."""
        return self._sending.take()

    # Receiving

    @property
    def is_over(self) -> bool:
        """Tells if nothing more is wanted."""
        return self.closed and not self._segments.kept and not self._interrupts

    def started(self, message: pb.SessionStarted) -> None:
        """Notes that a stream runs."""
        self._started = True
        self._sending.started(message)

    def receive(self, event: pb.SessionEvent) -> list[SessionEvent]:
        """Takes an event of a running stream. Returns those for the caller."""
        match event.WhichOneof("event"):
            case "frames":
                return [frame for message in event.frames.frames if (frame := self._frame(message))]
            case "segment_ended":
                ended = event.segment_ended
                self._segments.drop_before(ended.segment + 1)
                return [SegmentEnded(ended.segment, ended.frames, ended.audio_us)]
            case "interrupted":
                return self._interrupted(event.interrupted.next_number)
            case "avatar_switched":
                self._switched(event.avatar_switched.model_id)
            case "switch_failed":
                self._answered(event.switch_failed.model_id)
            case "going_away":
                self._sending.going_away = True
        told = read_other(event)
        return [told] if told else []

    def _frame(self, message: pb.SessionFrame) -> Frame | None:
        self._numerics = message.numerics or self._numerics
        if message.number < self.next_number:
            return None
        self.next_number = message.number + 1
        self._position = message.next_position
        segment = self._segments.find(message.segment) if message.audio_us >= 0 else None
        if segment is None:
            return read_frame(message, None, numerics=self._numerics)
        place = message.audio_us // US_A_FRAME
        segment.shown = place + 1
        frame = read_frame(message, segment.sound.of_frame(place), numerics=self._numerics)
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
        first = self._segments.kept[0] if self._segments.kept and self._segments.kept[0].number < before else None
        answer = Interrupted(
            segment=first.number if first else before - 1,
            next_number=next_number,
            audio_us=first.shown_us if first else self._segments.last_shown_us,
        )
        self._segments.drop_before(before)
        return answer

    def _switched(self, avatar: str) -> None:
        """Takes the avatar of the next frame; one that nobody asked for has new files and goes on where it is."""
        self.avatar, self._numerics = avatar, ""
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
        while self._segments.kept and self._segments.kept[0].is_shown:
            segment = self._segments.kept[0]
            events.append(SegmentEnded(segment.number, segment.sound.frames, segment.sound.audio_us))
            self._segments.drop_before(segment.number + 1)
        while self._interrupts:
            events.append(self._answer_interrupt(self.next_number))
        for segment in self._segments.kept:
            segment.start_frame = segment.sound.start_for(segment.shown)
            segment.sent = sample_of_frame(segment.start_frame, self.setup.sample_rate)
            segment.begun = segment.end_sent = False
        self._sending.begin_again(pb.SessionRequest(switch_avatar=switch) for switch in self._switches)
        return events

    def start(self) -> pb.SessionRequest:
        """Returns the first message of the next stream."""
        first = self._segments.kept[0] if self._segments.kept else None
        resume = pb.SessionResume(next_number=self.next_number, segment=first.number if first else self._segments.count)
        if first and first.shown:
            resume.first_frame = first.shown
            resume.audio_start_frame = first.start_frame
        resume.numerics = self._numerics
        is_new = not self._started and resume == pb.SessionResume()
        start = StreamStart(self.avatar, self._position, None if is_new else resume)
        return pb.SessionRequest(config=self.setup.message(start))
