"""The avatar as files: sound, the same every time, and a person who moves well."""

from __future__ import annotations

import wave
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from avatar_kit.avatar import Avatar, Loop, Paste
from avatar_kit.errors import AvatarExists, InvalidAvatarId
from avatar_kit.onnx_io import encoder_io, network_io
from avatar_tools.demo import SPEECH_PATH, build, build_demo
from avatar_tools.verify import verify_avatar


@pytest.fixture(scope="module")
def thumbnails(demo: Avatar) -> np.ndarray:
    """[frames, 180, 320, 3]."""
    return np.stack([cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_4) for path in demo.frame_paths]).astype(int)


def test_the_avatar_is_what_it_promises(demo: Avatar) -> None:
    assert (demo.id, demo.width, demo.height, demo.fps) == ("demo", 1280, 720, 25.0)
    assert (demo.loop, demo.paste) == (Loop.FORWARD, Paste.REFERENCE)
    assert 125 <= demo.frame_count <= 150
    assert {(rect.width, rect.height) for rect in demo.rects} == {(180, 180)}
    assert all(rect.problem(1280, 720) is None for rect in demo.rects)


def test_nothing_is_wrong_with_it(demo: Avatar) -> None:
    report = verify_avatar(demo)
    assert not report.problems
    assert not report.warnings


def test_networks_are_bound_by_shape_and_take_any_batch(demo: Avatar, demo_root: Path) -> None:
    assert network_io(demo.network_path).batch is None
    assert demo.audio_encoder_path is not None
    assert encoder_io(demo.audio_encoder_path).batch is None
    assert (demo_root / "audio_encoder.onnx").read_bytes() == demo.audio_encoder_path.read_bytes()
    for model in map(onnx.load, (demo.network_path, demo.audio_encoder_path)):
        onnx.checker.check_model(model, full_check=True)
        assert all(opset.version <= 17 for opset in model.opset_import)


def test_a_second_build_gives_the_same_files_and_keeps_a_shared_encoder(demo: Avatar, tmp_path: Path) -> None:
    shared = tmp_path / "audio_encoder.onnx"
    shared.write_bytes(b"somebody's own")
    reported: list[tuple[str, int, int]] = []
    again = build_demo(tmp_path, progress=lambda what, done, total: reported.append((what, done, total)))
    assert again.version == demo.version  # the manifest has the checksums of all files
    assert shared.read_bytes() == b"somebody's own"
    assert reported[-1][1:] == (demo.frame_count, demo.frame_count)


@pytest.mark.parametrize(
    ("avatar_id", "error"), [("demo", AvatarExists), ("../demo", InvalidAvatarId)], ids=["taken", "not an id"]
)
def test_what_can_not_be_built_is_refused_at_once(
    demo: Avatar, demo_root: Path, avatar_id: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "video_pictures", lambda _: pytest.fail("read the clip all the same"))
    with pytest.raises(error):
        build_demo(demo_root, avatar_id)
    assert sorted(path.name for path in demo_root.iterdir()) == ["audio_encoder.onnx", "demo"]


def test_the_loop_has_no_seam(thumbnails: np.ndarray) -> None:
    steps = [np.abs(after - before).mean() for before, after in pairwise([*thumbnails, thumbnails[0]])]
    assert steps[-1] <= np.median(steps) * 1.5
    assert min(steps) > 0.0  # never frozen


def test_movement_is_gentle(demo: Avatar) -> None:
    places = np.array([(rect.x1, rect.y1) for rect in demo.rects])
    assert np.abs(np.diff(places, axis=0, append=places[:1])).max() <= 1
    assert 4 <= np.ptp(places[:, 0]) <= 30
    assert 2 <= np.ptp(places[:, 1]) <= 20


def test_she_blinks_twice_at_uneven_times(demo: Avatar) -> None:
    shut = []
    for path, rect in zip(demo.frame_paths, demo.rects, strict=True):
        eyes = cv2.imread(str(path))[rect.y1 - 36 : rect.y1, rect.x1 : rect.x2].astype(int)
        shut.append((eyes.min(-1) > 205).sum() < 60)  # the white of the eyes
    blinks = [i for i in range(len(shut)) if shut[i] and not shut[i - 1]]
    assert len(blinks) == 2
    assert abs((blinks[1] - blinks[0]) - len(shut) / 2) > 8


def test_the_mouth_stands_still_in_the_crops(demo: Avatar) -> None:
    def crop(index: int) -> np.ndarray:
        rect = demo.rects[index]
        part = demo.read_frame(index)[rect.y1 : rect.y2, rect.x1 : rect.x2]
        return cv2.resize(part, (328, 328), interpolation=cv2.INTER_CUBIC)

    resting = crop(0)[120:190, 80:246]
    for index in range(0, demo.frame_count, 10):
        match = cv2.matchTemplate(crop(index), resting, cv2.TM_SQDIFF)
        _, _, (x, y), _ = cv2.minMaxLoc(match)
        assert abs(x - 80) <= 2, index
        assert abs(y - 120) <= 2, index


def test_the_recording_is_what_its_readme_says() -> None:
    with wave.open(str(SPEECH_PATH)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(int)
    assert 10 <= len(samples) / 16000 <= 12
    assert np.abs(samples[:4800]).max() < 50
    assert np.abs(samples[-8000:]).max() < 50
    assert 16000 < np.abs(samples).max() < 32000
    assert "Synthetic" in SPEECH_PATH.with_name("README.md").read_text(encoding="utf-8")
