from __future__ import annotations

from itertools import pairwise

import cv2
import pytest
import turbojpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from compositing_service.picture.jpeg.markers import JpegLayoutError, read_layout, segment_bounds


@settings(max_examples=settings().max_examples * 60 // 100)
@given(width=st.integers(1, 90), height=st.integers(1, 90), interval=st.integers(0, 40), quality=st.integers(1, 100))
def test_the_layout_is_what_the_judge_wrote(judges, make_texture, width, height, interval, quality):
    """Any interval is understood here, also one that does not divide a row."""
    data = judges.turbojpeg(make_texture(width, height, seed=1), quality=quality, restart_interval=interval)
    layout = read_layout(data)
    assert (layout.width, layout.height, layout.restart_interval) == (width, height, interval)
    bounds = segment_bounds(data, layout)
    assert bounds[0][0] == layout.scan_start
    assert bounds[-1][1] == layout.scan_end == len(data) - 2
    for number, ((_, end), (start, _)) in enumerate(pairwise(bounds)):
        assert data[end:start] == bytes((0xFF, 0xD0 + number % 8))


def opencv_jpeg(picture, *extra):
    return cv2.imencode(".jpg", picture, list(extra))[1].tobytes()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[:-2], id="no-end-marker"),
        pytest.param(lambda data: b"\x89PNG" + data[4:], id="not-a-jpeg"),
        pytest.param(lambda data: data[:20] + data[-2:], id="cut-in-the-header"),
        pytest.param(lambda data: data[:2] + b"\x00" + data[3:], id="no-marker-after-the-start"),
        pytest.param(lambda data: data[: data.index(b"\xff\xda")] + b"\xff\xd9", id="no-scan"),
        pytest.param(lambda data: data.replace(b"\xff\xc0", b"\xff\xe5", 1), id="no-frame-header"),
        pytest.param(lambda data: data.replace(b"\xff\xd1", b"\x12\x34", 1), id="a-restart-marker-lost"),
    ],
)
def test_damaged_files_are_refused(judges, make_texture, damage):
    data = judges.opencv(make_texture(64, 64, seed=2), quality=75, restart_interval=4)
    with pytest.raises(JpegLayoutError):
        segment_bounds(damage(data), read_layout(damage(data)))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda picture: opencv_jpeg(picture, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), id="progressive"),
        pytest.param(
            lambda picture: opencv_jpeg(picture, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
            id="4:4:4",
        ),
        pytest.param(lambda picture: opencv_jpeg(picture[:, :, 0].copy()), id="grey"),
        pytest.param(lambda picture: turbojpeg.compress(picture, 75, turbojpeg.SAMP.Y420, arithmetic=True), id="arithmetic"),
    ],
)
def test_files_of_other_kinds_are_refused(make_texture, make):
    with pytest.raises(JpegLayoutError):
        read_layout(make(make_texture(64, 64, seed=3)))
