"""From pictures to landmarks, through both models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from avatar_kit.errors import AvatarError, BrokenAvatar
from avatar_tools.detection import find_landmarks
from avatar_tools.detection.landmarker import Landmarker, square_around

from .conftest import Save, detector, fixed_landmarker, reading_landmarker

POINTS = np.random.default_rng(2).uniform(0.1, 0.9, (110, 2))


def ramps(width: int, height: int, mark: tuple[int, int, int] | None) -> NDArray[np.uint8]:
    """Blue grows to the right, red downwards; the mark is green, and so is nothing else."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(150, 250, width)[None, :]
    picture[..., 2] = np.linspace(150, 250, height)[:, None]
    if mark:
        x, y, side = mark
        picture[y : y + side, x : x + side, 1] = 255
    return picture


def read_off(picture: NDArray[np.uint8], left: int, top: int, side: int) -> NDArray[np.float64]:
    """Returns the view of the reading landmarker in that square, in the picture's pixels."""
    margin = 2 * side
    framed = cv2.copyMakeBorder(picture, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    square = framed[top + margin : top + margin + side, left + margin : left + margin + side]
    blocks = cv2.resize(square, (192, 192))[:190, :187].reshape(10, 19, 11, 17, 3).mean(axis=(1, 3)) / 255
    return blocks.reshape(110, 3)[:, [0, 2]] * side + [left, top]


@pytest.mark.parametrize(
    ("size", "mark", "square"),
    [
        ((640, 640), (320, 400, 8), (270, 350, 117)),
        ((1280, 720), (640, 328, 16), (539, 227, 235)),
        ((720, 1280), (328, 640, 16), (227, 539, 235)),
        ((1280, 720), (32, 40, 16), (-69, -61, 235)),
        ((720, 1280), (664, 1216, 16), (563, 1115, 235)),
    ],
    ids=["square", "landscape", "portrait", "over the upper left edge", "over the lower right edge"],
)
def test_the_landmarker_sees_the_square_around_the_face(
    save: Save, size: tuple[int, int], mark: tuple[int, int, int], square: tuple[int, int, int]
) -> None:
    """A box reaches 5, 6, 7 and 8 strides of 8 or 16 pixels; `square` is 1.05 x its height around its middle."""
    models = {"detector": save("scrfd.onnx", detector(rgb=(0, 1, 0))), "landmarker": save("pfld.onnx", reading_landmarker())}
    picture = ramps(*size, mark)

    (points,) = find_landmarks([picture], **models)

    assert points is not None
    assert (points.shape, points.dtype) == ((110, 2), np.float32)
    np.testing.assert_allclose(points, read_off(picture, *square), atol=0.01)


def test_pictures_without_a_face_have_none(save: Save) -> None:
    pictures = [ramps(640, 640, mark) for mark in [None, (320, 400, 8), None, (80, 96, 8)]]

    found = list(
        find_landmarks(
            pictures,
            detector=save("scrfd.onnx", detector(rgb=(0, 1, 0))),
            landmarker=save("pfld.onnx", fixed_landmarker(POINTS)),
        )
    )

    assert [points is not None for points in found] == [False, True, False, True]
    np.testing.assert_allclose(found[1], POINTS * 117 + [270, 350], atol=1e-3)
    np.testing.assert_allclose(found[3], POINTS * 117 + [30, 46], atol=1e-3)


def test_pictures_are_taken_one_by_one_and_after_the_models_were_tried(save: Save, tmp_path: Path) -> None:
    taken = []

    def pictures() -> Iterator[NDArray[np.uint8]]:
        for number in range(3):
            taken.append(number)
            yield ramps(640, 640, None)

    models = {"detector": save("scrfd.onnx", detector()), "landmarker": save("pfld.onnx", fixed_landmarker(POINTS))}
    found = find_landmarks(pictures(), **models)
    assert taken == []
    next(found)
    assert taken == [0]

    with pytest.raises(BrokenAvatar, match=r"none\.onnx: is missing"):
        find_landmarks(pictures(), detector=models["detector"], landmarker=tmp_path / "none.onnx")
    assert taken == [0]


FACE = np.array([100.9, 50.2, 199.9, 170.7])


def test_the_square_is_rounded_as_the_family_does() -> None:
    """100, 50, 199, 170: the middle is 149, 110, the side 1.05 x 120."""
    assert square_around(FACE) == (149 - 63, 110 - 63, 126)


@given(st.lists(st.floats(-500, 500), min_size=2, max_size=2), st.floats(1, 400), st.floats(1, 400))
def test_the_square_holds_the_middle_of_the_face(corner: list[float], width: float, height: float) -> None:
    x, y = corner
    left, top, side = square_around(np.array([x, y, x + width, y + height]))

    assert abs(left + side / 2 - (x + width / 2)) <= 2
    assert abs(top + side / 2 - (y + height / 2)) <= 2
    assert abs(side - 1.05 * max(width, height)) <= 3.2


def test_differences_from_a_mean_face_need_the_mean_face(save: Save, tmp_path: Path) -> None:
    mean_face = np.random.default_rng(3).uniform(0.3, 0.7, (110, 2))
    path = save("pfld.onnx", fixed_landmarker(POINTS - mean_face))
    blank = np.zeros((300, 400, 3), np.uint8)

    with pytest.raises(BrokenAvatar, match=r"pfld\.onnx: gives differences from a mean face, .* put the mean_face\.txt of"):
        Landmarker(path).landmarks(blank, FACE)

    (tmp_path / "mean_face.txt").write_text(" ".join(str(value) for value in mean_face.ravel()))
    np.testing.assert_allclose(Landmarker(path).landmarks(blank, FACE), POINTS * 126 + [86, 47], atol=1e-3)


def test_a_mean_face_is_not_added_twice(save: Save, tmp_path: Path) -> None:
    (tmp_path / "mean_face.txt").write_text(" ".join(["0.5"] * 220))

    points = Landmarker(save("pfld.onnx", fixed_landmarker(POINTS))).landmarks(np.zeros((300, 400, 3), np.uint8), FACE)

    np.testing.assert_allclose(points, POINTS * 126 + [86, 47], atol=1e-3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("0.5 0.5", "has 2 numbers; expected 220"), ("a b", "is not a number"), ("nan " * 220, "expected 220 finite ones")],
    ids=["short", "text", "not numbers"],
)
def test_a_bad_mean_face(save: Save, tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "mean_face.txt").write_text(text)
    with pytest.raises(BrokenAvatar, match=rf"^mean_face\.txt: .*{sentence}"):
        Landmarker(save("pfld.onnx", fixed_landmarker(POINTS)))


def test_what_is_no_landmarker(save: Save) -> None:
    for model, sentence in [
        (fixed_landmarker(np.zeros(136)), r"gives \[1, 136\]; a landmarker of 110 points gives one \[1, 220\]"),
        (fixed_landmarker(np.full(220, np.nan)), "gives landmarks that are not finite numbers"),
        (fixed_landmarker(POINTS, shape=(4, 3, 192, 192)), r"expected one input \[N, 3, 192, 192\]"),
        (detector(), r"takes 'picture' \[1, 3, 640, 640\]"),
    ]:
        with pytest.raises(BrokenAvatar, match=rf"^pfld\.onnx: .*{sentence}"):
            Landmarker(save("pfld.onnx", model))


def test_without_onnx_runtime_the_extras_are_named(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = save("scrfd.onnx", detector())
    with pytest.raises(
        AvatarError, match=r"scrfd\.onnx: running a model needs ONNX Runtime: install the extra \[cpu\] or \[gpu\]"
    ):
        find_landmarks([], detector=path, landmarker=path)
