"""Rectangles that do not follow the head, and videos of crops that bear witness."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar, Loop, Rect
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.model_entry import ModelEntry
from avatar_tools.rect_motion import motion_warnings
from avatar_tools.verify import verify_avatar

STEADY = [Rect(100 + step, 50, 200 + step, 150) for step in range(10)]


@pytest.mark.parametrize(
    ("rects", "loop", "says"),
    [
        (STEADY, Loop.BOUNCE, []),
        ([*STEADY[:5], Rect(300, 50, 400, 150), *STEADY[6:]], Loop.BOUNCE, ["frame 5", "frame 6"]),
        ([*STEADY[:9], Rect(108, 50, 228, 170)], Loop.BOUNCE, ["frame 9: the rectangle changes its size"]),
        ([Rect(100 + 10 * step, 50, 200 + 10 * step, 150) for step in range(10)], Loop.BOUNCE, []),
        ([Rect(100 + 10 * step, 50, 200 + 10 * step, 150) for step in range(10)], Loop.FORWARD, ["frame 0: the rectangle jumps"]),
        ([Rect(100, 50, 200, 180)] * 3, Loop.BOUNCE, ["far from square"]),
        ([Rect(0, 50, 100, 150)] * 3, Loop.BOUNCE, ["edge"]),
        ([Rect(540, 260, 640, 360)] * 3, Loop.BOUNCE, ["3 frames (0, 1, 2)"]),
    ],
)
def test_rectangles_that_do_not_follow_a_head_are_warned_of(rects: list[Rect], loop: Loop, says: list[str]) -> None:
    warnings = motion_warnings(rects, loop=loop, width=640, height=360)
    assert len(warnings) == len(says)
    assert all(part in warning for part, warning in zip(says, warnings, strict=True))


@pytest.mark.parametrize(("noise", "warned"), [(0, False), (2, False), (20, True)])
def test_rectangles_that_tremble_are_warned_of(noise: int, warned: bool) -> None:
    random = np.random.default_rng(6)
    rects = []
    for step in range(60):
        x, y = (np.array([200 + 20 * np.sin(step / 4), 90]) + random.integers(-noise, noise + 1, 2)).astype(int)
        rects.append(Rect(int(x), int(y), int(x) + 180, int(y) + 180))
    warnings = motion_warnings(rects, loop=Loop.BOUNCE, width=640, height=360)
    assert any("tremble" in warning for warning in warnings) == warned


def crop_video(path: Path, avatar: Avatar, *, size: int, shift: int = 0, noise: bool = False) -> None:
    """Writes the video that a training tool leaves: each frame's crop, cut out here by other means than ours."""
    random = np.random.default_rng(5)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "preset": "ultrafast"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(avatar.frame_count):
            at = min(max(index + shift, 0), avatar.frame_count - 1)
            picture = cv2.imread(str(avatar.frame_paths[at]))
            rect = avatar.rects[at]
            crop = cv2.resize(picture[rect.y1 : rect.y2, rect.x1 : rect.x2], (328, 328), interpolation=cv2.INTER_CUBIC)
            crop = crop[4:324, 4:324] if size == 320 else crop
            crop = random.integers(0, 256, crop.shape, np.uint8) if noise else crop
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(crop), format="bgr24")))
        container.mux(stream.encode())


@pytest.fixture
def restless(models_root: Path, old_avatar: Callable[..., Path], frame: Callable[..., NDArray[np.uint8]]) -> Callable[[], Avatar]:
    """An avatar whose rectangles stand still while the head moves: neighbouring crops differ."""
    folder = old_avatar()
    for index in range(20):
        cv2.imwrite(str(folder / "frames" / f"frame_{index:06d}.jpg"), frame(4 * index % 30))
    (folder / "crop_rects.json").write_text(json.dumps([[50, 20, 120, 90]] * 20))
    entry = ModelEntry.model_validate(
        {"crops_video_path": "sanders/crops_328_video.mp4", "rois_video_path": "sanders/rois_320_video.mp4"}
    )
    return lambda: AvatarCatalog(models_root, {"sanders": entry}).get("sanders")


def test_videos_of_the_crops_bear_witness(
    restless: Callable[[], Avatar], encoder: Callable[..., onnx.ModelProto], models_root: Path
) -> None:
    onnx.save(encoder(), models_root / "audio_encoder.onnx")
    avatar = restless()
    assert avatar.crops_video_path is not None
    assert avatar.rois_video_path is not None
    crop_video(avatar.crops_video_path, avatar, size=328)
    crop_video(avatar.rois_video_path, avatar, size=320)
    report = verify_avatar(avatar)
    assert (report.problems, report.warnings) == ((), ())
    assert "20 frames, differs by" in report.facts["crops_video_path"]
    assert "rois_video_path" in report.facts


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 328, "shift": 1}, "fits better one frame earlier"),
        ({"size": 328, "shift": -1}, "fits better one frame later"),
        ({"size": 328, "noise": True}, "does not show what the rectangles cut out"),
        ({"size": 320}, "is 320x320; expected 328x328"),
    ],
    ids=str,
)
def test_videos_that_show_something_else_are_a_warning(
    restless: Callable[[], Avatar], options: dict[str, Any], says: str
) -> None:
    avatar = restless()
    assert avatar.crops_video_path is not None
    crop_video(avatar.crops_video_path, avatar, **options)
    assert any(says in warning for warning in verify_avatar(avatar, run_networks=False).warnings)


def test_a_missing_video_is_a_warning(restless: Callable[[], Avatar]) -> None:
    warnings = verify_avatar(restless(), run_networks=False).warnings
    assert "crops_video_path: crops_328_video.mp4 is missing" in warnings
