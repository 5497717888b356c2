"""A replica of the service as the contract of live sessions describes it, in plain steps: what a stream sends is all it knows."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from shared_proto import compositing_pb2 as pb

MAX_BUFFERED_MS = 1500
# A frame is made of the sound from 10 frames before it to 12 after its start; at other rates a resampler reads two more.
BEFORE, AFTER = 10, 12


def sample_of(frame: int, rate: int) -> int:
    """The sample at which a frame begins."""
    return (2 * frame * rate + 25) // 50


def frames_of(samples: int, rate: int) -> int:
    return -(-25 * samples // rate)


def picture(sound: np.ndarray, frame: int, rate: int, position: int, avatar: str) -> bytes:
    """Stands for what is made of the sound around a frame, silence beyond its ends."""
    first, end = sample_of(frame - BEFORE, rate), sample_of(frame + AFTER, rate)
    window = np.zeros(end - first, np.float32)
    part = sound[max(0, first) : end]
    window[max(0, -first) : max(0, -first) + len(part)] = part
    return hashlib.sha256(window.tobytes()).digest()[:8] + f"{avatar}@{position}".encode()


def numerics_of(avatar: str) -> str:
    return f"program-1/float32/{avatar}"


@dataclass
class Heard:
    """A segment as this replica heard it. `sound` holds zeros for what came before its start."""

    number: int
    start_frame: int
    sound: np.ndarray
    shown: int
    ended: bool = False


@dataclass
class Replica:
    """One stream. Events wait in `events` until the client reads them."""

    rate: int
    events: deque[pb.SessionEvent] = field(default_factory=deque)
    config: pb.SessionConfig | None = None
    segments: list[Heard] = field(default_factory=list)
    closed: bool = False
    switch: pb.SwitchAvatar | None = None
    number: int = 0
    position: int = 0
    avatar: str = ""
    next_segment: int = 0
    open: bool = False
    leaving: bool = False
    told: str = ""
    """The avatar whose numerics the client knows."""
    reads: bool = True
    """False once it has met sound of a segment that it does not begin any more."""

    def take(self, message: pb.SessionRequest) -> None:
        """Reads a message, or leaves it unread."""
        kind = message.WhichOneof("message")
        self.reads = self.reads and not (self.leaving and kind == "audio" and not self.open)
        if not self.reads:
            return
        assert (kind == "config") == (self.config is None)
        assert not self.closed
        if kind == "config":
            self._begin(message.config)
        elif kind == "audio":
            self._hear(np.frombuffer(message.audio.data, "<f4"))
        elif kind == "end_of_segment":
            self._end()
        elif kind == "interrupt":
            self._interrupt()
        else:
            self.switch = message.switch_avatar

    def half_close(self) -> None:
        if self.reads:
            self._end()
            self.closed = True

    def leave(self) -> None:
        self.leaving = True
        self.events.append(pb.SessionEvent(going_away=pb.GoingAway(ends_in_ms=1000)))

    def show(self, most: int) -> None:
        """Makes up to so many frames."""
        for _ in range(most):
            if not self._show_one():
                return

    @property
    def is_finished(self) -> bool:
        return self.closed and not self.segments

    @property
    def buffered_ms(self) -> float:
        return sum(1000 * (len(each.sound) - sample_of(each.shown, self.rate)) / self.rate for each in self.segments)

    def _begin(self, config: pb.SessionConfig) -> None:
        self.config, self.avatar, self.position = config, config.model_id, config.start_frame_idx
        resume = config.resume
        assert resume.numerics in ("", numerics_of(self.avatar))
        self.number, self.next_segment = resume.next_number, resume.segment
        if resume.first_frame == 0:
            assert resume.audio_start_frame == 0
        elif self.rate == 16_000:
            assert resume.audio_start_frame <= max(0, resume.first_frame - 10)
        else:
            assert resume.audio_start_frame == 0
        self.events.append(pb.SessionEvent(started=pb.SessionStarted(max_buffered_ms=MAX_BUFFERED_MS)))

    def _hear(self, samples: np.ndarray) -> None:
        assert self.config is not None
        if not self.open:
            first = self.next_segment == self.config.resume.segment
            start = self.config.resume.audio_start_frame if first else 0
            missing = np.zeros(sample_of(start, self.rate), np.float32)
            shown = self.config.resume.first_frame if first else 0
            self.segments.append(Heard(self.next_segment, start, missing, shown))
            self.next_segment += 1
            self.open = True
        self.segments[-1].sound = np.concatenate([self.segments[-1].sound, samples])
        assert self.buffered_ms <= MAX_BUFFERED_MS

    def _end(self) -> None:
        if self.open:
            self.segments[-1].ended = True
            self.open = False

    def _interrupt(self) -> None:
        assert self.config is not None
        if self.config.resume.first_frame and self.next_segment == self.config.resume.segment:
            self.next_segment += 1  # the segment that it resumes, of which nothing was heard yet
        segment = self.segments[0] if self.segments else None
        number = segment.number if segment else self.next_segment - 1
        self.segments, self.open = [], False
        self.events.append(pb.SessionEvent(interrupted=pb.Interrupted(segment=number, next_number=self.number)))

    def _show_one(self) -> bool:
        segment = self.segments[0] if self.segments else None
        if segment is None or (self.leaving and segment.shown == 0):
            return False
        frame = segment.shown
        whole = frames_of(len(segment.sound), self.rate)
        if frame >= whole or not (segment.ended or len(segment.sound) >= sample_of(frame + AFTER, self.rate)):
            return False
        if self.switch:
            self.avatar, self.position = self.switch.model_id, self.switch.start_frame_idx
            switched = pb.AvatarSwitched(model_id=self.avatar, number=self.number)
            self.events.append(pb.SessionEvent(avatar_switched=switched))
            self.switch = None
        made = pb.SessionFrame(
            picture=picture(segment.sound, frame, self.rate, self.position, self.avatar),
            number=self.number,
            position=self.position,
            next_position=self.position + 1,
            segment=segment.number,
            audio_us=40_000 * frame,
            numerics="" if self.told == self.avatar else numerics_of(self.avatar),
        )
        self.told = self.avatar
        self.events.append(pb.SessionEvent(frames=pb.SessionFrames(frames=[made])))
        self.number, self.position = self.number + 1, self.position + 1
        segment.shown += 1
        if segment.ended and segment.shown == whole:
            self.segments.pop(0)
            ended = pb.SegmentEnded(segment=segment.number, frames=whole, audio_us=1_000_000 * len(segment.sound) // self.rate)
            self.events.append(pb.SessionEvent(segment_ended=ended))
        return True
