"""Each layout that people have on disk becomes an avatar: pictures, rectangles, networks and features are those of the source."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from avatar_kit.avatar import Avatar, load_avatar
from avatar_tools.demo.build import ENCODER_PATH
from avatar_tools.verify import verify_avatar

from .conftest import FRAMES, encoder, jpeg, network, number_of, picture, points, rows, square, write_video


def imported(run, source: Path, *options: object) -> tuple[Avatar, str]:
    result = run(source, *options)
    assert result.exit_code == 0, result.output
    place = next(line for line in result.stdout.splitlines() if line.endswith(f"{FRAMES} frames of 160x96"))
    avatar = load_avatar(Path(place.rpartition(":")[0]))
    assert verify_avatar(avatar.root).problems == ()
    return avatar, result.stdout


def rects_of(avatar: Avatar) -> list[list[int]]:
    return [[rect.x1, rect.y1, rect.x2, rect.y2] for rect in avatar.rects]


def stored(avatar: Avatar) -> list[bytes]:
    return [path.read_bytes() for path in avatar.frame_paths]


SQUARES = [square(index) for index in range(FRAMES)]
JPEGS = [jpeg(index) for index in range(FRAMES)]


def test_research_layout(run, layouts) -> None:
    avatar, said = imported(run, layouts.research())
    assert stored(avatar) == JPEGS
    assert rects_of(avatar) == SQUARES
    assert avatar.network_path.read_bytes() == network().SerializeToString()
    assert avatar.features_path is not None
    assert np.array_equal(np.load(avatar.features_path), rows())
    assert "found: the research layout" in said
    assert "12 pictures, 160x96, numbered from 0" in said
    assert "12 frames of 110 points" in said


def test_frames_from_1_and_landmarks_from_0_are_paired_by_rank(run, layouts) -> None:
    avatar, said = imported(run, layouts.research(first=1))
    assert stored(avatar) == JPEGS
    assert rects_of(avatar) == SQUARES
    assert "full_body_img is numbered from 1, the landmarks from 0: paired by rank" in said


def test_package_v2_with_rectangles_and_a_video(run, layouts) -> None:
    avatar, said = imported(run, layouts.package())
    assert [number_of(avatar.read_frame(index)) for index in range(FRAMES)] == list(range(FRAMES))
    assert rects_of(avatar) == SQUARES
    assert avatar.audio_encoder_path is not None
    assert avatar.audio_encoder_path.read_bytes() == encoder().SerializeToString()
    assert avatar.features_path is not None
    assert np.array_equal(np.load(avatar.features_path), rows())
    assert "found: package v2" in said


def test_package_v2_without_rectangles_derives_them(run, layouts) -> None:
    avatar, said = imported(run, layouts.package(rect_file=False))
    assert rects_of(avatar) == SQUARES
    assert "derived:" in said
    assert "landmarks: rectangles computed from points 1, 31 and 52" in said


def test_package_v2_with_its_network_among_checkpoints(run, layouts) -> None:
    folder = layouts.package()
    (folder / "checkpoint").mkdir()
    (folder / "models" / "generator.onnx").rename(folder / "checkpoint" / "model_best.onnx")
    avatar, _ = imported(run, folder)
    assert avatar.network_path.read_bytes() == network().SerializeToString()


def test_a_video_of_crops_that_is_one_frame_off_is_said(run, layouts) -> None:
    folder = layouts.package()
    write_video(folder / "crops_328_video.mp4", size=(328, 328))
    _, said = imported(run, folder)
    assert "warning: crops_328_video.mp4 does not show what the rectangles cut out" in said


@pytest.mark.parametrize(("naming", "first"), [("frame_{:06d}.jpg", 0), ("frame_{:04d}.png", 1), ("{}.jpg", 0), ("{}.jpg", 1)])
def test_go_layout(run, layouts, naming: str, first: int) -> None:
    avatar, said = imported(run, layouts.go(naming, first=first))
    assert all(np.array_equal(avatar.read_frame(index), picture(index)) for index in range(FRAMES)) or naming.endswith("jpg")
    assert naming.endswith("png") or stored(avatar) == JPEGS
    assert rects_of(avatar) == SQUARES
    assert "found: the Go servers' layout" in said
    assert ("numbered from 1: the first picture has the first rectangle" in said) == bool(first)


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_oldest_packages_have_an_array_of_68_points(run, layouts, kind: type) -> None:
    folder = layouts.go()
    (folder / "crop_rects.json").unlink()
    all_points = np.stack([points(index, 68, kind=float if kind is np.float32 else int) for index in range(FRAMES)])
    np.save(folder / "landmarks_2d.npy", all_points.astype(kind))
    avatar, said = imported(run, folder)
    assert rects_of(avatar) == SQUARES
    assert "68 points a frame" in said


def test_plain_folder_of_frames(run, layouts) -> None:
    avatar, said = imported(run, layouts.plain())
    assert stored(avatar) == JPEGS
    assert rects_of(avatar) == SQUARES
    assert "found: a folder of frames" in said


def test_plain_folder_with_everything_elsewhere(run, layouts, tmp_path: Path) -> None:
    frames = layouts.frames(tmp_path / "shots", "frame_{:04d}.png")
    rects = layouts.keyed_rects(tmp_path / "elsewhere" / "rects.json")
    net = layouts.onnx(tmp_path / "nets" / "mouth.onnx", network())
    avatar, _ = imported(run, frames, "--rectangles", rects, "--checkpoint", net)
    assert all(np.array_equal(avatar.read_frame(index), picture(index)) for index in range(FRAMES))
    assert rects_of(avatar) == SQUARES


@pytest.mark.parametrize("by", ["landmarks", "array", "rectangles"])
def test_plain_video(run, layouts, tmp_path: Path, by: str) -> None:
    video = write_video(tmp_path / "take 3.mp4")
    net = layouts.onnx(tmp_path / "nets" / "mouth.onnx", network())
    np.save(tmp_path / "array.npy", np.stack([points(index) for index in range(FRAMES)]))
    options = {
        "landmarks": ("--landmarks", layouts.landmarks(tmp_path / "lms")),
        "array": ("--landmarks", tmp_path / "array.npy"),
        "rectangles": ("--rectangles", layouts.keyed_rects(tmp_path / "rects.json")),
    }
    avatar, said = imported(run, video, *options[by], "--checkpoint", net)
    assert [number_of(avatar.read_frame(index)) for index in range(FRAMES)] == list(range(FRAMES))
    assert rects_of(avatar) == SQUARES
    assert "found: a video" in said


def test_research_layout_with_nothing_but_its_video(run, layouts) -> None:
    folder = layouts.research()
    shutil.rmtree(folder / "full_body_img")
    write_video(folder / "another take.mp4", 5)
    write_video(folder / "ada.mp4")
    avatar, _ = imported(run, folder)
    assert [number_of(avatar.read_frame(index)) for index in range(FRAMES)] == list(range(FRAMES))


def test_what_is_passed_over_is_said(run, layouts) -> None:
    folder = layouts.go()
    layouts.landmarks(folder / "landmarks")
    write_video(folder / "full_body_video.mp4", 3)
    _, said = imported(run, folder)
    assert "passed over   landmarks: the rectangles are there" in said
    assert "passed over   full_body_video.mp4: the frames are there as pictures" in said


def test_options_make_the_avatar(run, layouts) -> None:
    options = ("--loop", "forward", "--paste", "feather", "--mask", "5,5,310,315")
    avatar, _ = imported(run, layouts.go(), *options)
    assert (avatar.loop, avatar.paste) == ("forward", "feather")
    assert (avatar.mask.x, avatar.mask.y, avatar.mask.width, avatar.mask.height) == (5, 5, 310, 315)


def test_landmarks_that_are_named_come_before_rectangles_that_are_found(run, layouts) -> None:
    folder = layouts.go()
    (folder / "crop_rects.json").write_text(json.dumps([[0, 0, 20, 20]] * FRAMES))
    avatar, _ = imported(run, folder, "--landmarks", layouts.landmarks(folder / "points"))
    assert rects_of(avatar) == SQUARES


def test_the_shared_audio_encoder_is_not_copied(run, layouts, models_root: Path) -> None:
    layouts.onnx(models_root / "audio_encoder.onnx", encoder())
    avatar, said = imported(run, layouts.package())
    assert avatar.audio_encoder_path is None
    assert "the shared one" in said


def test_an_avatar_without_any_audio_encoder_is_warned_of(run, layouts) -> None:
    _, said = imported(run, layouts.go())
    assert "warning: there is no audio encoder" in said
    own = layouts.onnx(layouts.root / "encoder.onnx", encoder())
    avatar, said = imported(run, layouts.go(), "--audio-encoder", own, "--replace")
    assert avatar.audio_encoder_path is not None
    assert "there is no audio encoder" not in said


def test_the_demos_audio_encoder_is_not_taken_for_a_trained_one(run, layouts, models_root: Path) -> None:
    """Building the demo puts its own at the shared place."""
    layouts.onnx(models_root / "audio_encoder.onnx", onnx.load(ENCODER_PATH))
    avatar, said = imported(run, layouts.go())
    assert "audio_encoder.onnx is the demo's audio encoder, and the mouth will move wrongly with it" in said
    assert avatar.audio_encoder_path is None


def test_features_of_another_sound_are_left_out(run, layouts) -> None:
    folder = layouts.research()
    np.save(folder / "aud_ave.npy", rows(30))
    avatar, said = imported(run, folder)
    assert avatar.features_path is None
    assert "aud_ave.npy has 30 rows for 12 frames" in said


def test_a_dry_run_says_the_same_and_writes_nothing(run, layouts, models_root: Path) -> None:
    folder = layouts.research()
    dry = run(folder, "--dry-run")
    assert dry.exit_code == 0
    assert not models_root.exists()
    plan, _, last = dry.stdout.rpartition("nothing was written")
    assert last
    assert run(folder).stdout.startswith(plan)


def test_a_source_given_through_a_link_and_by_a_relative_path(run, layouts, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "link").symlink_to(layouts.research())
    monkeypatch.chdir(tmp_path)
    avatar, _ = imported(run, Path("link"))
    assert stored(avatar) == JPEGS
    assert not os.path.lexists(tmp_path / "models" / "link")
