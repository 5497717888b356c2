"""The time of a session's media, which pictures and sound share."""

from __future__ import annotations

# A session whose frames are off by more has had its clock set anew, or has gone on elsewhere: so has the media's.
MOST_OFF_S = 0.3
FRAME_US = 40_000


class MediaTimeline:
    """Gives frames their times in the media, microseconds from the first frame on.

    They follow the session's clock, not the moments at which frames come, so they are even. Where the session's clock jumps or
    stands still they follow the real time, and never go back.
    """

    def __init__(self) -> None:
        self._begin_s: float | None = None
        self._offset_us = 0
        self._last_us = -FRAME_US

    def media_us(self, pts_us: int, now_s: float) -> int:
        """Returns the time of a frame with `pts_us` on the session's clock, which comes at `now_s`."""
        if self._begin_s is None:
            self._begin_s = now_s
            self._offset_us = -pts_us
        real_us = round(1e6 * (now_s - self._begin_s))
        if abs(real_us - (pts_us + self._offset_us)) > 1e6 * MOST_OFF_S:
            self._offset_us = real_us - pts_us
        self._offset_us = max(self._offset_us, self._last_us + FRAME_US - pts_us)
        self._last_us = pts_us + self._offset_us
        return self._last_us
