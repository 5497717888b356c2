"""Faces found by detectors whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from avatar_kit.errors import BrokenAvatar
from avatar_tools.detection.scrfd import FaceDetector, main_face

from .conftest import REACH, Save, detector, fixed_landmarker

WHITE = (255, 255, 255)


def scene(width: int, height: int, *marks: tuple[int, int, int], colour: tuple[int, int, int] = WHITE) -> NDArray[np.uint8]:
    """A black picture with squares at (x, y) of a side."""
    picture = np.zeros((height, width, 3), np.uint8)
    for x, y, side in marks:
        picture[y : y + side, x : x + side] = colour
    return picture


def around(x: float, y: float, *, stride: float, reach: tuple[float, ...] = REACH) -> list[float]:
    left, up, right, down = reach
    return [x - left * stride, y - up * stride, x + right * stride, y + down * stride]


@pytest.mark.parametrize(
    ("size", "mark"),
    [
        ((640, 640), (320, 400, 8)),
        ((1280, 720), (640, 328, 16)),
        ((720, 1280), (328, 640, 16)),
        ((1920, 1080), (960, 516, 24)),
        ((320, 180), (160, 82, 4)),
        ((1280, 300), (800, 118, 16)),
    ],
    ids=["square", "landscape", "portrait", "full HD", "small", "wide"],
)
@pytest.mark.parametrize("options", [{}, {"batch": True, "keypoints": True, "logits": True}], ids=["plain", "everything"])
def test_the_box_is_in_the_pictures_pixels(
    save: Save, size: tuple[int, int], mark: tuple[int, int, int], options: dict[str, Any]
) -> None:
    found = FaceDetector(save("scrfd.onnx", detector(**options))).faces(scene(*size, mark))

    np.testing.assert_allclose(found, [around(mark[0], mark[1], stride=8 * max(size) / 640)], atol=1e-9)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_every_stride(save: Save, stride: int) -> None:
    path = save("scrfd.onnx", detector(strides=[stride], shape=["N", 3, "height", "width"]))

    found = FaceDetector(path).faces(scene(640, 640, (10 * stride, 6 * stride, stride)))

    np.testing.assert_allclose(found, [around(10 * stride, 6 * stride, stride=stride)])


def test_colours_are_in_the_order_red_green_blue(save: Save) -> None:
    seeing_red = FaceDetector(save("scrfd.onnx", detector(rgb=(1, 0, 0))))

    assert len(seeing_red.faces(scene(640, 640, (320, 320, 8), colour=(0, 0, 255)))) == 1
    assert len(seeing_red.faces(scene(640, 640, (320, 320, 8), colour=(255, 255, 0)))) == 0


def test_values_are_normalised_by_the_published_numbers(save: Save) -> None:
    """Brightness 128/255 = 0.502 is a face, 127/255 = 0.498 is none."""
    faces = FaceDetector(save("scrfd.onnx", detector())).faces

    assert len(faces(scene(640, 640, (320, 320, 8), colour=(128, 128, 128)))) == 1
    assert len(faces(scene(640, 640, (320, 320, 8), colour=(127, 127, 127)))) == 0


def test_no_face(save: Save) -> None:
    found = FaceDetector(save("scrfd.onnx", detector())).faces(scene(1280, 720))

    assert found.shape == (0, 4)
    assert main_face(found, width=1280, height=720) is None


def test_one_face_seen_by_many_cells_is_one(save: Save) -> None:
    picture = scene(640, 640, (304, 304, 32), colour=(200, 200, 200))
    picture[312:320, 320:328] = 255

    np.testing.assert_allclose(
        FaceDetector(save("scrfd.onnx", detector())).faces(picture), [around(320, 312, stride=8)], atol=1e-9
    )


def test_several_faces(save: Save) -> None:
    large = (10.0, 12.0, 14.0, 16.0)
    path = save("scrfd.onnx", detector(right_reach=large))

    found = FaceDetector(path).faces(scene(640, 640, (160, 320, 8), (440, 320, 8)))

    assert sorted(found.tolist()) == sorted([around(160, 320, stride=8), around(440, 320, stride=8, reach=large)])
    main = main_face(found, width=640, height=640)
    assert main is not None
    assert main.tolist() == around(440, 320, stride=8, reach=large)


@pytest.mark.parametrize("nonsense", [(-5, -5, -5, -5), (np.nan, 1, 1, 1), (900, 900, 900, 900), (0, 0, 0, 0)], ids=str)
def test_boxes_that_are_none_are_no_faces(save: Save, nonsense: tuple[float, ...]) -> None:
    path = save("scrfd.onnx", detector(right_reach=nonsense))

    found = FaceDetector(path).faces(scene(640, 640, (160, 320, 8), (440, 320, 8)))

    assert found.tolist() == [around(160, 320, stride=8)]


@pytest.mark.parametrize(
    ("boxes", "chosen"),
    [
        ([[300, 300, 340, 340], [300, 300, 400, 400]], 1),
        ([[270, 270, 370, 370], [0, 0, 104, 104]], 0),
        ([[300, 300, 340, 340], [0, 220, 200, 420]], 1),
        ([[600, 600, 700, 700]], 0),
    ],
    ids=["larger", "central of two about as large", "much larger, off the middle", "only one, in the corner"],
)
def test_the_main_face(boxes: list[list[float]], chosen: int) -> None:
    main = main_face(np.array(boxes, np.float64), width=640, height=640)

    assert main is not None
    assert main.tolist() == boxes[chosen]


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (detector(columns=3), r"gives \[12800, 1\], .*; a face detector of two anchors a location gives \[12800, 1\] and"),
        (fixed_landmarker(np.zeros(220)), r"takes 'picture' \[1, 3, 192, 192\] .*; expected one input \[N, 3, 640, 640\]"),
        (detector(scale=np.nan), "gives scores that are not finite numbers"),
        (b"text", "ONNX Runtime cannot load it"),
        (b"", "ONNX Runtime cannot load it"),
        (detector().SerializeToString()[:-1000], "ONNX Runtime cannot load it"),
        (None, "is missing"),
    ],
    ids=["no boxes", "another input", "not numbers", "text", "empty", "truncated", "missing"],
)
def test_what_is_no_detector(tmp_path: Path, model: onnx.ModelProto | bytes | None, sentence: str) -> None:
    path = tmp_path / "scrfd.onnx"
    if model is not None:
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())

    with pytest.raises(BrokenAvatar, match=rf"^scrfd\.onnx: {sentence}") as caught:
        FaceDetector(path)
    assert str(tmp_path) not in str(caught.value)
