"""Which columns make a row: one row a video frame, each from a window of 16 columns (200 ms).

5 rows take 16 columns, so windows start at columns 0, 3, 6, 9, 12, 16 ... of the line, and on the same grid before its sample 0.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from inference_service.audio.line import SoundLine
from inference_service.audio.mel import SAMPLE_RATE

FRAME_RATE = 25
SAMPLES_A_FRAME = SAMPLE_RATE // FRAME_RATE
ROW_COLUMNS = 16

Starts = NDArray[np.int64]  # [rows], the first column of each row's window, ascending
RowWindows = NDArray[np.float32]  # [rows, 80, 16]


def row_starts(first_row: int, row_count: int) -> Starts:
    """Of rows `first_row` (also negative) .. `first_row + row_count - 1` of the line."""
    return ROW_COLUMNS * np.arange(first_row, first_row + row_count, dtype=np.int64) // 5


def row_windows(line: SoundLine, starts: Starts) -> RowWindows:
    """What the encoder reads for each row, C-contiguous. Works out the columns from the first start to the last one's end."""
    first = int(starts[0])
    columns = line.columns(first, int(starts[-1]) - first + ROW_COLUMNS)
    return np.ascontiguousarray(sliding_window_view(columns, ROW_COLUMNS, axis=0)[starts - first])
