"""The ends of a clip as the research script makes them, for parity: rows repeated at both ends, zero rows beyond.

The script knows only whole clips: its rows end with the sound, the last ones slide back to stay inside it, and the list that
frames read has the first and the last row twice. Frame i reads the entries i-8 to i+7 of that list, and zeros where there are
none, also when i is greater than the last frame that the script itself would make (`frame_count`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference_service.audio.line import ROW_COLUMNS, Starts, row_starts
from inference_service.audio.mel import HOP

ZERO_ROW = -1


def row_count(samples: int) -> int:
    """Returns the number of rows of a clip of that many samples, before the ends are repeated."""
    columns = _column_count(samples)
    # In this order, in floating point: 384 columns give 114 rows, where exact arithmetic would give 115.
    return int((columns - ROW_COLUMNS) / 80.0 * 25.0) + 2


def frame_count(samples: int) -> int:
    """Returns the number of frames that the script makes of that many samples: 0.7 to 1.9 fewer than the sound lasts."""
    return row_count(samples) + 2


def clip_row_starts(samples: int, first_row: int, count: int) -> Starts:
    """Returns the first columns of rows of a clip. Rows that would run past its last column slide back."""
    return np.minimum(row_starts(first_row, count), _column_count(samples) - ROW_COLUMNS)


def entry_rows(samples: int, first_frame: int, frames: int) -> NDArray[np.int64]:
    """Returns the row behind each of the `frames` + 15 list entries that the frames read; ZERO_ROW where there is none."""
    entries = np.arange(first_frame - 8, first_frame + frames + 7, dtype=np.int64)
    rows = np.clip(entries - 1, 0, row_count(samples) - 1)
    return np.where((entries >= 0) & (entries < frame_count(samples)), rows, ZERO_ROW)


def _column_count(samples: int) -> int:
    return 1 + samples // HOP
