"""The earlier servers' layout with its frames in a video."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from .legacy import Frame, catalog, problems_of, without_frames


def write_video(path: Path, pictures: list[NDArray[np.uint8]], *, rate: int = 25) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12", "preset": "ultrafast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())


@pytest.fixture
def filmed(models_root: Path, old_avatar: Callable[..., Path], frame: Frame) -> Path:
    """An avatar whose frames are still in its video."""
    folder = old_avatar()
    without_frames(folder)
    write_video(folder / "full_body_video.mp4", [frame(index) for index in range(6)])
    return folder


VIDEO = "sanders/full_body_video.mp4"


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("with_folder", [True, False], ids=["empty", "missing"])
def test_frames_are_read_out_of_the_video(filmed: Path, models_root: Path, frame: Frame, with_folder: bool) -> None:
    if not with_folder:
        (filmed / "frames").rmdir()
    before = contents(models_root)
    avatar = catalog(models_root, source_video=VIDEO).get("sanders")
    assert (avatar.frame_count, avatar.width, avatar.height, avatar.frame_paths) == (6, 160, 96, ())
    for index in (5, 0, 3, 1, 2, 4):
        assert np.abs(avatar.read_frame(index).astype(int) - frame(index)).mean() < 4
    assert contents(models_root) == before, "nothing is written where the services read"


def test_frames_that_are_there_come_before_the_video(models_root: Path, old_avatar: Callable[..., Path], frame: Frame) -> None:
    folder = old_avatar()
    write_video(folder / "full_body_video.mp4", [frame(0)] * 6)
    avatar = catalog(models_root, source_video=VIDEO).get("sanders")
    assert len(avatar.frame_paths) == 6


def test_as_many_frames_as_are_wanted(filmed: Path, models_root: Path) -> None:
    rects = json.loads((filmed / "crop_rects.json").read_text())
    (filmed / "crop_rects.json").write_text(json.dumps(rects[:4]))
    avatar = catalog(models_root, source_video=VIDEO, num_frames=4).get("sanders")
    assert avatar.frame_count == 4
    avatar.read_frame(3)
    with pytest.raises(IndexError):
        avatar.read_frame(4)
    assert "num_frames is 7, but there are 6 frames" in problems_of(models_root, source_video=VIDEO, num_frames=7)
    assert "has 4 rectangles for 6 frames" in problems_of(models_root, source_video=VIDEO)


def test_a_video_cut_short_is_a_problem(filmed: Path, models_root: Path) -> None:
    video = filmed / "full_body_video.mp4"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    assert "source_video: sanders/full_body_video.mp4 is not a video, or is truncated" in problems_of(
        models_root, source_video=VIDEO
    )


def test_a_video_at_another_rate_has_to_be_imported(filmed: Path, models_root: Path, frame: Frame) -> None:
    write_video(filmed / "full_body_video.mp4", [frame(index) for index in range(6)], rate=30)
    said = problems_of(models_root, source_video=VIDEO)
    assert "source_video: sanders/full_body_video.mp4 does not run at 25 frames a second throughout (it says 30)" in said


def test_a_replaced_video_gives_its_frames_until_it_is_loaded_again(filmed: Path, models_root: Path, frame: Frame) -> None:
    avatar = catalog(models_root, source_video=VIDEO).get("sanders")
    before = avatar.read_frame(1)
    write_video(filmed / "other.mp4", [frame(5 - index) for index in range(6)])
    (filmed / "other.mp4").rename(filmed / "full_body_video.mp4")
    np.testing.assert_array_equal(avatar.read_frame(1), before)
    assert catalog(models_root, source_video=VIDEO).get("sanders").version != avatar.version


@pytest.mark.parametrize(
    "content", [b"", b"not a video", b"#EXTM3U\n#EXTINF:1\nfile:///etc/hostname\n", b"ffconcat version 1.0\nfile /etc/hostname\n"]
)
def test_what_is_no_video_is_a_problem(filmed: Path, models_root: Path, content: bytes) -> None:
    (filmed / "full_body_video.mp4").write_bytes(content)
    assert "source_video" in problems_of(models_root, source_video=VIDEO)
