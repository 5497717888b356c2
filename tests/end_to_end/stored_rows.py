"""Stored features of a clip: the rows of a file, and the windows that frames read of it."""

from __future__ import annotations

import numpy as np

FRAMES = 21


def rows(count: int = FRAMES - 1, seed: int = 3) -> np.ndarray:
    """float32 [count, 512], as an encoder gives them: zeros among numbers from 0 on."""
    generator = np.random.default_rng(seed)
    return (generator.uniform(0, 8, (count, 512)) * (generator.random((count, 512)) < 0.5)).astype(np.float32)


def windows(stored: np.ndarray, indices: list[int]) -> np.ndarray:
    """[frames, 8192]: entries i-8 .. i+7 of the list, zeros where it ends."""
    padded = np.concatenate([np.zeros((8, 512), np.float32), stored, np.zeros((FRAMES + 8 - len(stored), 512), np.float32)])
    return np.stack([padded[index : index + 16].reshape(-1) for index in indices])
