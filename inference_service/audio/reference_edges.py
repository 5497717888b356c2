"""The ends of a clip as the research script makes them, for parity: rows repeated at both ends, zero rows beyond.

The script knows only whole clips: its rows end with the sound, the last ones slide back to stay inside it, and the list that
frames read has the first and the last row once more at its ends. Frame i reads the entries i-8 .. i+7 of that list, and zeros
where there are none: also when i lies past the last frame that the script itself would make (`frame_count`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference_service.audio.mel import HOP
from inference_service.audio.rows import ROW_COLUMNS, Starts, row_starts

MIN_SAMPLES = 5600  # the script fails on less

ZERO_ROW = -1


def row_count(samples: int) -> int:
    """Rows of a clip of so many samples, before the ends are repeated."""
    columns = _column_count(samples)
    # In this order, in floating point: 384 columns give 114 rows, where exact arithmetic would give 115.
    return int((columns - ROW_COLUMNS) / 80.0 * 25.0) + 2


def frame_count(samples: int) -> int:
    """Frames that the script makes of a clip of so many samples: 0.7 to 1.9 fewer than the sound lasts."""
    return row_count(samples) + 2


def clip_row_starts(samples: int, first_row: int, count: int) -> Starts:
    """First columns of rows of a clip; windows that would run past its last column slide back."""
    return np.minimum(row_starts(first_row, count), _column_count(samples) - ROW_COLUMNS)


def entry_rows(samples: int, first_frame: int, frames: int) -> NDArray[np.int64]:
    """The row behind each of the `frames` + 15 list entries that the frames read; ZERO_ROW where there is none."""
    entries = np.arange(first_frame - 8, first_frame + frames + 7, dtype=np.int64)
    rows = np.clip(entries - 1, 0, row_count(samples) - 1)
    return np.where((entries >= 0) & (entries < frame_count(samples)), rows, ZERO_ROW)


def _column_count(samples: int) -> int:
    return 1 + samples // HOP
