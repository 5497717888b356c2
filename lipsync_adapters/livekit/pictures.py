"""Turns the pictures of the server into those of LiveKit."""

from __future__ import annotations

import cv2
import numpy as np
from livekit import rtc


def read_picture(jpeg: bytes) -> rtc.VideoFrame:
    """Decodes a JPEG file to I420 in the limited range, BT.601, which is what LiveKit makes of pixels too.

    An odd row or column at the edge is left out. Raises ValueError for what is no picture.
    """
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError("the server sent a picture that cannot be read")
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    planes = cv2.cvtColor(pixels[:height, :width], cv2.COLOR_BGR2YUV_I420)
    return rtc.VideoFrame(width, height, rtc.VideoBufferType.I420, planes.data)
