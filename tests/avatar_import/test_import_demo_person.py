"""The demo person, laid out as a training tree and as a video, comes out of the import as she went in."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from avatar_kit.avatar import Avatar, load_avatar
from avatar_tools.demo import build_demo
from avatar_tools.verify import verify_avatar

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def person(tmp_path_factory) -> Avatar:
    return build_demo(tmp_path_factory.mktemp("demo"))


def landmarks_of(person: Avatar, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for index, rect in enumerate(person.rects):
        points = np.full((110, 2), 300.25)
        points[1, 0], points[31, 0], points[52, 1] = rect.x1 + 0.9, rect.x2 + 0.1, rect.y1 + 0.5
        (folder / f"{index}.lms").write_text("".join(f"{x} {y}\n" for x, y in points))
    return folder


def test_from_a_training_tree_numbered_from_1(run, tmp_path: Path, models_root: Path, person: Avatar) -> None:
    folder = tmp_path / "dataset" / "ada"
    landmarks_of(person, folder / "landmarks")
    (folder / "full_body_img").mkdir()
    for index, path in enumerate(person.frame_paths):
        shutil.copy(path, folder / "full_body_img" / f"{index + 1}.jpg")
    checkpoint = tmp_path / "checkpoint" / "ada"
    checkpoint.mkdir(parents=True)
    shutil.copy(person.network_path, checkpoint / "exported.onnx")
    result = run(folder, "--audio-encoder", person.audio_encoder_path, "--loop", "forward")
    assert result.exit_code == 0, result.output
    ada = load_avatar(models_root / "ada")
    assert ada.rects == person.rects
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(ada.frame_paths, person.frame_paths, strict=True))
    assert ada.network_path.read_bytes() == person.network_path.read_bytes()
    report = verify_avatar(ada)
    assert (report.problems, report.warnings) == ((), ())


def test_from_a_video_of_her(run, tmp_path: Path, models_root: Path, person: Avatar) -> None:
    video = tmp_path / "take.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = person.width, person.height, "yuv420p"
        stream.options = {"crf": "14", "preset": "veryfast"}
        for index in range(person.frame_count):
            frame = av.VideoFrame.from_ndarray(person.read_frame(index), format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    points = landmarks_of(person, tmp_path / "lms")
    result = run(video, "--landmarks", points, "--checkpoint", person.network_path, "--audio-encoder", person.audio_encoder_path)
    assert result.exit_code == 0, result.output
    ada = load_avatar(models_root / "ada")
    assert ada.rects == person.rects
    psnr = [cv2.PSNR(ada.read_frame(index), person.read_frame(index)) for index in range(0, person.frame_count, 10)]
    assert min(psnr) > 32, "compressed, and in order: a neighbour's frame differs more"
    shifted = cv2.PSNR(ada.read_frame(70), person.read_frame(69))
    assert shifted < psnr[7] - 1
    assert verify_avatar(ada).problems == ()
