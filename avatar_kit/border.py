"""Keeps the pixels around a hole, which are what is left of a picture once something is put into the hole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import Picture, Rect


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
