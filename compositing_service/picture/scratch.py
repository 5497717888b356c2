"""Working memory of one thread, so that a frame in the making allocates nothing large."""

from __future__ import annotations

import threading

import numpy as np

from avatar_kit.geometry import CROP_SIZE, Picture


class Scratch(threading.local):
    """Each thread sees its own buffers. What they hold is valid until the thread's next frame."""

    def __init__(self) -> None:
        self.crop: Picture = np.empty((CROP_SIZE, CROP_SIZE, 3), np.uint8)
        self._flat = np.empty(0, np.uint8)

    def pixels(self, height: int, width: int) -> Picture:
        """[height, width, 3], C-contiguous, with whatever was in it before."""
        size = height * width * 3
        if self._flat.size < size:
            self._flat = np.empty(size, np.uint8)
        return self._flat[:size].reshape(height, width, 3)
