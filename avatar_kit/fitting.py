"""Resizes mouths to the rectangles that they are pasted into.

Both services can, and give the same bytes: where the rectangle has fewer pixels than the mouth, it is resized before it crosses
the wire between them.
"""

from __future__ import annotations

import threading

import cv2
import numpy as np

from avatar_kit.border import BorderPixels
from avatar_kit.geometry import CROP_SIZE, MARGIN, MOUTH_SIZE, Picture, Rect, inner

_MOUTH_IN_CROP = Rect(MARGIN, MARGIN, CROP_SIZE - MARGIN, CROP_SIZE - MARGIN)
CROP_BORDER_BYTES = (CROP_SIZE**2 - MOUTH_SIZE**2) * 3


class Scratch(threading.local):
    """Working memory of one thread."""

    def __init__(self) -> None:
        self.crop: Picture = np.empty((CROP_SIZE, CROP_SIZE, 3), np.uint8)


scratch = Scratch()


def crop_border(crop: Picture) -> BorderPixels:
    """Copies the outermost 4 pixels of a 328 crop: all of it that remains around a mouth. Keeping them spares making it again."""
    return BorderPixels.of(crop, _MOUTH_IN_CROP)


def is_smaller(rect: Rect) -> bool:
    """Returns True if a mouth has fewer pixels once it is resized to the rectangle."""
    return rect.width * rect.height < MOUTH_SIZE**2


def fit_mouth(mouth: Picture, border: BorderPixels | None, out: Picture) -> None:
    """Resizes a mouth [320, 320, 3] bicubically over all of `out`, with the crop's border around it if one is given."""
    if border is not None:
        border.restore(scratch.crop)
        inner(scratch.crop)[...] = mouth
        mouth = scratch.crop
    cv2.resize(mouth, (out.shape[1], out.shape[0]), dst=out, interpolation=cv2.INTER_CUBIC)
