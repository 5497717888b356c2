"""Rows to the windows that the networks read, and the windows that callers send themselves."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from service_kit.errors import Problems

ROW_SIZE = 512
WINDOW_ROWS = 16
CONTEXT_ROWS = WINDOW_ROWS - 1  # rows that a batch needs beyond one a frame
ROWS_BEFORE = 9  # frame k reads the rows k-9 .. k+6 of its clip

Rows = NDArray[np.float32]  # [rows, 512]
FrameWindows = NDArray[np.float32]  # [frames, 16, 512], C-contiguous

_ROW_BYTES = 4 * ROW_SIZE
_WINDOW_BYTES = WINDOW_ROWS * _ROW_BYTES


def windows_of_rows(rows: Rows) -> FrameWindows:
    """Frame k reads rows k .. k+15: [frames + 15, 512] -> [frames, 16, 512]."""
    return np.ascontiguousarray(sliding_window_view(rows, WINDOW_ROWS, axis=0).transpose(0, 2, 1))


def windows_from_feature_rows(
    data: bytes, *, batch_size: int, problems: Problems, field: str = "feature_rows"
) -> FrameWindows | None:
    """Windows from `batch_size` + 15 float32 little endian rows of 512, ready made by the caller.

    Notes what is wrong under `field`. None when anything stands in `problems`, noted here or before, or `batch_size` < 1.
    """
    if batch_size < 1:
        return None
    expected = (batch_size + CONTEXT_ROWS) * _ROW_BYTES
    if len(data) != expected:
        problems.add(
            field,
            f"{len(data)} bytes, expected {expected}: batch_size + {CONTEXT_ROWS} = {batch_size + CONTEXT_ROWS} rows of "
            f"{ROW_SIZE} float32 values",
        )
        return None
    rows = _finite_rows(data, problems, field)
    return None if problems.violations else windows_of_rows(rows)


def windows_from_audio_features(
    data: bytes, *, batch_size: int, problems: Problems, field: str = "audio_features"
) -> FrameWindows | None:
    """Windows from float32 little endian windows of 16 x 512 values: one for the whole batch, or one a frame.

    Notes what is wrong under `field`. None when anything stands in `problems`, noted here or before, or `batch_size` < 1.
    """
    if batch_size < 1:
        return None
    if len(data) not in {_WINDOW_BYTES, batch_size * _WINDOW_BYTES}:
        problems.add(
            field,
            f"{len(data)} bytes, expected {_WINDOW_BYTES} (one window of {WINDOW_ROWS} x {ROW_SIZE} float32 values for all)"
            f" or {batch_size * _WINDOW_BYTES} (one for each of {batch_size} frames)",
        )
        return None
    rows = _finite_rows(data, problems, field)
    if problems.violations:  # before a wrong batch size could make this large
        return None
    windows = rows.reshape(-1, WINDOW_ROWS, ROW_SIZE)
    return np.ascontiguousarray(np.broadcast_to(windows, (batch_size, WINDOW_ROWS, ROW_SIZE)))


def _finite_rows(data: bytes, problems: Problems, field: str) -> Rows:
    values = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
    finite = np.isfinite(values)
    if not finite.all():
        first = int(np.argmin(finite))
        problems.add(field, f"value {first} is {values[first]}, the first of {int((~finite).sum())} that are not finite numbers")
    return values.reshape(-1, ROW_SIZE)
