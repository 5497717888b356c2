"""A segment of speech: how many frames it has, and which of them can be made from the sound that is there.

Rows and frames are those of docs/api.md, "Exact frames": row j reads the samples up to 200 floor(16 j / 5) + 3400 at 16 kHz, and
frame k the rows k - 9 to k + 6.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from compositing_service.sessions.sound import SegmentSound
from shared_proto.timing import FRAME_RATE

# A frame reads its own row, those before it and, with the exact look-ahead of 12 frames, the six after it.
ROWS_AFTER = 6

# A frame is asked for with the 10 frames of sound before it, also when its rows are computed anew for another avatar.
SOUND_KEPT_FRAMES = 11

_HOP = 200
_ROW_END = 3400
_US_A_FRAME = 40_000


@dataclass(eq=False, slots=True)
class Segment:
    """The bookkeeping of one segment. `sound` grows until `ended`."""

    number: int
    sound: SegmentSound
    next_frame: int
    """The first frame that is not planned yet."""
    shown: int = 0
    """Frames up to the last one sent: its place + 1; 0 before the first."""
    ended: bool = False
    begun: bool = field(default=False)
    """A frame of it is planned, in this stream."""

    def add(self, samples: NDArray[Any]) -> None:
        """Takes more sound. A resumed segment forgets what none of its wanted frames reads."""
        self.sound.add(samples)
        if not self.begun:
            self.sound.drop_before(self.next_frame - SOUND_KEPT_FRAMES)

    @property
    def frames(self) -> int:
        """The number of frames of all the sound received: ceil(25 n / rate)."""
        return -(-FRAME_RATE * self.sound.received // self.sound.rate)

    @property
    def audio_us(self) -> int:
        """The length of the sound received, in microseconds, rounded down."""
        return 1_000_000 * self.sound.received // self.sound.rate

    @property
    def shown_us(self) -> int:
        """The sound shown: the end of the last frame sent, at most the length."""
        return min(_US_A_FRAME * self.shown, self.audio_us)

    @property
    def buffered_us(self) -> int:
        """The sound received and not shown."""
        return self.audio_us - self.shown_us

    def is_finished(self) -> bool:
        """Tells if all its frames are planned."""
        return self.ended and self.next_frame >= self.frames

    def makeable(self, look_ahead: int, *, cushion_samples: int = 0) -> int:
        """Counts the frames from the start that can be made. Unless it ended, `cushion_samples` at 16 kHz are left over."""
        if self.ended:
            return self.frames
        return max(0, rows_complete(self.sound.ready - cushion_samples) - (look_ahead - ROWS_AFTER))


def rows_complete(samples: int) -> int:
    """Counts the rows from row 0 on that read nothing beyond the first `samples` samples at 16 kHz; negative if rows before 0 do.

    floor(16 j / 5) <= m holds for j < 5 (m + 1) / 16.
    """
    last_column = (samples - _ROW_END) // _HOP
    return -(-5 * (last_column + 1) // 16)
