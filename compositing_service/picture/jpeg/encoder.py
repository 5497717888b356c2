"""The one way in which this service encodes a picture.

OpenCV's libjpeg-turbo, because it takes a restart interval and releases the GIL while it works. Every setting that changes the
bytes is pinned here; the Huffman tables are the standard ones, so that segments of two pictures fit in one file.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

MCU_SIZE = 16  # pixels a side, at 4:2:0


def encode(picture: NDArray[np.uint8], *, quality: int, restart_interval: int) -> NDArray[np.uint8]:
    """Encodes uint8 [height, width, 3] BGR as a baseline 4:2:0 JPEG with a marker every `restart_interval` MCUs (0: none).

    An array whose pixels are contiguous within each row is read in place, such as a view of a larger picture. Raises ValueError
    for a quality outside 1-100.
    """
    done, data = cv2.imencode(".jpg", picture, _parameters(quality, restart_interval))
    if not done:
        raise RuntimeError(f"the JPEG encoder refused a picture of shape {picture.shape}")
    return data


@lru_cache(maxsize=1024)
def _parameters(quality: int, restart_interval: int) -> tuple[int, ...]:
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality {quality} is not within 1-100")
    return (
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_RST_INTERVAL,
        restart_interval,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        cv2.IMWRITE_JPEG_OPTIMIZE,
        0,
        cv2.IMWRITE_JPEG_PROGRESSIVE,
        0,
    )
