"""Picture files that say of themselves that they are to be shown turned, as telephones write them.

OpenCV's reader, with which the family's tools train and find rectangles, turns them. The frames of format version 1 have none: an
import turns them upright. Where pictures are served as they were found, they are turned when they are read.
"""

from __future__ import annotations

import cv2
import numpy as np

from avatar_kit.geometry import Picture
from avatar_kit.pictures import check_size, check_thoroughly, decode_picture, inspect_picture, pixels_alone

_SIGNS = (b"Exif\0\0", b"eXIf")  # what such a header begins with, in JPEG and in PNG


def turned_upright(data: bytes) -> Picture | None:
    """[height, width, 3], turned as the file wants it; None for a file that is stored the way it is to be shown.

    Raises FileProblem for a damaged file, when it has such a header at all: without, nothing is decoded.
    """
    if not any(sign in data for sign in _SIGNS):
        return None
    header = inspect_picture(data)
    check_thoroughly(data, width=header.width, height=header.height)
    stored = np.frombuffer(pixels_alone(data), np.uint8)
    upright = np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR), np.uint8)
    as_stored = np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), np.uint8)
    return None if np.array_equal(upright, as_stored) else upright


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height, the way up that the picture is to be shown. Raises FileProblem."""
    turned = turned_upright(data)
    if turned is not None:
        return turned.shape[1], turned.shape[0]
    header = inspect_picture(data)
    return header.width, header.height


def decode_upright(data: bytes, *, width: int, height: int) -> Picture:
    """[height, width, 3] of a file of exactly that size the way up that it is to be shown. Raises FileProblem."""
    turned = turned_upright(data)
    if turned is None:
        return decode_picture(data, width=width, height=height)
    check_size(turned.shape[1], turned.shape[0], width, height)
    return turned


def check_upright(data: bytes, *, width: int, height: int) -> None:
    """What `decode_upright` does, and in any case the strict decoder over JPEG data. Raises FileProblem."""
    turned = turned_upright(data)
    if turned is None:
        check_thoroughly(data, width=width, height=height)
    else:
        check_size(turned.shape[1], turned.shape[0], width, height)
