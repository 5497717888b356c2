"""Picture files that say of themselves that they are to be shown turned, as telephones write them.

OpenCV's reader, with which the family's tools train, turns them; the services and many other programs show them as they are
stored. So that rectangles and pictures belong together whoever reads them, an avatar has none.
"""

from __future__ import annotations

import cv2
import numpy as np

from avatar_kit.geometry import Picture
from avatar_kit.pictures import check_thoroughly, inspect_picture

_SIGNS = (b"Exif\0\0", b"eXIf")  # what such a header begins with, in JPEG and in PNG


def turned_upright(data: bytes) -> Picture | None:
    """[height, width, 3], turned as the file wants it; None for a file that is stored the way it is to be shown.

    Raises FileProblem for a damaged file, when it has such a header at all: without, nothing is decoded.
    """
    if not any(sign in data for sign in _SIGNS):
        return None
    header = inspect_picture(data)
    check_thoroughly(data, width=header.width, height=header.height)
    stored = np.frombuffer(data, np.uint8)
    upright = np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR), np.uint8)
    as_stored = np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), np.uint8)
    return None if np.array_equal(upright, as_stored) else upright
