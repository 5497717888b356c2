"""Pastes a mouth into a picture, in the three ways that an avatar may name.

reference  the mouth replaces [4:324, 4:324] of the frame's 328 crop, the crop is resized over the rectangle, with a hard edge
feather    the same, mixed into the background along a narrow border
direct     the mouth is stretched over the rectangle: 1.25 % larger than it was trained, as the earlier servers did

A mouth that comes in the rectangle's size has been resized already. A whole one needs the crop's border in the first two ways.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Paste
from avatar_kit.border import BorderPixels
from avatar_kit.fitting import crop_border, fit_mouth, is_smaller
from avatar_kit.geometry import CROP_SIZE, MOUTH_SIZE, Picture, Rect, crop_328
from compositing_service.picture.patch import Feather, Place

Mouth = NDArray[np.uint8]  # [320, 320, 3] BGR, or of the rectangle's size where `is_smaller` says so; may be read-only

# In the 328 crop: the margin of 4, which is background anyway, and 8 pixels of skin, most of which the network saw unmasked.
# A narrower ramp leaves a step, a wider one mixes two jaws.
_FEATHER_CROP_PIXELS = 12
_OPAQUE = np.uint16(256)
_HARD = Feather(0, 0, 0, 0)
_WHOLE = (MOUTH_SIZE, MOUTH_SIZE, 3)


def place_in(rect: Rect, paste: Paste, *, width: int, height: int) -> Place:
    """Returns the place of a frame's mouth in a picture of that size."""
    feather = _feather(rect, width, height) if paste is Paste.FEATHER else _HARD
    return Place(rect, feather)


def ring_around(picture: Picture, rect: Rect) -> BorderPixels:
    """Returns the border of the frame's crop, which `paste_mouth` takes for a mouth that `needs_ring`."""
    return crop_border(crop_328(picture, rect))


def needs_ring(mouth: Mouth, rect: Rect, paste: Paste) -> bool:
    """Returns True if the mouth is pasted with the crop's border around it."""
    return paste is not Paste.DIRECT and not _is_fitted(mouth, rect)


def always_needs_ring(rect: Rect, paste: Paste) -> bool:
    """Returns True if every mouth for the rectangle does, as resizing it beforehand would give it more pixels."""
    return paste is not Paste.DIRECT and not is_smaller(rect)


def check_mouth(mouth: Mouth, rect: Rect) -> None:
    """Raises ValueError for pixels that are no mouth for the rectangle."""
    if mouth.dtype == np.uint8 and (mouth.shape == _WHOLE or _is_fitted(mouth, rect)):
        return
    raise ValueError(f"a mouth of {mouth.dtype} {mouth.shape}, expected uint8 {_WHOLE}, or resized to {rect.width}x{rect.height}")


def refit_mouth(mouth: Mouth, rect: Rect) -> Mouth:
    """Returns a mouth that was made for another picture of the avatar in a size that fits this rectangle."""
    if mouth.shape == _WHOLE or _is_fitted(mouth, rect):
        return mouth
    size = (rect.width, rect.height) if is_smaller(rect) else (MOUTH_SIZE, MOUTH_SIZE)
    return cv2.resize(mouth, size, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def _is_fitted(mouth: Mouth, rect: Rect) -> bool:
    return is_smaller(rect) and mouth.shape == (rect.height, rect.width, 3)


def paste_mouth(pixels: Picture, place: Place, mouth: Mouth, ring: BorderPixels | None) -> None:
    """Pastes into `pixels`, which need background only under the feather. `ring`: for a mouth that needs it.

    In the feather result = (a * mouth + (256 - a) * background + 128) >> 8, where a is the least over the soft sides of
    (2d + 1) * 128 // b: d pixels are between this one and the side, and b is the feather's width there.
    """
    rect = place.rect
    target = pixels[rect.y1 : rect.y2, rect.x1 : rect.x2]
    bands = _bands(rect.width, rect.height, place.feather) if place.feather != _HARD else ()
    backgrounds = [np.multiply(target[band.where], _OPAQUE - band.weights, dtype=np.uint16) for band in bands]
    if _is_fitted(mouth, rect):
        target[...] = mouth
    else:
        fit_mouth(mouth, ring, target)
    for band, background in zip(bands, backgrounds, strict=True):
        part = target[band.where]
        mixed = np.multiply(part, band.weights, dtype=np.uint16)
        mixed += background
        mixed += 128  # 256 * 255 + 128 still fits
        mixed >>= 8
        part[...] = mixed


class _Band(NamedTuple):
    """A part of the rectangle that is mixed, and the mouth's share of 256 there, [rows, columns, 3]."""

    where: tuple[slice, slice]
    weights: NDArray[np.uint16]


# An avatar has about twenty sizes of rectangle, each with about 30 KB of weights.
@lru_cache(maxsize=64)
def _bands(width: int, height: int, feather: Feather) -> tuple[_Band, ...]:
    """Returns the four sides of the border, corners in the upper and lower one; one band if nothing is left between them."""
    weights = np.minimum(_ramp(width, feather.left, feather.right)[None, :], _ramp(height, feather.top, feather.bottom)[:, None])
    every = slice(None)
    if feather.left + feather.right >= width or feather.top + feather.bottom >= height:
        parts = [(every, every)]
    else:
        middle = slice(feather.top, height - feather.bottom)
        parts = [
            (slice(0, feather.top), every),
            (slice(height - feather.bottom, height), every),
            (middle, slice(0, feather.left)),
            (middle, slice(width - feather.right, width)),
        ]
    bands = [_Band(where, np.repeat(weights[where][..., None], 3, axis=2)) for where in parts]
    return tuple(band for band in bands if band.weights.size)


def _ramp(length: int, first: int, last: int) -> NDArray[np.uint16]:
    weights = np.full(length, _OPAQUE, np.uint16)
    for side, width in ((weights, first), (weights[::-1], last)):
        ramp = np.array([(2 * distance + 1) * 128 // width for distance in range(min(width, length))], np.uint16)
        side[: len(ramp)] = np.minimum(side[: len(ramp)], ramp)
    return weights


def _feather(rect: Rect, width: int, height: int) -> Feather:
    """Makes each side as wide as 12 pixels of the crop, at least 1; 0 along the picture's own edge, where no seam shows."""
    across = max(1, round(rect.width * _FEATHER_CROP_PIXELS / CROP_SIZE))
    down = max(1, round(rect.height * _FEATHER_CROP_PIXELS / CROP_SIZE))
    return Feather(
        left=across if rect.x1 > 0 else 0,
        top=down if rect.y1 > 0 else 0,
        right=across if rect.x2 < width else 0,
        bottom=down if rect.y2 < height else 0,
    )
