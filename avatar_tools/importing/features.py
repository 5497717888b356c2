"""Reads the clip's own audio features: any floating point numbers, which the avatar stores as float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avatar_kit.features import check_finite, map_array


def open_features(path: Path) -> NDArray[np.float32]:
    """float32 [rows, 512], finite; mapped into memory when stored so. Nothing is unpickled. Raises FileProblem."""
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, which is reported
        rows = np.asarray(map_array(path), np.float32)
    check_finite(rows)
    return rows
