"""The benchmark avatar has the size, the cost and the motion of a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from avatar_kit.avatar import Avatar
from avatar_kit.errors import AvatarExists
from avatar_tools.benchmark_avatar import FRAME_COUNT, build_benchmark
from avatar_tools.benchmark_frames import benchmark_clip
from avatar_tools.verify import verify_avatar


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Avatar:
    return build_benchmark(tmp_path_factory.mktemp("models"), frame_count=6, network="free")


def test_verifying_it_finds_nothing(free: Avatar) -> None:
    report = verify_avatar(free.root)

    assert (report.problems, report.warnings) == ((), ())
    assert (free.id, free.frame_count, free.width, free.height) == ("benchmark", 6, 1280, 720)


def test_its_frames_weigh_what_filmed_ones_weigh(free: Avatar) -> None:
    for index in range(free.frame_count):
        encoded = cv2.imencode(".jpg", free.read_frame(index), [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
        assert 60_000 < len(encoded) < 70_000


def test_its_rectangles_move_like_a_head() -> None:
    clip = benchmark_clip()
    rects = [clip.rect(index) for index in range(FRAME_COUNT)]

    assert {min(rect.width for rect in rects), max(rect.width for rect in rects)} == {173, 189}
    assert all(rect.width == rect.height for rect in rects)
    assert all(rect.problem(1280, 720) is None for rect in rects)
    centres = np.array([(rect.x1 + rect.x2, rect.y1 + rect.y2) for rect in rects]) / 2
    assert np.abs(np.diff(centres, axis=0)).max() <= 3
    assert np.ptp(centres, axis=0).min() > 20
    assert np.abs(centres - (640, 400)).max() < 60


def test_the_scene_moves_with_its_rectangle(free: Avatar) -> None:
    clip = benchmark_clip()
    first, later = (cv2.imdecode(np.frombuffer(clip.jpeg(index), np.uint8), cv2.IMREAD_COLOR) for index in (0, 5))
    one, two = clip.rect(0), clip.rect(5)
    size = min(one.width, two.width) // 2 * 2

    def middle(picture: Any, rect: Any) -> Any:
        x, y = rect.x1 + rect.width // 2, rect.y1 + rect.height // 2
        return picture[y - size // 2 : y + size // 2, x - size // 2 : x + size // 2].astype(int)

    assert one != two
    assert np.abs(middle(first, one) - middle(later, two)).mean() < 2
    assert np.abs(first.astype(int) - later).mean() > 2


def test_building_it_again_gives_the_same_bytes(free: Avatar, tmp_path: Path) -> None:
    again = build_benchmark(tmp_path, frame_count=6, network="free")

    for path in sorted(path.relative_to(free.root) for path in free.root.rglob("*") if path.is_file()):
        assert (again.root / path).read_bytes() == (free.root / path).read_bytes(), path


def test_the_full_networks_are_written(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    avatar = build_benchmark(tmp_path, "full", frame_count=2, progress=lambda *step: told.append(step))

    assert verify_avatar(avatar.root).problems == ()
    assert avatar.network_path.stat().st_size == pytest.approx(48.7e6, rel=0.01)
    assert avatar.audio_encoder_path is not None
    assert avatar.audio_encoder_path.stat().st_size == pytest.approx(11.2e6, rel=0.01)
    assert told == [("drawing", 0, 2), ("drawing", 1, 2), ("drawing", 2, 2), ("networks", 0, 1), ("networks", 1, 1)]


def test_the_shared_encoder_is_written_once(free: Avatar, tmp_path: Path) -> None:
    shared = tmp_path / "audio_encoder.onnx"
    shared.write_bytes(b"somebody's own")

    build_benchmark(tmp_path, frame_count=1, network="free")

    assert shared.read_bytes() == b"somebody's own"
    assert free.audio_encoder_path is not None
    assert (free.root.parent / "audio_encoder.onnx").read_bytes() == free.audio_encoder_path.read_bytes()


def test_it_replaces_only_when_told(free: Avatar) -> None:
    with pytest.raises(AvatarExists):
        build_benchmark(free.root.parent, frame_count=1, network="free")

    assert build_benchmark(free.root.parent, frame_count=6, network="free", replace=True).frame_count == 6


@pytest.mark.parametrize("wrong", [{"frame_count": 0}, {"network": "fast"}], ids=["no frames", "unknown network"])
def test_wrong_wishes_are_refused_before_anything_is_written(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"frames|network"):
        build_benchmark(tmp_path, **wrong)

    assert not list(tmp_path.iterdir())
