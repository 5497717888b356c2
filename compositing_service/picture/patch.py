"""The pixels around a mouth that encoding it again needs: a region of the picture, less the part that every mouth covers.

For a 182-pixel rectangle in a 1280x720 picture that is some 60 KB a frame, where the picture has 2.7 MB.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import CROP_SIZE, Picture, Rect


class Scratch(threading.local):
    """Working memory of one thread, valid until the thread's next frame: a frame in the making allocates nothing large."""

    def __init__(self) -> None:
        self.crop: Picture = np.empty((CROP_SIZE, CROP_SIZE, 3), np.uint8)
        self._flat = np.empty(0, np.uint8)

    def pixels(self, height: int, width: int) -> Picture:
        """[height, width, 3], C-contiguous, with whatever was in it before."""
        size = height * width * 3
        if self._flat.size < size:
            self._flat = np.empty(size, np.uint8)
        return self._flat[:size].reshape(height, width, 3)


# One for all avatars: with a thousand of them, memory of their own would be more than their pictures.
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
        """Bytes held."""
        return self._kept.nbytes

    def restore(self, out: Picture) -> None:
        """Writes the pixels back into `out`, C-contiguous [height, width, 3]; the hole stays as it is."""
        start = 0
        for part in _parts(out, self.hole):
            end = start + part.size
            part[...] = self._kept[start:end].reshape(part.shape)
            start = end


def _parts(pixels: Picture, hole: Rect) -> tuple[NDArray[np.uint8], ...]:
    """Views of the bytes before the hole, between its rows, and after it.

    In memory a row's right part and the next row's left part lie together, so three copies move everything.
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
    """Pixels at each side of the rectangle in which the mouth is mixed with the background."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a mouth in an array of pixels, and the part of the frame that is pasted with it."""

    rect: Rect
    feather: Feather
    ring: BorderPixels | None
    """The 328 crop around the mouth; None: the mouth alone is stretched over the rectangle."""

    @property
    def covered(self) -> Rect:
        """The part of the rectangle in which no background remains; possibly empty."""
        rect, feather = self.rect, self.feather
        x1, y1 = rect.x1 + feather.left, rect.y1 + feather.top
        return Rect(x1, y1, max(x1, rect.x2 - feather.right), max(y1, rect.y2 - feather.bottom))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.ring.nbytes if self.ring else 0

    def seen_from(self, x: int, y: int) -> Place:
        """The same place in an array that begins at (x, y) of this one."""
        rect = self.rect
        return Place(Rect(rect.x1 - x, rect.y1 - y, rect.x2 - x, rect.y2 - y), self.feather, self.ring)


@dataclass(frozen=True, slots=True)
class Patch:
    """A region of a frame without the part that the mouth covers, and the mouth's place in it."""

    border: BorderPixels
    place: Place

    @classmethod
    def cut(cls, picture: Picture, region: Rect, place: Place) -> Patch:
        """Copies from `picture`, in which `place` is given."""
        inside = place.seen_from(region.x1, region.y1)
        return cls(BorderPixels.of(picture[region.y1 : region.y2, region.x1 : region.x2], inside.covered), inside)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.border.nbytes + self.place.nbytes

    def restore(self) -> Picture:
        """The region in the thread's working memory, [height, width, 3]; the pixels that the mouth covers are undefined."""
        pixels = scratch.pixels(self.border.height, self.border.width)
        self.border.restore(pixels)
        return pixels
