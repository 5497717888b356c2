"""Rows to the windows that the networks read, and the windows that callers send themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from service_kit.errors import Problems

ROW_SIZE = 512
WINDOW_ROWS = 16
CONTEXT_ROWS = WINDOW_ROWS - 1  # rows that a batch needs beyond one a frame
ROWS_BEFORE = 9  # frame k reads the rows k-9 .. k+6 of its clip
ENTRIES_BEFORE = 8  # of the stored list, which has its first row twice

Rows = NDArray[np.float32]  # [rows, 512]
FrameWindows = NDArray[np.float32]  # [frames, 16, 512], C-contiguous

_ROW_BYTES = 4 * ROW_SIZE
_WINDOW_BYTES = WINDOW_ROWS * _ROW_BYTES


def windows_of_rows(rows: Rows) -> FrameWindows:
    """Frame k reads rows k .. k+15: [frames + 15, 512] -> [frames, 16, 512]."""
    return np.ascontiguousarray(sliding_window_view(rows, WINDOW_ROWS, axis=0).transpose(0, 2, 1))


def windows_of_clip(stored: Rows, frames: Sequence[int]) -> FrameWindows:
    """What frames of a clip read of the features stored with it: [len(frames), 16, 512].

    Frame i reads the entries i-8 .. i+7 of the file, in which the first row stands twice: the rows i-9 .. i+6 of the clip (see
    `avatar_kit.features`). Where the file has none they are zeros, as in training: for the first 8 frames, for the last 7 when it
    has as many rows as there are frames, and for as many more as it is short.
    """
    entries = np.asarray(frames, np.int64)[:, None] + np.arange(-ENTRIES_BEFORE, WINDOW_ROWS - ENTRIES_BEFORE)
    there = (entries >= 0) & (entries < len(stored))
    windows = np.zeros((*entries.shape, ROW_SIZE), np.float32)
    windows[there] = stored[entries[there]]
    return windows


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
