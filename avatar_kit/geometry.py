"""Geometry of the mouth: rectangles, the crop that the network sees, and the mask over it.

The numbers come from training and cannot be chosen. A square around the lower face is resized to 328 x 328; the network
sees and returns the 320 x 320 inside a margin of 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

CROP_SIZE = 328
MOUTH_SIZE = 320
MARGIN = (CROP_SIZE - MOUTH_SIZE) // 2

# The three landmarks that span the rectangle, as numbered from 0 in the family's 110-point files.
_LEFT_JAW, _RIGHT_JAW, _UPPER_EDGE = 1, 31, 52
MIN_LANDMARKS = _UPPER_EDGE + 1

Picture: TypeAlias = NDArray[np.uint8]
"""[height, width, 3], BGR."""


class Paste(StrEnum):
    """The way a mouth is put back into the picture."""

    REFERENCE = "reference"  # into the 328 crop, which is resized bicubically to the rectangle: a hard edge
    FEATHER = "feather"  # the same, with a soft edge
    DIRECT = "direct"  # stretched over the whole rectangle, as the older servers did


@dataclass(frozen=True, slots=True)
class Rect:
    """Rectangle in picture pixels, half open: columns x1 .. x2 - 1, rows y1 .. y2 - 1."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.x2 - self.x1

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.y2 - self.y1

    def problem(self, width: int, height: int) -> str | None:
        """Says why this rectangle does not fit into a picture of that size; None if it does."""
        shown = f"[{self.x1}, {self.y1}, {self.x2}, {self.y2}]"
        if self.x1 >= self.x2 or self.y1 >= self.y2:
            return f"{shown} is empty: x1 must be less than x2 and y1 less than y2"
        if self.x1 < 0 or self.y1 < 0 or self.x2 > width or self.y2 > height:
            return f"{shown} is not inside the {width}x{height} picture"
        return None

    def clamped(self, width: int, height: int) -> Rect:
        """Returns the part inside a picture of that size, which may be empty."""
        x1, y1 = min(max(self.x1, 0), width), min(max(self.y1, 0), height)
        return Rect(x1, y1, max(x1, min(self.x2, width)), max(y1, min(self.y2, height)))


@dataclass(frozen=True, slots=True)
class Mask:
    """The part of the 320 x 320 crop that is black in the network's second image. Must be the one used in training."""

    ACCEPTED: ClassVar[str] = "list of four whole numbers (x, y, width, height)"  # as files and messages have it

    x: int = 5
    y: int = 5
    width: int = 310
    height: int = 305

    def __post_init__(self) -> None:
        inside = self.x >= 0 and self.y >= 0 and self.x + self.width <= MOUTH_SIZE and self.y + self.height <= MOUTH_SIZE
        if not inside or self.width < 1 or self.height < 1:
            raise ValueError(
                f"mask {self.x}, {self.y}, {self.width}, {self.height} (x, y, width, height) "
                f"must cover something and lie inside {MOUTH_SIZE}x{MOUTH_SIZE}"
            )

    def kept(self) -> NDArray[np.float32]:
        """Returns a new array [320, 320]: 0 where the crop is blackened, 1 elsewhere."""
        kept = np.ones((MOUTH_SIZE, MOUTH_SIZE), np.float32)
        kept[self.y : self.y + self.height, self.x : self.x + self.width] = 0
        return kept


def crop_328(picture: Picture, rect: Rect) -> Picture:
    """Resizes the rectangle bicubically to [328, 328, 3], as in training. The rectangle must be inside the picture."""
    part = picture[rect.y1 : rect.y2, rect.x1 : rect.x2]
    return np.asarray(cv2.resize(part, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_CUBIC), np.uint8)


def inner(crop: Picture) -> Picture:
    """Returns the [320, 320, 3] view of a 328 crop that the network sees and replaces."""
    return crop[MARGIN : MARGIN + MOUTH_SIZE, MARGIN : MARGIN + MOUTH_SIZE]


def rect_from_landmarks(points: NDArray[np.floating] | NDArray[np.integer]) -> Rect:
    """Returns the square that training crops, from landmarks [>= 53, 2] (x, y). It may cross the edge: see `Rect.clamped`.

    Raises ValueError for too few or non-finite points.
    """
    if points.ndim != 2 or points.shape[0] < MIN_LANDMARKS or points.shape[1] != 2:
        raise ValueError(f"landmarks of shape {points.shape}, expected at least {MIN_LANDMARKS} rows of x and y")
    used = np.asarray(points[[_LEFT_JAW, _RIGHT_JAW, _UPPER_EDGE]], np.float64)
    if not np.isfinite(used).all():
        raise ValueError("landmarks that are not finite numbers")
    left, right, top = int(used[0, 0]), int(used[1, 0]), int(used[2, 1])
    return Rect(left, top, right, top + right - left)
