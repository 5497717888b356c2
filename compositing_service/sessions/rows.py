"""The feature rows of a segment: each is computed once for an audio encoder, and kept as long as frames may read it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compositing_service.mouth_source import Rows, Windows
from compositing_service.sessions.segment import EXACT_LOOK_AHEAD, ROWS_AFTER
from shared_proto.timing import ROW_SIZE, ROWS_BEFORE

_ROW_NUMBERS = np.arange(-ROWS_BEFORE, ROWS_AFTER + 1)


class SegmentRows:
    """The rows of one segment with one encoder, from row `first` on."""

    def __init__(self, first: int, look_ahead: int) -> None:
        self._first = first
        self._look_ahead = look_ahead
        self._rows: NDArray[np.float32] = np.empty((0, ROW_SIZE), np.float32)
        self._silent: NDArray[np.bool_] = np.empty(0, np.bool_)

    @classmethod
    def for_frame(cls, frame: int, look_ahead: int) -> SegmentRows:
        """Begins with the rows that a frame reads."""
        return cls(frame - ROWS_BEFORE, look_ahead)

    @property
    def stop(self) -> int:
        """The first row that is not there yet."""
        return self._first + len(self._rows)

    def stop_for(self, frame: int) -> int:
        """Returns the row after the last one that a frame reads."""
        return frame + self._look_ahead - ROWS_AFTER + 1

    def add(self, rows: Rows) -> None:
        """Appends the next rows."""
        new = np.frombuffer(rows.data, "<f4").astype(np.float32, copy=False).reshape(-1, ROW_SIZE)
        self._rows = np.concatenate([self._rows, new])
        # An older inference service does not say it.
        silent = np.frombuffer(rows.silent or bytes(len(new)), np.uint8).astype(np.bool_)
        self._silent = np.concatenate([self._silent, silent])

    def drop_before(self, frame: int) -> None:
        """Forgets what no frame from this one on reads."""
        surplus = frame - ROWS_BEFORE - self._first
        if surplus > 0:
            self._rows, self._silent = self._rows[surplus:], self._silent[surplus:]
            self._first += surplus

    def is_silent(self, frame: int) -> bool:
        """Tells if every row that a frame reads lies in silence."""
        return bool(self._silent[self._places(frame)].all())

    def speech(self, frames: Sequence[int]) -> Rows | Windows:
        """Returns the features of these frames, in the shorter of the two forms that says the same."""
        if self._look_ahead == EXACT_LOOK_AHEAD and frames[-1] - frames[0] == len(frames) - 1:
            first = frames[0] - ROWS_BEFORE - self._first
            rows = self._rows[first : first + len(frames) + len(_ROW_NUMBERS) - 1]
            return Rows(rows.astype("<f4", copy=False).tobytes())
        windows = self._rows[np.stack([self._places(frame) for frame in frames])]
        return Windows(windows.astype("<f4", copy=False).tobytes())

    def _places(self, frame: int) -> NDArray[np.int64]:
        """Returns where the 16 rows of a frame are: row min(j, k + L - 6) in place of each row j of k - 9 .. k + 6."""
        numbers = np.minimum(frame + _ROW_NUMBERS, self.stop_for(frame) - 1)
        return (numbers - self._first).astype(np.int64)
