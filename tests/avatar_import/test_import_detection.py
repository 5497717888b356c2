"""A bare video, and two models that find a face and its points: real ONNX models whose answers arithmetic gives too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import onnx
import pytest

from avatar_kit.avatar import load_avatar

from ..avatar_detection.conftest import REACH, detector, fixed_landmarker
from .conftest import Layouts, network

WIDTH, HEIGHT = 640, 360
DOWN = (WIDTH - HEIGHT) // 2  # where the picture begins in the detector's square
SHARES = np.random.default_rng(2).uniform(0.1, 0.9, (110, 2))
SHARES[[1, 31], 0], SHARES[52, 1] = (0.2, 0.83), 0.31
FACES = [(240 + 8 * (index % 5), 164) for index in range(12)]


def scene(face: tuple[int, int] | None) -> np.ndarray:
    """White where the face is, one cell of the detector's finest raster."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    if face:
        x, y = face
        picture[y : y + 8, x : x + 8] = 255
    return picture


def square(face: tuple[int, int]) -> list[int]:
    """By the published steps: the box around the mark, the square 1.05 x its larger side, the points as shares of it."""
    raster_x, raster_y = face[0], face[1] + DOWN
    left, up, right, down = (8 * reach for reach in REACH)
    x1, y1, x2, y2 = raster_x - left, raster_y - up - DOWN, raster_x + right, raster_y + down - DOWN
    side = int(1.05 * max(x2 - x1, y2 - y1))
    corner_x, corner_y = (x1 + x2) // 2 - side // 2, (y1 + y2) // 2 - side // 2
    points = SHARES * side + [corner_x, corner_y]
    xmin, xmax, ymin = int(points[1, 0]), int(points[31, 0]), int(points[52, 1])
    return [xmin, ymin, xmax, ymin + xmax - xmin]


def write_video(path: Path, faces: Sequence[tuple[int, int] | None]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for face in faces:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(scene(face), format="bgr24").reformat(format="bgr0")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def models(tmp_path: Path, layouts: Layouts) -> list[object]:
    """The options that name the detector, the landmarker and a network."""
    onnx.save(detector(), tmp_path / "scrfd.onnx")
    onnx.save(fixed_landmarker(SHARES), tmp_path / "pfld.onnx")
    net = layouts.onnx(tmp_path / "nets" / "net.onnx", network())
    return ["--detector", tmp_path / "scrfd.onnx", "--landmarker", tmp_path / "pfld.onnx", "--checkpoint", net]


def rects_in(models_root: Path) -> list[list[int]]:
    return [[rect.x1, rect.y1, rect.x2, rect.y2] for rect in load_avatar(models_root / "ada").rects]


def test_a_bare_video(run, models, tmp_path: Path, models_root: Path) -> None:
    result = run(write_video(tmp_path / "take.mkv", FACES), *models)
    assert result.exit_code == 0, result.output
    assert "landmarks     to be found by scrfd.onnx and pfld.onnx" in result.stdout
    assert "find the landmarks in every frame" in result.stdout
    assert rects_in(models_root) == [square(face) for face in FACES]


def test_frames_without_a_face_are_a_gap(run, models, tmp_path: Path, models_root: Path) -> None:
    still = [FACES[0]] * 12
    seen = [None if index in {3, 4, 9} else face for index, face in enumerate(still)]
    result = run(write_video(tmp_path / "take.mkv", seen), *models)
    assert result.exit_code == 0, result.output
    assert "frames 3 to 4: no landmarks, interpolated from the frames around" in result.stdout
    assert "frame 9: no landmarks, interpolated" in result.stdout
    assert rects_in(models_root) == [square(FACES[0])] * 12


@pytest.mark.parametrize(
    ("faces", "says"),
    [
        ([None] * 4, "take.mkv has no landmarks for frames 0 to 3"),
        ([FACES[0], *[None] * 6, FACES[0]], "take.mkv has no landmarks for frames 1 to 6: at most 5 frames in a row"),
        ([FACES[0], None], "take.mkv has no landmarks for frame 1, at the end of the clip"),
    ],
    ids=["none at all", "a long gap", "none at the end"],
)
def test_faces_that_are_not_found_are_named(refused, models, tmp_path: Path, faces: list, says: str) -> None:
    assert says in refused(write_video(tmp_path / "take.mkv", faces), *models)


def test_differences_from_a_mean_face_need_that_face(run, refused, models, tmp_path: Path, models_root: Path) -> None:
    mean = np.full((110, 2), 0.5)
    onnx.save(fixed_landmarker(SHARES - mean), tmp_path / "pfld.onnx")
    video = write_video(tmp_path / "take.mkv", FACES)
    assert "pfld.onnx: gives differences from a mean face, not positions: put the mean_face.txt" in refused(video, *models)
    (tmp_path / "mean_face.txt").write_text(" ".join("0.5" for _ in range(220)))
    result = run(video, *models)
    assert result.exit_code == 0, result.output
    differences = np.abs(np.array(rects_in(models_root)) - [square(face) for face in FACES])
    assert differences.max() <= 1, "single precision on the edge of a pixel"


@pytest.mark.parametrize("dry", [["--dry-run"], []], ids=["dry", "wet"])
def test_both_models_are_looked_at_before_anything_is_done(refused, models, tmp_path: Path, dry: list[str]) -> None:
    video = write_video(tmp_path / "take.mkv", FACES)
    (tmp_path / "scrfd.onnx").rename(tmp_path / "other.onnx")
    (tmp_path / "pfld.onnx").write_bytes(b"?")
    said = refused(video, *models, *dry)
    assert "scrfd.onnx: is missing" in said
    assert "pfld.onnx: ONNX Runtime cannot load it" in said


def test_the_models_may_not_be_confused(refused, models, tmp_path: Path) -> None:
    models[1], models[3] = models[3], models[1]
    said = refused(write_video(tmp_path / "take.mkv", FACES), *models)
    assert "pfld.onnx: takes 'picture' [1, 3, 192, 192] tensor(float); expected one input [N, 3, 640, 640]" in said
    assert "scrfd.onnx: takes 'picture' [1, 3, 640, 640] tensor(float); expected one input [N, 3, 192, 192]" in said


def test_one_model_alone_is_of_no_use(refused, models, tmp_path: Path) -> None:
    said = refused(write_video(tmp_path / "take.mkv", FACES), *models[:2], *models[4:])
    assert "--detector and --landmarker go together" in said
