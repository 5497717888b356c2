"""Fits a whole picture into the detector's square, and maps boxes back."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import Picture

SIDE = 640


@dataclass(frozen=True, slots=True)
class Letterbox:
    """The picture's place in the square: `width` x `height`, `left` and `top` from the corner, black around it."""

    picture_width: int
    picture_height: int
    width: int
    height: int
    left: int
    top: int

    def enclose(self, picture: Picture) -> Picture:
        """[640, 640, 3] with the picture in the middle."""
        smaller = self.width < self.picture_width
        interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        square = np.zeros((SIDE, SIDE, 3), np.uint8)
        inside = square[self.top : self.top + self.height, self.left : self.left + self.width]
        inside[:] = cv2.resize(picture, (self.width, self.height), interpolation=interpolation)
        return square

    def boxes_in_picture(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Maps [n, 4] x1, y1, x2, y2 from the square to the picture."""
        scale = np.array([self.picture_width / self.width, self.picture_height / self.height])
        return np.asarray((boxes - np.tile([self.left, self.top], 2)) * np.tile(scale, 2))


def letterbox(width: int, height: int) -> Letterbox:
    """The place of pictures of that size: as large as fits, proportions kept to a pixel, in the middle."""
    scale = SIDE / max(width, height)
    inner_width = min(max(round(width * scale), 1), SIDE)
    inner_height = min(max(round(height * scale), 1), SIDE)
    return Letterbox(width, height, inner_width, inner_height, (SIDE - inner_width) // 2, (SIDE - inner_height) // 2)
