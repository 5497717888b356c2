"""The figures of a live session as its client sees them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from lipsync_client import Frame, Resumed, SegmentEnded, SessionEvent, Status
from shared_proto.timing import FRAME_RATE

# The rate of frames is that of the last two seconds.
_RATE_FRAMES = 2 * FRAME_RATE
_LEVELS_SHOWN = 32
_BARS = " ▁▂▃▄▅▆▇█"
_QUIET_DB, _LOUD_DB = -50.0, -12.0


@dataclass(slots=True)
class TalkFigures:
    """Follows the events of one session. Times are seconds on the caller's clock."""

    started_s: float
    frames: int = 0
    nbytes: int = 0
    """Bytes of all pictures."""
    speech_frames: int = 0
    first_frame_s: float | None = None
    """From the start to the first frame."""
    first_speech_s: float | None = None
    """From the start to the first frame of speech."""
    most_drift_ms: float = 0.0
    """The latest that a frame came, against the session's clock."""
    drift_ms: float = 0.0
    segments: int = 0
    resumes: int = 0
    speaking: bool = False
    _now_s: float = field(init=False)
    _status: Status | None = None
    _before: tuple[int, int] = (0, 0)
    """Late frames and stalls on replicas that were left."""
    _first: tuple[float, int] | None = None
    """Time and clock of the first frame."""
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=_RATE_FRAMES))
    _levels: deque[float] = field(default_factory=lambda: deque([0.0] * _LEVELS_SHOWN, _LEVELS_SHOWN))

    def note(self, event: SessionEvent, now_s: float) -> None:
        """Takes the next event."""
        self._now_s = now_s
        match event:
            case Frame():
                self._note_frame(event, now_s)
            case Status():
                self._status = event
            case Resumed():
                self._before, self._status = (self.late_frames, self.stalls), None
                self.resumes += 1
                self._first = None  # the new stream's clock has its own start
            case SegmentEnded():
                self.segments += 1

    def __post_init__(self) -> None:
        self._now_s = self.started_s

    @property
    def late_frames(self) -> int:
        """Frames that left 40 ms or more after their time, as the servers counted."""
        return self._before[0] + (self._status.late_frames if self._status else 0)

    @property
    def stalls(self) -> int:
        """Times that the sound ran out, as the servers counted."""
        return self._before[1] + (self._status.stalls if self._status else 0)

    @property
    def frames_per_s(self) -> float:
        """The rate of the last two seconds."""
        if len(self._times) < 2:
            return 0.0
        return (len(self._times) - 1) / max(self._times[-1] - self._times[0], 1e-9)

    @property
    def levels(self) -> str:
        """The loudness of the last frames, as bars."""
        return "".join(_BARS[round(level * (len(_BARS) - 1))] for level in self._levels)

    def rows(self) -> list[tuple[str, str]]:
        """Returns the rows of the table at the end."""
        seconds = max(self._now_s - self.started_s, 1e-9)
        film = f"{self.frames} in {seconds:.2f} s, {self.speech_frames} of speech in {self.segments} segments"
        return [
            ("frames", film),
            ("first frame", _ms(self.first_frame_s)),
            ("first of speech", _ms(self.first_speech_s)),
            ("frames/s", f"{self.frames / seconds:.1f}"),
            ("pictures", f"{self.nbytes / max(1, self.frames) / 1000:.1f} KB each, {self.nbytes * 8 / seconds / 1e6:.2f} Mbit/s"),
            ("late", str(self.late_frames)),
            ("stalls", str(self.stalls)),
            ("drift", f"{self.drift_ms:+.0f} ms at the end, {self.most_drift_ms:+.0f} ms at most"),
            ("resumed", f"{self.resumes} times"),
        ]

    def _note_frame(self, frame: Frame, now_s: float) -> None:
        self.frames += 1
        self.nbytes += len(frame.picture)
        self._times.append(now_s)
        self.speaking = frame.audio is not None
        self._levels.append(_level(frame))
        if self.first_frame_s is None:
            self.first_frame_s = now_s - self.started_s
        if frame.audio is not None:
            self.speech_frames += 1
            if self.first_speech_s is None:
                self.first_speech_s = now_s - self.started_s
        self._first = self._first or (now_s, frame.pts_us)
        self.drift_ms = 1000 * (now_s - self._first[0]) - (frame.pts_us - self._first[1]) / 1000
        self.most_drift_ms = max(self.most_drift_ms, self.drift_ms)


def _ms(seconds: float | None) -> str:
    return "none" if seconds is None else f"{1000 * seconds:.0f} ms"


def _level(frame: Frame) -> float:
    """Returns the loudness of a frame's sound, 0 to 1."""
    if frame.audio is None or not len(frame.audio):
        return 0.0
    decibels = 10 * np.log10(float(np.square(frame.audio, dtype=np.float64).mean()) + 1e-12)
    return float(np.clip((decibels - _QUIET_DB) / (_LOUD_DB - _QUIET_DB), 0, 1))
