"""Sound as clients of the direct server cut it."""

from __future__ import annotations

import numpy as np

from ..conftest import SAMPLES_A_FRAME

PIECE_BYTES = SAMPLES_A_FRAME * 4


def pieces(sound: np.ndarray, first: int, count: int) -> list[bytes]:
    """40 ms each, from 8 before frame `first` of the sound to 7 after the last one."""
    part = sound[(first - 8) * SAMPLES_A_FRAME : (first + count + 7) * SAMPLES_A_FRAME]
    return [piece.tobytes() for piece in part.reshape(-1, SAMPLES_A_FRAME)]
