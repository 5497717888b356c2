"""Keeps the pixels that encoding a new mouth needs: a region of the picture, without the part that every mouth covers.

For a 182-pixel rectangle in a 1280x720 picture that is about 60 KB a frame; the picture has 2.7 MB.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import CROP_SIZE, Picture, Rect


class Scratch(threading.local):
    """Working memory of one thread, valid until the thread's next frame, so that making a frame allocates nothing large."""

    def __init__(self) -> None:
        self.crop: Picture = np.empty((CROP_SIZE, CROP_SIZE, 3), np.uint8)
        self._flat = np.empty(0, np.uint8)

    def pixels(self, height: int, width: int) -> Picture:
        """Returns [height, width, 3], C-contiguous, with undefined content."""
        size = height * width * 3
        if self._flat.size < size:
            self._flat = np.empty(size, np.uint8)
        return self._flat[:size].reshape(height, width, 3)


# Shared by all avatars: one for each of a thousand would take more memory than their pictures.
scratch = Scratch()


@dataclass(frozen=True, slots=True)
class BorderPixels:
    """Pixels of [height, width, 3] around `hole`, which may be empty."""

    height: int
    width: int
    hole: Rect
    _kept: NDArray[np.uint8]  # the parts that `_parts` names, one after the other

    @classmethod
    def of(cls, pixels: Picture, hole: Rect) -> BorderPixels:
        """Copies the pixels around the hole."""
        height, width = pixels.shape[:2]
        parts = _parts(np.ascontiguousarray(pixels), hole)
        return cls(height, width, hole, np.concatenate([part.reshape(-1) for part in parts]))

    @property
    def nbytes(self) -> int:
        """Counts the bytes held."""
        return self._kept.nbytes

    def restore(self, out: Picture) -> None:
        """Writes the pixels back into `out`, C-contiguous [height, width, 3]; the hole stays as it is."""
        start = 0
        for part in _parts(out, self.hole):
            end = start + part.size
            part[...] = self._kept[start:end].reshape(part.shape)
            start = end


def _parts(pixels: Picture, hole: Rect) -> tuple[NDArray[np.uint8], ...]:
    """Returns views of the bytes before the hole, between its rows, and after it.

    In memory a row's right part and the next row's left part are adjacent, so three copies move everything.
    """
    flat = pixels.reshape(-1)
    if hole.width < 1 or hole.height < 1:
        return (flat,)
    row_bytes = pixels.shape[1] * 3
    start = hole.y1 * row_bytes + hole.x1 * 3
    end = (hole.y2 - 1) * row_bytes + hole.x2 * 3
    rows = flat[start + hole.width * 3 : end].reshape(hole.height - 1, row_bytes)
    return flat[:start], rows[:, : row_bytes - hole.width * 3], flat[end:]


class Feather(NamedTuple):
    """The width in pixels, at each side of the rectangle, of the mix of mouth and background."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a mouth in an array of pixels, and the crop pixels that are pasted with it."""

    rect: Rect
    feather: Feather
    ring: BorderPixels | None
    """The 328 crop around the mouth; None: the mouth alone is stretched over the rectangle."""

    @property
    def covered(self) -> Rect:
        """Returns the part of the rectangle without any background; possibly empty."""
        rect, feather = self.rect, self.feather
        x1, y1 = rect.x1 + feather.left, rect.y1 + feather.top
        return Rect(x1, y1, max(x1, rect.x2 - feather.right), max(y1, rect.y2 - feather.bottom))

    @property
    def nbytes(self) -> int:
        """Counts the bytes held."""
        return self.ring.nbytes if self.ring else 0

    def seen_from(self, x: int, y: int) -> Place:
        """Returns the same place in an array that begins at (x, y) of this one."""
        rect = self.rect
        return Place(Rect(rect.x1 - x, rect.y1 - y, rect.x2 - x, rect.y2 - y), self.feather, self.ring)


@dataclass(frozen=True, slots=True)
class Patch:
    """A region of a frame without the part that the mouth covers, and the mouth's place in it."""

    border: BorderPixels
    place: Place

    @classmethod
    def cut(cls, picture: Picture, region: Rect, place: Place) -> Patch:
        """Copies from `picture`; `place` is relative to it."""
        inside = place.seen_from(region.x1, region.y1)
        return cls(BorderPixels.of(picture[region.y1 : region.y2, region.x1 : region.x2], inside.covered), inside)

    @property
    def nbytes(self) -> int:
        """Counts the bytes held."""
        return self.border.nbytes + self.place.nbytes

    def restore(self) -> Picture:
        """Returns the region in the thread's working memory, [height, width, 3]; pixels that the mouth covers are undefined."""
        pixels = scratch.pixels(self.border.height, self.border.width)
        self.border.restore(pixels)
        return pixels
