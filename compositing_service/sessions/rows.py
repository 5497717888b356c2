"""The feature rows of a segment: each is computed once for an audio encoder, and kept as long as frames may read it."""

from __future__ import annotations

from compositing_service.mouth_source import Rows
from compositing_service.sessions.segment import ROWS_AFTER
from shared_proto.timing import ROW_BYTES, ROWS_BEFORE


class SegmentRows:
    """Successive rows of one segment with one encoder."""

    def __init__(self, look_ahead: int) -> None:
        self._look_ahead = look_ahead
        self._first = 0
        self._rows = b""
        self._silent = b""

    @property
    def stop(self) -> int:
        """The first row that is not known yet."""
        return self._first + len(self._silent)

    def stop_for(self, frame: int) -> int:
        """Returns the row after the last one that a frame reads.

        Frame k reads row min(j, k + L - 6) in place of each row j of k - 9 .. k + 6.
        """
        return frame + self._look_ahead - ROWS_AFTER + 1

    def known_to(self, frame: int) -> bytes:
        """Returns the known rows from the first one that a frame reads on. Forgets those before: no later frame reads them."""
        first = frame - ROWS_BEFORE
        surplus = first - self._first
        if 0 <= surplus <= len(self._silent):
            self._rows, self._silent = self._rows[surplus * ROW_BYTES :], self._silent[surplus:]
        else:
            self._rows = self._silent = b""
        self._first = first
        return self._rows

    def add(self, rows: Rows) -> None:
        """Appends the next rows."""
        self._rows += rows.data
        self._silent += rows.silent

    def is_silent(self, frame: int) -> bool:
        """Tells if every row that a frame reads lies in silence."""
        return 0 not in self._silent[frame - ROWS_BEFORE - self._first : self.stop_for(frame) - self._first]
