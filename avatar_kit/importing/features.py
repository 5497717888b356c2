"""The clip's own audio features as the family's tools stored them: `aud_ave.npy`, or raw rows in `aud_ave.bin`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avatar_kit.arrays import open_array
from avatar_kit.features import FEATURE_WIDTH
from avatar_kit.safe_files import FileProblem, check_regular

_ROW_BYTES = FEATURE_WIDTH * 4


def open_features(path: Path) -> NDArray[np.float32]:
    """float32 [rows, 512], mapped into memory when stored so. Nothing is unpickled. Raises FileProblem."""
    rows = _raw(path) if path.suffix.lower() == ".bin" else _array(path)
    if not len(rows):
        raise FileProblem("has no rows in it")
    for start in range(0, len(rows), 4096):
        if not np.isfinite(rows[start : start + 4096]).all():
            raise FileProblem("holds values that are not finite numbers (NaN or infinity)")
    return rows


def _array(path: Path) -> NDArray[np.float32]:
    stored = open_array(path)
    if stored.dtype.kind != "f" or stored.ndim != 2 or stored.shape[1] != FEATURE_WIDTH:
        raise FileProblem(f"holds {stored.dtype} of shape {stored.shape}; expected float32 [rows, {FEATURE_WIDTH}]")
    return np.asarray(stored, np.float32)


def _raw(path: Path) -> NDArray[np.float32]:
    check_regular(path)
    size = path.stat().st_size
    if size % _ROW_BYTES:
        raise FileProblem(f"has {size} bytes, which are not whole rows of {FEATURE_WIDTH} float32 ({_ROW_BYTES} bytes each)")
    try:
        return np.asarray(np.memmap(path, np.dtype("<f4"), mode="r")).reshape(-1, FEATURE_WIDTH)
    except OSError as error:
        raise FileProblem(f"can not be read: {error.strerror}") from None
