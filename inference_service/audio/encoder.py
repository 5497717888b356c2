"""The audio encoder: turns the columns of each row into the row's features.

Whatever the caller's batch, a row must come out the same, bit for bit. ONNX Runtime's CPU convolutions keep that promise for any
number of rows in a run (a test holds it). For an engine that does not, `rows_per_run` fixes the number, and silence fills the
last run. Rows of pure silence are never run: their features were computed when the encoder was loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from inference_service.audio.line import ROW_COLUMNS, RowColumns
from inference_service.audio.mel import BANDS, SILENCE
from inference_service.audio.windows import Rows
from service_kit.errors import FailedPrecondition
from shared_proto.timing import ROW_SIZE

# float32 [rows, 1, 80, 16] -> [rows, 512]. Must be safe to call from several threads. Whatever it raises is the encoder's fault.
RunEncoder = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_MAX_ROWS_PER_RUN = 16  # more gain no speed, and hold more memory at once


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Feature rows, and which of them are of silence."""

    rows: Rows  # [rows, 512]
    silent: NDArray[np.bool_]  # [rows], True where every value of the row's spectrum is at its floor

    @classmethod
    def none(cls) -> EncodedRows:
        """Returns no rows."""
        return cls(np.empty((0, ROW_SIZE), np.float32), np.empty(0, np.bool_))

    def wire(self) -> tuple[bytes, bytes]:
        """Returns the rows as float32 little endian, and a byte for each: 1 if it is silent."""
        return np.ascontiguousarray(self.rows, "<f4").tobytes(), self.silent.tobytes()


class AudioEncoder:
    """Computes features. Thread-safe when `run` is. Raises FailedPrecondition at once when it cannot encode silence."""

    def __init__(self, run: RunEncoder, *, rows_per_run: int | None = None) -> None:
        """`rows_per_run`: the number of rows that every run must have; None: any."""
        self._run = run
        self._is_fixed = rows_per_run is not None
        self._rows_per_run = rows_per_run or _MAX_ROWS_PER_RUN
        self._silence = self._encode_chunk(_silent_rows(1))[0].copy()

    @cached_property
    def sample_rows(self) -> Rows:
        """The rows of `sample_columns`, [16, 512], which show how it computes. Raises FailedPrecondition."""
        return self.encode(sample_columns()).rows

    def encode(self, columns: RowColumns) -> EncodedRows:
        """Encodes columns, [rows, 80, 16]. Each row depends on its own columns alone."""
        rows = np.empty((len(columns), ROW_SIZE), np.float32)
        silent = (columns == SILENCE).all(axis=(1, 2))
        rows[silent] = self._silence
        (heard,) = np.nonzero(~silent)
        for start in range(0, len(heard), self._rows_per_run):
            chunk = heard[start : start + self._rows_per_run]
            rows[chunk] = self._encode_chunk(columns[chunk])
        return EncodedRows(rows, silent)

    def _encode_chunk(self, columns: RowColumns) -> Rows:
        count = len(columns)
        missing = self._rows_per_run - count if self._is_fixed else 0
        if missing:
            columns = np.concatenate([columns, _silent_rows(missing)])
        try:
            rows = self._run(columns[:, np.newaxis])
        except Exception as error:
            raise FailedPrecondition("The audio encoder cannot run: its file is broken or does not fit this service.") from error
        if rows.shape != (len(columns), ROW_SIZE):
            raise FailedPrecondition(
                f"The audio encoder gives {list(rows.shape)} for {len(columns)} rows: its file does not fit this service."
            )
        if not np.isfinite(rows).all():
            raise FailedPrecondition("The audio encoder gives values that are not finite numbers: its file is broken.")
        return rows[:count]


def sample_columns() -> RowColumns:
    """Returns columns of noise, never as loud as can be, for a whole run of rows; the same each time: [16, 80, 16]."""
    return np.random.default_rng(2).uniform(SILENCE, 3, (_MAX_ROWS_PER_RUN, BANDS, ROW_COLUMNS)).astype(np.float32)


def _silent_rows(count: int) -> RowColumns:
    return np.full((count, BANDS, ROW_COLUMNS), SILENCE, np.float32)
