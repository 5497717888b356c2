"""Replaces the segments around a rectangle in a stored picture.

The result has the same bytes as encoding the whole changed picture: the same tables, the same segments outside the region, and
inside it segments that depend only on their own pixels.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import Picture, Rect
from compositing_service.picture.jpeg.encoder import MCU_SIZE, encode
from compositing_service.picture.jpeg.markers import JpegLayoutError, read_layout, segment_bounds, split_segments

# Entropy-coded data has no such marker: it ends a file.
_END = b"\xff\xd9"
_MARKERS = {number: bytes((0xFF, number)) for number in (*range(0xD0, 0xD8), _END[1])}


@dataclass(frozen=True, slots=True)
class Region:
    """Whole restart segments around a rectangle: `pixels` of the picture, and the segments' numbers, row by row."""

    pixels: Rect
    segments: tuple[int, ...]


def region_around(rect: Rect, *, width: int, height: int, restart_interval: int) -> Region:
    """Returns the smallest region around `rect` in a picture of that size; the whole picture when `restart_interval` is 0.

    It ends at the picture's right and lower edge at most: there the encoder pads a part of the picture as it pads the whole.
    Raises ValueError when the interval does not divide the MCUs of a row, or the rectangle is empty or leaves the picture.
    """
    if not (0 <= rect.x1 < rect.x2 <= width and 0 <= rect.y1 < rect.y2 <= height):
        raise ValueError(f"{rect} is empty or does not lie within {width}x{height}")
    if restart_interval == 0:
        return Region(Rect(0, 0, width, height), (0,))
    mcus_per_row = -(-width // MCU_SIZE)
    if mcus_per_row % restart_interval:
        raise ValueError(f"restart interval {restart_interval} does not divide the {mcus_per_row} MCUs of a row")
    segments_per_row = mcus_per_row // restart_interval
    segment_width = MCU_SIZE * restart_interval
    left, right = rect.x1 // segment_width, -(-rect.x2 // segment_width)
    top, bottom = rect.y1 // MCU_SIZE, -(-rect.y2 // MCU_SIZE)
    pixels = Rect(left * segment_width, top * MCU_SIZE, min(right * segment_width, width), min(bottom * MCU_SIZE, height))
    rows = range(top * segments_per_row, bottom * segments_per_row, segments_per_row)
    return Region(pixels, tuple(row + column for row in rows for column in range(left, right)))


@dataclass(frozen=True, slots=True)
class SpliceableJpeg:
    """A whole JPEG file, and the bounds in it of the stretches that `splice` replaces: segments of the region side by side."""

    data: bytes
    scan_start: int
    cuts: array[int]  # start and end of each stretch in turn, the markers at its ends left out
    markers: bytes  # after each segment of the region: the number of the marker within its stretch, or of _END

    @property
    def nbytes(self) -> int:
        """Counts the bytes held."""
        return len(self.data) + self.cuts.itemsize * len(self.cuts) + len(self.markers)

    def scan(self, patch: NDArray[np.uint8]) -> bytes:
        """Returns the entropy-coded data of `patch`, new pixels of the region encoded with the same settings.

        It has the markers of this file, and _END between stretches. Raises JpegLayoutError for a patch of another size.
        """
        bodies = split_segments(patch[self.scan_start : -2].tobytes())
        if len(bodies) != len(self.markers):
            raise JpegLayoutError(f"the patch has {len(bodies)} restart segments, its region {len(self.markers)}")
        parts = [part for body, marker in zip(bodies, self.markers, strict=True) for part in (body, _MARKERS[marker])]
        return b"".join(parts[:-1])

    def splice(self, scan: bytes) -> bytes:
        """Returns the file with the region's segments replaced by those in `scan`. All other bytes come from the stored file."""
        return b"".join(self.pieces(scan))

    def pieces(self, scan: bytes) -> list[bytes | memoryview]:
        """Returns what `splice` does in pieces, which take little memory of their own: most are parts of the stored file."""
        stored, cuts = memoryview(self.data), self.cuts
        pieces: list[bytes | memoryview] = []
        position = 0
        for stretch, start, end in zip(scan.split(_END), cuts[::2], cuts[1::2], strict=True):
            pieces += (stored[position:start], stretch)
            position = end
        pieces.append(stored[position:])
        return pieces


def encode_spliceable(picture: Picture, region: Region, *, quality: int, restart_interval: int) -> SpliceableJpeg:
    """Encodes a whole picture, ready for new segments in `region`."""
    data = encode(picture, quality=quality, restart_interval=restart_interval).tobytes()
    layout = read_layout(data)
    height, width = picture.shape[:2]
    if (layout.width, layout.height, layout.restart_interval) != (width, height, restart_interval):
        raise JpegLayoutError(f"the encoder wrote {layout}")
    bounds = segment_bounds(data, layout)
    cuts, markers = array("I"), bytearray()
    for number, following in zip(region.segments, (*region.segments[1:], None), strict=True):
        start, end = bounds[number]
        if not markers or markers[-1] == _END[1]:
            cuts.append(start)
        if following == number + 1:
            markers.append(data[end + 1])
        else:
            markers.append(_END[1])
            cuts.append(end)
    return SpliceableJpeg(data, layout.scan_start, cuts, bytes(markers))
