from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_kit.geometry import CROP_SIZE, MARGIN, MOUTH_SIZE, Mask, Rect, crop_328, inner, rect_from_landmarks

coordinates = st.integers(-100, 300)


def test_the_default_mask_hides_what_training_hides() -> None:
    kept = Mask().kept()
    assert kept.dtype == np.float32
    assert kept.shape == (320, 320)
    rows, columns = np.nonzero(kept == 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 309, 5, 314)
    assert (kept == 0).sum() == 305 * 310
    assert set(np.unique(kept)) == {0.0, 1.0}


@pytest.mark.parametrize("mask", [(-1, 0, 10, 10), (0, 0, 321, 10), (0, 20, 10, 301), (0, 0, 0, 10), (0, 0, 10, -1)])
def test_a_mask_outside_the_picture_is_an_error(mask: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="320x320"):
        Mask(*mask)


def test_a_rectangle_of_the_crops_size_is_cut_out_unchanged() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8)
    crop = crop_328(picture, Rect(100, 50, 428, 378))
    assert np.array_equal(crop, picture[50:378, 100:428])
    assert np.array_equal(inner(crop), picture[54:374, 104:424])


def test_a_crop_keeps_columns_rows_and_colours_apart() -> None:
    picture = np.zeros((90, 120, 3), np.uint8)
    picture[..., 0] = np.arange(120)[None, :] * 2
    picture[..., 1] = np.arange(90)[:, None] * 2
    picture[..., 2] = 77
    crop = crop_328(picture, Rect(20, 10, 60, 90)).astype(int)
    assert (crop[..., 2] == 77).all()
    middle = (np.arange(CROP_SIZE) + 0.5) / CROP_SIZE
    assert np.abs(crop[164, :, 0] - 2 * (20 + 40 * middle - 0.5))[8:-8].max() <= 1
    assert np.abs(crop[:, 164, 1] - 2 * (10 + 80 * middle - 0.5))[8:-8].max() <= 1


def test_the_inner_picture_is_a_view_in_the_middle() -> None:
    crop = np.zeros((CROP_SIZE, CROP_SIZE, 3), np.uint8)
    inner(crop)[:] = 1
    assert inner(crop).shape == (MOUTH_SIZE, MOUTH_SIZE, 3)
    assert crop[..., 0].sum() == MOUTH_SIZE * MOUTH_SIZE
    assert crop[MARGIN, MARGIN, 0] == 1
    assert crop[MARGIN - 1].sum() == 0


@given(coordinates, coordinates, coordinates, coordinates)
def test_a_clamped_rectangle_is_the_common_part(x1: int, y1: int, x2: int, y2: int) -> None:
    rect, (width, height) = Rect(x1, y1, x2, y2), (160, 120)
    clamped = rect.clamped(width, height)
    inside = {(x, y) for x in range(max(x1, 0), min(x2, width)) for y in range(max(y1, 0), min(y2, height))}
    covered = {(x, y) for x in range(clamped.x1, clamped.x2) for y in range(clamped.y1, clamped.y2)}
    assert covered == inside
    assert clamped.width >= 0
    assert clamped.height >= 0


@given(coordinates, coordinates, coordinates, coordinates)
def test_a_rectangle_is_good_when_all_of_it_is_in_the_picture(x1: int, y1: int, x2: int, y2: int) -> None:
    picture = np.zeros((120, 160), bool)
    good = x1 >= 0 and y1 >= 0 and picture[y1:y2, x1:x2].shape == (y2 - y1, x2 - x1) and x2 > x1 and y2 > y1
    assert (Rect(x1, y1, x2, y2).problem(160, 120) is None) == good


def test_landmarks_span_a_square() -> None:
    points = np.zeros((110, 2))
    points[1], points[31], points[52] = (540.9, 400.2), (722.1, 410.7), (630.4, 333.9)
    assert rect_from_landmarks(points) == Rect(540, 333, 722, 333 + 182)


def test_landmarks_are_cut_towards_zero_also_outside_the_picture() -> None:
    points = np.zeros((53, 2))
    points[1], points[31], points[52] = (-3.7, 0), (99.9, 0), (0, -0.9)
    assert rect_from_landmarks(points) == Rect(-3, 0, 99, 102)


@pytest.mark.parametrize(
    "points", [np.zeros((52, 2)), np.zeros((60, 3)), np.zeros(110), np.full((60, 2), np.nan)], ids=["few", "3d", "flat", "nan"]
)
def test_landmarks_that_span_nothing_are_an_error(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="landmarks"):
        rect_from_landmarks(points)
