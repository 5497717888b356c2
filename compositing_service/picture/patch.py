"""Keeps the pixels that encoding a new mouth needs: a region of the picture, without the part that every mouth covers.

For a 182-pixel rectangle in a 1280x720 picture that is about 50 KB a frame; the picture has 2.7 MB.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from avatar_kit.border import BorderPixels
from avatar_kit.geometry import Picture, Rect


class Scratch(threading.local):
    """Working memory of one thread, valid until the thread's next frame, so that making a frame allocates nothing large."""

    def __init__(self) -> None:
        self._flat = np.empty(0, np.uint8)

    def pixels(self, height: int, width: int) -> Picture:
        """Returns [height, width, 3], C-contiguous, with undefined content."""
        size = height * width * 3
        if self._flat.size < size:
            self._flat = np.empty(size, np.uint8)
        return self._flat[:size].reshape(height, width, 3)


# Shared by all avatars: one for each of a thousand would take more memory than their pictures.
scratch = Scratch()


class Feather(NamedTuple):
    """The width in pixels, at each side of the rectangle, of the mix of mouth and background."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a mouth in an array of pixels."""

    rect: Rect
    feather: Feather

    @property
    def covered(self) -> Rect:
        """Returns the part of the rectangle without any background; possibly empty."""
        rect, feather = self.rect, self.feather
        x1, y1 = rect.x1 + feather.left, rect.y1 + feather.top
        return Rect(x1, y1, max(x1, rect.x2 - feather.right), max(y1, rect.y2 - feather.bottom))

    def seen_from(self, x: int, y: int) -> Place:
        """Returns the same place in an array that begins at (x, y) of this one."""
        rect = self.rect
        return Place(Rect(rect.x1 - x, rect.y1 - y, rect.x2 - x, rect.y2 - y), self.feather)


@dataclass(frozen=True, slots=True)
class Patch:
    """A region of a frame without the part that the mouth covers, and the mouth's place in it."""

    border: BorderPixels
    place: Place
    ring: BorderPixels | None
    """The border of the 328 crop, 16 KB; None while it is not needed: mouths that are resized before they come bring it."""

    @classmethod
    def cut(cls, picture: Picture, region: Rect, place: Place, ring: BorderPixels | None = None) -> Patch:
        """Copies from `picture`; `place` is relative to it."""
        inside = place.seen_from(region.x1, region.y1)
        return cls(BorderPixels.of(picture[region.y1 : region.y2, region.x1 : region.x2], inside.covered), inside, ring)

    @property
    def nbytes(self) -> int:
        """Counts the bytes held."""
        return self.border.nbytes + (self.ring.nbytes if self.ring else 0)

    def restore(self) -> Picture:
        """Returns the region in the thread's working memory, [height, width, 3]; pixels that the mouth covers are undefined."""
        pixels = scratch.pixels(self.border.height, self.border.width)
        self.border.restore(pixels)
        return pixels
