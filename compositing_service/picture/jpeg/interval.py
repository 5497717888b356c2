"""Chooses the number of MCUs between restart markers.

Few: the segments hug the mouth, so little is encoded again and few pixels are kept, but each marker costs bytes in every frame
sent. Many: the reverse. The choice depends on the avatar's files alone, not on configuration, so every replica makes the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import Picture, Rect
from compositing_service.picture.jpeg.encoder import MCU_SIZE, encode

# Quality of the measured files; 75 is what services send by default.
MEASURED_QUALITY = 75
# A file may grow by this much for its markers.
MAX_GROWTH_PERCENT = 4
# Regions that differ by less cost about the same to encode: then the larger interval and smaller file win.
REGION_TOLERANCE_PERCENT = 5
# Beyond this share of the picture, what splicing saves no longer pays for the markers.
MAX_REGION_PERCENT = 75


def choose_restart_interval(sample: Picture, rects: Sequence[Rect]) -> int:
    """Returns the restart interval for an avatar's pictures; 0 when encoding them whole is better.

    Of the divisors of the MCUs in a row whose file of `sample`, a frame, is at most 4 % larger than without markers, the one
    whose regions around `rects` are smallest in the mean; among those within 5 % of it, the largest. One segment a row is always
    allowed, also where it grows the file more (small or empty pictures). 0 when the chosen regions cover over 75 % of it.
    """
    height, width = sample.shape[:2]
    mcus_per_row = -(-width // MCU_SIZE)
    corners = np.array([(rect.x1, rect.y1, rect.x2, rect.y2) for rect in rects], dtype=np.int64)
    limit = _file_bytes(sample, 0) * (100 + MAX_GROWTH_PERCENT)
    affordable = [
        interval
        for interval in range(1, mcus_per_row)
        if mcus_per_row % interval == 0 and _file_bytes(sample, interval) * 100 <= limit
    ]
    areas = {interval: _region_area(corners, interval, width=width, height=height) for interval in (*affordable, mcus_per_row)}
    smallest = min(areas.values())
    chosen = max(interval for interval, area in areas.items() if area * 100 <= smallest * (100 + REGION_TOLERANCE_PERCENT))
    return 0 if areas[chosen] * 100 > width * height * len(rects) * MAX_REGION_PERCENT else chosen


def _file_bytes(picture: Picture, restart_interval: int) -> int:
    return len(encode(picture, quality=MEASURED_QUALITY, restart_interval=restart_interval))


def _region_area(corners: NDArray[np.int64], interval: int, *, width: int, height: int) -> int:
    """Counts the pixels of the regions around all rectangles together, with the bounds of `region_around`."""
    step = np.array([MCU_SIZE * interval, MCU_SIZE])
    starts = corners[:, :2] // step * step
    ends = np.minimum(-(-corners[:, 2:] // step) * step, (width, height))
    return int(np.prod(ends - starts, axis=1).sum())
