"""Reads picture files that are stored turned, as phones write them, with an EXIF orientation.

OpenCV's reader, which the family's tools use to train and to find rectangles, turns them. Pictures of format version 1 are never
stored turned: an import turns them upright. Pictures that are served unimported are turned when they are read.
"""

from __future__ import annotations

import cv2
import numpy as np

from avatar_kit.geometry import Picture
from avatar_kit.pictures import check_size, decode_picture, inspect_picture, pixels_alone

_SIGNS = (b"Exif\0\0", b"eXIf")  # beginning of an EXIF header, in JPEG and in PNG


def turned_upright(data: bytes) -> Picture | None:
    """Returns [height, width, 3], turned upright; None for a file that is stored upright.

    Raises FileProblem for a damaged file with an EXIF header. Without such a header nothing is decoded.
    """
    if not any(sign in data for sign in _SIGNS):
        return None
    header = inspect_picture(data)
    as_stored = decode_picture(data, width=header.width, height=header.height, thorough=True)
    upright = np.asarray(cv2.imdecode(np.frombuffer(pixels_alone(data), np.uint8), cv2.IMREAD_COLOR), np.uint8)
    return None if np.array_equal(upright, as_stored) else upright


def upright_size(data: bytes) -> tuple[int, int]:
    """Returns width and height after turning the picture upright. Raises FileProblem."""
    turned = turned_upright(data)
    if turned is not None:
        return turned.shape[1], turned.shape[0]
    header = inspect_picture(data)
    return header.width, header.height


def decode_upright(data: bytes, *, width: int, height: int, thorough: bool = False) -> Picture:
    """Decodes a file of exactly that upright size to [height, width, 3], turned upright, as `decode_picture` does."""
    turned = turned_upright(data)
    if turned is None:
        return decode_picture(data, width=width, height=height, thorough=thorough)
    check_size(turned.shape[1], turned.shape[0], width, height)
    return turned
