"""Makes the windows that the networks read: of rows, of a clip's stored features, or of what callers send."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from service_kit.errors import Problems
from shared_proto.field_checks import one_or_each, read_floats, rows_of
from shared_proto.timing import EXACT_LOOK_AHEAD, ROW_SIZE, WINDOW_ROWS

Rows = NDArray[np.float32]  # [rows, 512]
FrameWindows = NDArray[np.float32]  # [frames, 16, 512], C-contiguous


def windows_of_rows(rows: Rows) -> FrameWindows:
    """Lets frame k read rows k to k+15: [frames + 15, 512] -> [frames, 16, 512]."""
    return np.ascontiguousarray(sliding_window_view(rows, WINDOW_ROWS, axis=0).transpose(0, 2, 1))


def windows_before(rows: Rows, look_ahead: int) -> FrameWindows:
    """Lets frame k read rows k to k+15, but row k + look_ahead + 3 in place of later ones: [frames + look_ahead + 3, 512]."""
    last = look_ahead + WINDOW_ROWS - EXACT_LOOK_AHEAD - 1
    places = np.minimum(np.arange(WINDOW_ROWS), last)
    windows: FrameWindows = rows[np.arange(len(rows) - last)[:, None] + places]
    return windows


def windows_of_clip(stored: Rows, frames: Sequence[int]) -> FrameWindows:
    """Returns the windows of frames of a clip in the features stored with it: [len(frames), 16, 512].

    Frame i reads the entries i-8 to i+7 of the file. The file has the first row twice, so these are the rows i-9 to i+6 of the
    clip (see `avatar_kit.features`). Entries that the file lacks are zeros, as in training: for the first 8 frames, for the last
    7 when it has as many rows as there are frames, and for more when it is shorter.
    """
    entries = np.asarray(frames, np.int64)[:, None] + np.arange(-8, 8)
    there = (entries >= 0) & (entries < len(stored))
    windows = np.zeros((*entries.shape, ROW_SIZE), np.float32)
    windows[there] = stored[entries[there]]
    return windows


def windows_from_feature_rows(data: bytes, *, batch_size: int, problems: Problems) -> FrameWindows | None:
    """Makes windows of `batch_size` + 15 float32 little endian rows of 512, which the caller computed.

    Notes problems under `feature_rows`. Returns None when there are any, noted here or before.
    """
    rows = read_floats("feature_rows", data, (ROW_SIZE,), rows_of(batch_size), problems.add)
    return None if rows is None or problems.violations else windows_of_rows(rows)


def windows_from_audio_features(data: bytes, *, batch_size: int, problems: Problems) -> FrameWindows | None:
    """Makes windows of float32 little endian windows of 16 x 512 values: one for the whole batch, or one a frame.

    Notes problems under `audio_features`. Returns None when there are any, noted here or before.
    """
    windows = read_floats("audio_features", data, (WINDOW_ROWS, ROW_SIZE), one_or_each(batch_size), problems.add)
    if windows is None or problems.violations:
        return None
    return np.ascontiguousarray(np.broadcast_to(windows, (batch_size, WINDOW_ROWS, ROW_SIZE)))
