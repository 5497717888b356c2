"""Turns picture files whose header asks for it, as telephones write them.

OpenCV's reader, which the family's tools train with, turns them; the services and many other programs show them as stored. An
avatar has none, so that rectangles and pictures belong together for every reader.
"""

from __future__ import annotations

import cv2
import numpy as np

from avatar_kit.geometry import Picture
from avatar_kit.pictures import check_thoroughly, inspect_picture

_SIGNS = (b"Exif\0\0", b"eXIf")  # the beginning of such a header, in JPEG and in PNG


def turned_upright(data: bytes) -> Picture | None:
    """[height, width, 3], turned as the file asks; None for a file that is stored upright.

    Raises FileProblem for a damaged file with such a header. Files without one are not decoded.
    """
    if not any(sign in data for sign in _SIGNS):
        return None
    header = inspect_picture(data)
    check_thoroughly(data, width=header.width, height=header.height)
    stored = np.frombuffer(data, np.uint8)
    upright = np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR), np.uint8)
    as_stored = np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), np.uint8)
    return None if np.array_equal(upright, as_stored) else upright
