"""`aud_ave.npy`, the audio features of the clip that an avatar was made from: one row of 512 a frame, give or take."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avatar_kit.safe_files import FileProblem, check_regular

FEATURE_WIDTH = 512


def feature_rows(path: Path) -> int:
    """The number of rows of a feature file, float32 [rows, 512], none of it read or unpickled. Raises FileProblem."""
    check_regular(path)
    try:
        stored = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise FileProblem(f"can not be read: {error.strerror}") from None
    except (ValueError, EOFError):
        raise FileProblem("is not a NumPy array of numbers, or is truncated") from None
    if stored.dtype != np.float32 or stored.ndim != 2 or stored.shape[1] != FEATURE_WIDTH:
        raise FileProblem(f"holds {stored.dtype} of shape {stored.shape}; expected float32 [rows, {FEATURE_WIDTH}]")
    return int(stored.shape[0])
