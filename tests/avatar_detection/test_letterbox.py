"""Pictures in the detector's square, and boxes back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_tools.detection.letterbox import letterbox

SIZES = st.integers(16, 8192)


@pytest.mark.parametrize(
    ("size", "place"),
    [
        ((1280, 720), (0, 140, 640, 360)),
        ((720, 1280), (140, 0, 360, 640)),
        ((640, 640), (0, 0, 640, 640)),
        ((320, 192), (0, 128, 640, 384)),
        ((1920, 1080), (0, 140, 640, 360)),
    ],
    ids=["landscape", "portrait", "exact", "enlarged", "full HD"],
)
def test_where_a_picture_lies(size: tuple[int, int], place: tuple[int, int, int, int]) -> None:
    box = letterbox(*size)
    picture = np.full((size[1], size[0], 3), (10, 20, 30), np.uint8)

    square = box.enclose(picture)

    left, top, width, height = place
    assert square.shape == (640, 640, 3)
    assert (square[top : top + height, left : left + width] == (10, 20, 30)).all()
    assert (square.astype(int).sum(axis=2) > 0).sum() == width * height


@given(SIZES, SIZES)
def test_any_picture_fits_and_fills_one_direction(width: int, height: int) -> None:
    box = letterbox(width, height)

    assert max(box.width, box.height) == 640
    assert min(box.width, box.height) >= 1
    assert 0 <= 640 - box.width - 2 * box.left <= 1
    assert 0 <= 640 - box.height - 2 * box.top <= 1
    assert abs(box.width * height - box.height * width) <= max(width, height) / 2 + 1 or min(box.width, box.height) == 1


@given(SIZES, SIZES, st.floats(0, 1), st.floats(0, 1))
def test_the_pictures_corners_and_shares_come_back(width: int, height: int, across: float, down: float) -> None:
    box = letterbox(width, height)
    inside = [box.left, box.top, box.left + across * box.width, box.top + down * box.height]

    found = box.boxes_in_picture(np.array([inside]))

    np.testing.assert_allclose(found, [[0, 0, across * width, down * height]], atol=1e-6)
