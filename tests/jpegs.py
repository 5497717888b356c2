"""JPEG files as OpenCV reads them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def decoded(jpeg: bytes) -> NDArray[np.uint8]:
    """The picture, [height, width, 3] B, G, R; fails for what is none."""
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.asarray(picture, np.uint8)
