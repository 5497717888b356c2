"""Pictures for LiveKit against FFmpeg's conversion, which is not ours."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from PIL import Image

from lipsync_adapters.livekit.pictures import read_picture


def jpeg(width: int, height: int) -> tuple[bytes, np.ndarray]:
    """A picture of soft colours, and its pixels as they are decoded: uint8 [height, width, 3], RGB."""
    down, across = np.mgrid[0:height, 0:width]
    pixels = np.stack([across * 255 // width, down * 255 // height, 255 - across * 255 // width], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue(), np.asarray(Image.open(file).convert("RGB"))


@pytest.mark.parametrize("size", [(320, 240), (321, 241)])
def test_a_picture_has_its_colours(size: tuple[int, int]) -> None:
    data, pixels = jpeg(*size)
    frame = read_picture(data)
    assert (frame.width, frame.height) == (320, 240)
    planes = np.frombuffer(frame.data, np.uint8).reshape(360, 320)
    seen = av.VideoFrame.from_ndarray(planes, format="yuv420p").to_ndarray(format="rgb24").astype(int)
    assert np.abs(seen - pixels[:240, :320]).mean() < 2
    assert np.abs(seen - pixels[:240, :320])[8:-8, 8:-8].max() < 12


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_picture(b"no picture")
