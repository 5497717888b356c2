"""`--keep-video`: the avatar keeps its source's video instead of pictures extracted from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avatar_kit.avatar import load_avatar
from avatar_tools.verify import verify_avatar

from .conftest import FRAMES, Layouts, network, number_of, square, write_video


@pytest.fixture
def ingredients(layouts: Layouts, tmp_path: Path) -> list[object]:
    """Options that name what a bare video lacks."""
    rects = tmp_path / "rects.json"
    rects.write_text(json.dumps([square(index) for index in range(FRAMES)]))
    return ["--rectangles", rects, "--checkpoint", layouts.onnx(tmp_path / "net.onnx", network()), "--keep-video"]


def test_a_video_is_kept_byte_for_byte(
    run: Callable[..., Any], ingredients: list[object], tmp_path: Path, models_root: Path
) -> None:
    video = write_video(tmp_path / "take.MP4")
    result = run(video, *ingredients)
    assert result.exit_code == 0, result.output
    assert (
        f"keep take.MP4, from which its {FRAMES} frames are read when they are served, in {models_root / 'ada'}" in result.stdout
    )
    assert "write" not in result.stdout
    avatar = load_avatar(models_root / "ada")
    assert (models_root / "ada" / "background.mp4").read_bytes() == video.read_bytes()
    assert not (models_root / "ada" / "frames").exists()
    assert [number_of(avatar.read_frame(index)) for index in range(FRAMES)] == list(range(FRAMES))
    assert [[rect.x1, rect.y1, rect.x2, rect.y2] for rect in avatar.rects] == [square(index) for index in range(FRAMES)]
    assert verify_avatar(avatar).problems == ()


def test_its_frames_are_those_that_extracting_gives_but_for_jpeg(
    run: Callable[..., Any], ingredients: list[object], tmp_path: Path, models_root: Path
) -> None:
    video = write_video(tmp_path / "take.mp4")
    assert run(video, *ingredients, avatar_id="kept").exit_code == 0
    assert run(video, *ingredients[:-1], avatar_id="extracted").exit_code == 0
    kept, extracted = (load_avatar(models_root / name) for name in ("kept", "extracted"))
    assert kept.rects == extracted.rects
    for index in range(FRAMES):
        assert np.abs(kept.read_frame(index).astype(int) - extracted.read_frame(index)).mean() < 2


def test_a_package_with_a_video_is_kept_too(run: Callable[..., Any], layouts: Layouts, models_root: Path) -> None:
    result = run(layouts.package(), "--keep-video")
    assert result.exit_code == 0, result.output
    assert load_avatar(models_root / "ada").frames.place.name == "background.mp4"


def test_a_dry_run_writes_nothing(run: Callable[..., Any], ingredients: list[object], tmp_path: Path, models_root: Path) -> None:
    result = run(write_video(tmp_path / "take.mp4"), *ingredients, "--dry-run")
    assert result.exit_code == 0
    assert "keep take.mp4" in result.stdout
    assert not models_root.exists()


def test_pictures_are_not_a_video(refused: Callable[..., str], layouts: Layouts) -> None:
    said = refused(layouts.go(), "--keep-video")
    assert "--keep-video: the frames of sanders are pictures; name a video as SOURCE" in said


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (
            "a.mp4",
            {"rate": 30},
            "a.mp4 does not run at 25 frames a second throughout (it says 30): import it",
        ),
        ("a.webm", {"codec": "libvpx"}, "a.webm is vp8, of which no single frames can be read: import it without --keep-video"),
    ],
)
def test_a_video_that_can_not_be_served_as_it_is(
    refused: Callable[..., str], ingredients: list[object], tmp_path: Path, name: str, options: dict[str, Any], says: str
) -> None:
    assert says in refused(write_video(tmp_path / name, **options), *ingredients)


def test_a_damaged_video_leaves_nothing(refused: Callable[..., str], ingredients: list[object], tmp_path: Path) -> None:
    video = write_video(tmp_path / "take.mp4", codec="mpeg4")
    data = bytearray(video.read_bytes())
    middle = data.index(b"mdat") + 4 + 1500
    data[middle : middle + 2000] = b"\xff" * 2000
    video.write_bytes(data)
    assert "take.mp4 is damaged or truncated: frame" in refused(video, *ingredients)


@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
def test_a_truncated_video_leaves_nothing(
    refused: Callable[..., str], ingredients: list[object], tmp_path: Path, part: float
) -> None:
    video = write_video(tmp_path / "take.mkv")
    data = video.read_bytes()
    video.write_bytes(data[: int(len(data) * part)])
    assert "take.mkv" in refused(video, *ingredients)
