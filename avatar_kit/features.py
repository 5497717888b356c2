"""The audio features of the clip that an avatar was made from: `aud_ave.npy`, or the same rows without a header in `aud_ave.bin`.

The file holds the list that frames read, not the encoder's output: the family's script repeats the first and the last row at the
ends before it stores them. The counts show it. S samples give int((floor(S / 200) - 15) / 80 x 25) + 2 rows of the encoder; a
real avatar of 523 frames has 20.92 s of sound at 16 kHz, which is 520 rows, and its file has 522. So frame i of the clip reads
the entries i-8 .. i+7 of the file unchanged. Before its first entry and after its last one the networks were trained on zero
rows.

The list is 0.7 to 1.9 frames shorter than the sound, so a whole file has one or two rows fewer than the clip has frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_kit.limits import max_feature_rows
from avatar_kit.numbering import MAX_FRAMES
from avatar_kit.safe_files import FileProblem, check_regular, open_array

FEATURE_WIDTH = 512
FEATURE_NAMES = ("aud_ave.npy", "aud_ave.bin")
MISSING_ROWS = 2
"""The family's tools leave this many rows fewer than frames. A larger gap means the features of another sound."""

_ROW_BYTES = 4 * FEATURE_WIDTH
_MAX_ROWS = MAX_FRAMES + MISSING_ROWS

FeatureArray = np.memmap[Any, Any]  # [rows, 512], read-only


def map_array(path: Path) -> FeatureArray:
    """Maps a feature file into memory: floating point [rows, 512], at least one row; `.bin` is float32 little endian.

    Does not check the values and never unpickles. Raises FileProblem.
    """
    stored = _raw(path) if path.suffix.lower() == ".bin" else open_array(path)
    if stored.dtype.kind != "f" or stored.ndim != 2 or stored.shape[1] != FEATURE_WIDTH:
        raise _unexpected(stored)
    if not 1 <= len(stored) <= _MAX_ROWS:
        raise FileProblem(f"has {len(stored)} rows; 1 to {_MAX_ROWS} are allowed")
    return stored


def map_features(path: Path, *, frame_count: int) -> FeatureArray:
    """Maps a feature file to be served: float32 [rows, 512], every value finite. Raises FileProblem.

    `frame_count`: pictures of the avatar; a file with far more rows is refused unread.
    """
    stored = map_array(path)
    if len(stored) > (most := max_feature_rows(frame_count)):
        raise FileProblem(f"has {len(stored)} rows, more than the {most} allowed for {frame_count} frames")
    if stored.dtype != np.float32:
        raise _unexpected(stored)
    check_finite(stored)
    return stored


def open_features(path: Path) -> NDArray[np.float32]:
    """Maps a feature file to be imported: any floating point numbers, as float32 [rows, 512], finite. Raises FileProblem."""
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, which is reported
        rows = np.asarray(map_array(path), np.float32)
    check_finite(rows)
    return rows


def check_finite(rows: NDArray[Any]) -> None:
    """Raises FileProblem when a value is NaN or infinite. Takes little memory for any number of rows."""
    for start in range(0, len(rows), 4096):
        if not np.isfinite(rows[start : start + 4096]).all():
            raise FileProblem("holds values that are not finite numbers (NaN or infinity)")


def _raw(path: Path) -> FeatureArray:
    check_regular(path)
    rows, rest = divmod(path.stat().st_size, _ROW_BYTES)
    if rest or not rows:
        size = rows * _ROW_BYTES + rest
        raise FileProblem(f"has {size} bytes, which are not whole rows of {FEATURE_WIDTH} float32 ({_ROW_BYTES} bytes each)")
    try:
        return np.memmap(path, np.dtype("<f4"), mode="r", shape=(rows, FEATURE_WIDTH))
    except (OSError, ValueError):
        raise FileProblem("cannot be mapped into memory") from None


def _unexpected(stored: FeatureArray) -> FileProblem:
    return FileProblem(f"holds {stored.dtype} of shape {stored.shape}; expected float32 [rows, {FEATURE_WIDTH}]")
