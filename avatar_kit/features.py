"""The audio features of the clip that an avatar was made from: `aud_ave.npy`, or the same rows without a header in `aud_ave.bin`.

The file holds the list that frames read, not the encoder's rows: the family's script puts the first and the last row once more at
the ends before it stores them. That shows in the counts. S samples give int((floor(S / 200) - 15) / 80 x 25) + 2 rows of the
encoder; a real avatar of 523 frames has 20.92 s of sound at 16 kHz, which is 520 rows, and its file has 522. So frame i of the
clip reads the entries i-8 .. i+7 of the file as they lie, and there is nothing to repeat. Before its first entry and after its
last one the networks were trained on zero rows.

The list is 0.7 to 1.9 frames shorter than the sound, so that a whole file has a row or two fewer than the clip has frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_kit.arrays import open_array
from avatar_kit.limits import max_feature_rows
from avatar_kit.numbering import MAX_FRAMES
from avatar_kit.safe_files import FileProblem, check_regular

FEATURE_WIDTH = 512
FEATURE_NAMES = ("aud_ave.npy", "aud_ave.bin")
MISSING_ROWS = 2
"""So many rows fewer than frames are what the family's tools leave; more are the features of another sound."""

_ROW_BYTES = 4 * FEATURE_WIDTH
_MAX_ROWS = MAX_FRAMES + MISSING_ROWS

FeatureArray = np.memmap[Any, Any]  # [rows, 512], read-only


def map_array(path: Path) -> FeatureArray:
    """A feature file mapped into memory: floating point [rows, 512], at least one row; `.bin` is float32 little endian.

    The values are not looked at, and nothing is ever unpickled. Raises FileProblem.
    """
    stored = _raw(path) if path.suffix.lower() == ".bin" else open_array(path)
    if stored.dtype.kind != "f" or stored.ndim != 2 or stored.shape[1] != FEATURE_WIDTH:
        raise _unexpected(stored)
    if not 1 <= len(stored) <= _MAX_ROWS:
        raise FileProblem(f"has {len(stored)} rows; 1 to {_MAX_ROWS} are allowed")
    return stored


def map_features(path: Path, *, frame_count: int) -> FeatureArray:
    """A feature file as it is served, mapped into memory: float32 [rows, 512], every value finite. Raises FileProblem.

    `frame_count`: of the avatar; a file of far more rows is not read.
    """
    stored = map_array(path)
    if len(stored) > (most := max_feature_rows(frame_count)):
        raise FileProblem(f"has {len(stored)} rows, more than the {most} allowed for {frame_count} frames")
    if stored.dtype != np.float32:
        raise _unexpected(stored)
    check_finite(stored)
    return stored


def check_finite(rows: NDArray[Any]) -> None:
    """Raises FileProblem when a value is NaN or infinite. Takes little memory, however many rows there are."""
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
