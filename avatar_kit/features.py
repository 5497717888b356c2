"""`aud_ave.npy`, the audio features of the clip that an avatar was made from: one row of 512 a frame, give or take."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avatar_kit.arrays import open_array
from avatar_kit.safe_files import FileProblem

FEATURE_WIDTH = 512


def feature_rows(path: Path) -> int:
    """The number of rows of a feature file, float32 [rows, 512], none of it read or unpickled. Raises FileProblem."""
    stored = open_array(path)
    if stored.dtype != np.float32 or stored.ndim != 2 or stored.shape[1] != FEATURE_WIDTH:
        raise FileProblem(f"holds {stored.dtype} of shape {stored.shape}; expected float32 [rows, {FEATURE_WIDTH}]")
    return int(stored.shape[0])
