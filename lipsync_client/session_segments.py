"""The segments of a live session as its client keeps them: the sound that was pushed and is not shown to its end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from lipsync_client.session_events import PushedSound
from lipsync_client.session_sound import SegmentSound
from shared_proto.timing import FRAME_RATE

US_A_FRAME = 1_000_000 // FRAME_RATE


@dataclass(eq=False, slots=True)
class Segment:
    """A segment that may not be shown to its end yet."""

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
    """This stream has its end."""

    @property
    def is_shown(self) -> bool:
        """Tells if its last frame came."""
        return self.ended and self.shown >= self.sound.frames

    @property
    def shown_us(self) -> int:
        """The sound shown of it."""
        shown_us = US_A_FRAME * self.shown
        return min(shown_us, self.sound.audio_us) if self.ended else shown_us


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the sound that was pushed."""

    segment: int
    sample: int


@dataclass(eq=False, slots=True)
class Segments:
    """The segments of one session, at its rate in Hz."""

    rate: int
    kept: deque[Segment] = field(default_factory=deque)
    """Not ended, as far as it is known; the oldest first."""
    count: int = 0
    """Segments begun, those of earlier streams included."""
    live_from: int = 0
    """Segments before this one were dropped by an interrupt, which may have no answer yet."""
    last_shown_us: int = 0
    """Sound shown of the last segment that is over."""
    _open: bool = False
    """The last segment goes on with the next sound."""

    def open(self, sound: SegmentSound) -> Segment:
        """Begins a segment."""
        segment = Segment(self.count, sound)
        self.kept.append(segment)
        self.count += 1
        self._open = True
        return segment

    def push(self, samples: PushedSound) -> Mark:
        """Takes sound; it begins a segment if none is open. Returns its end."""
        if len(samples) and not self._open:
            self.open(SegmentSound(self.rate))
        if not self._open:
            return Mark(-1, 0)
        segment = self.kept[-1]
        segment.sound.add(samples)
        return Mark(segment.number, segment.sound.count)

    @property
    def next_number(self) -> int:
        """The segment that the next sound belongs to."""
        return self.count - 1 if self._open else self.count

    def end(self) -> None:
        """Ends the open segment, if there is one with sound."""
        if self._open and not self.kept[-1].sound.is_empty:
            self.kept[-1].ended = True
            self._open = False

    def close(self) -> None:
        """Ends the open segment, or drops it, if nothing was pushed of it: the rest of a resumed one."""
        self.end()
        if self._open:
            self.drop_before(self.count)
            self._open = False

    def interrupt(self) -> None:
        """Lets none of those so far be shown to its end."""
        self.live_from = self.count
        self._open = False

    def is_sent(self, mark: Mark) -> bool:
        """Tells if the sound up to a mark was sent, or is not needed any more."""
        segment = self.find(mark.segment)
        return segment is None or segment.number < self.live_from or segment.sent >= mark.sample

    def live(self) -> list[Segment]:
        """Returns the segments that are to be shown to their end, the oldest first."""
        return [segment for segment in self.kept if segment.number >= self.live_from]

    def find(self, number: int) -> Segment | None:
        """Returns the segment of this number, if it is kept."""
        return next((segment for segment in self.kept if segment.number == number), None)

    def drop_before(self, number: int) -> None:
        """Forgets the segments before this number."""
        while self.kept and self.kept[0].number < number:
            self.last_shown_us = self.kept.popleft().shown_us
