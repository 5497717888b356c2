"""The audio encoder: windows of the spectrum to rows of features.

Whatever the caller's batch, a row must come out the same, bit for bit. ONNX Runtime's CPU convolutions keep that promise for any
number of rows in a run (a test holds it); for an engine that does not, `rows_per_run` fixes the number, and silence fills up the
last run. What lies wholly in silence is never run: its row was worked out when the encoder was loaded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from inference_service.audio.mel import BANDS, SILENCE
from inference_service.audio.rows import ROW_COLUMNS, RowWindows
from inference_service.audio.windows import ROW_SIZE, Rows
from service_kit.errors import FailedPrecondition

# float32 [rows, 1, 80, 16] -> [rows, 512]. Must be safe to call from several threads; whatever it raises is the encoder's fault.
RunEncoder = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_MAX_ROWS_PER_RUN = 16  # more gain no speed, only hold more memory at once


class AudioEncoder:
    """Thread-safe when `run` is. Raises FailedPrecondition at once when the encoder cannot encode silence."""

    def __init__(self, run: RunEncoder, *, rows_per_run: int | None = None) -> None:
        """`rows_per_run`: the only number of rows that `run` takes or is to be given; None: any."""
        self._run = run
        self._fixed = rows_per_run is not None
        self._rows_per_run = rows_per_run or _MAX_ROWS_PER_RUN
        self._silence = self._encode_chunk(_silent_windows(1))[0].copy()

    def encode(self, windows: RowWindows) -> Rows:
        """[rows, 80, 16] -> [rows, 512], each row a function of its own window alone."""
        rows = np.empty((len(windows), ROW_SIZE), np.float32)
        silent = (windows == SILENCE).all(axis=(1, 2))
        rows[silent] = self._silence
        (heard,) = np.nonzero(~silent)
        for start in range(0, len(heard), self._rows_per_run):
            chunk = heard[start : start + self._rows_per_run]
            rows[chunk] = self._encode_chunk(windows[chunk])
        return rows

    def _encode_chunk(self, windows: RowWindows) -> Rows:
        count = len(windows)
        missing = self._rows_per_run - count if self._fixed else 0
        if missing:
            windows = np.concatenate([windows, _silent_windows(missing)])
        try:
            rows = self._run(windows[:, np.newaxis])
        except Exception as error:
            raise FailedPrecondition("The audio encoder cannot run: its file is broken or does not fit this service.") from error
        if rows.shape != (len(windows), ROW_SIZE):
            raise FailedPrecondition(
                f"The audio encoder gives {list(rows.shape)} for {len(windows)} rows: its file does not fit this service."
            )
        if not np.isfinite(rows).all():
            raise FailedPrecondition("The audio encoder gives values that are not finite numbers: its file is broken.")
        return rows[:count]


def _silent_windows(count: int) -> RowWindows:
    return np.full((count, BANDS, ROW_COLUMNS), SILENCE, np.float32)
