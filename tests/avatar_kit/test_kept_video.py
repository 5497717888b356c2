"""An avatar of format version 1 that keeps its video: written, loaded, described and verified."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from avatar_kit.avatar import Avatar, load_avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import Rect
from avatar_kit.model_entry import ModelEntry
from avatar_kit.writer import AvatarWriter
from avatar_tools.facts import compositing_bytes
from avatar_tools.inspect import summary
from avatar_tools.verify import verify_avatar

from ..filmed import both_forms, damage, shown, write_film


@pytest.fixture
def forms(avatar: Avatar, models_root: Path) -> tuple[Avatar, Avatar]:
    return both_forms(avatar, models_root)


@pytest.fixture
def kept(forms: tuple[Avatar, Avatar]) -> Avatar:
    return forms[0]


def change(avatar: Avatar, **entries: Any) -> None:
    """Changes what the manifest says of files; None takes an entry out."""
    path = avatar.root / "avatar.yaml"
    content = yaml.safe_load(path.read_text())
    content["files"] = {key: entry for key, entry in (content["files"] | entries).items() if entry}
    path.write_text(yaml.safe_dump(content))


def problems_of(avatar: Avatar) -> str:
    with pytest.raises(BrokenAvatar) as caught:
        load_avatar(avatar.root)
    assert str(avatar.root.parent) not in str(caught.value)
    return "; ".join(caught.value.problems)


def test_it_has_the_same_frames(forms: tuple[Avatar, Avatar]) -> None:
    kept, extracted = forms
    assert sorted(path.name for path in kept.root.iterdir()) == [
        "audio_encoder.onnx", "avatar.yaml", "background.mp4", "crop_rects.json", "network.onnx"
    ]  # fmt: skip
    assert (kept.frame_count, kept.width, kept.height, kept.rects) == (6, 160, 96, extracted.rects)
    assert kept.frame_paths == ()
    assert kept.frames.files == (kept.root / "background.mp4",)
    assert kept.version != extracted.version
    for index in (5, 0, 3, 2, 4, 1):
        np.testing.assert_array_equal(kept.read_frame(index), extracted.read_frame(index))
    with pytest.raises(IndexError):
        kept.read_frame(6)


def test_frames_are_either_pictures_or_in_a_video(forms: tuple[Avatar, Avatar]) -> None:
    kept, extracted = forms
    video = yaml.safe_load((kept.root / "avatar.yaml").read_text())["files"]["background_video"]
    change(extracted, background_video=video)
    assert "frame_checksums and background_video: the frames are pictures or in a video, not both" in problems_of(extracted)
    change(kept, background_video=None)
    assert "frame_checksums is missing, or background_video" in problems_of(kept)


def test_a_folder_of_frames_beside_the_video_is_a_problem(kept: Avatar) -> None:
    (kept.root / "frames").mkdir()
    assert problems_of(kept) == "frames: the frames are in the video that avatar.yaml names: remove one of the two"


@pytest.mark.parametrize("how", ["missing", "empty", "text", "other size", "outside"])
def test_a_video_that_can_not_be_is_told_when_loading(kept: Avatar, tmp_path: Path, how: str) -> None:
    path = kept.root / "background.mp4"
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("#EXTM3U\nfile:///etc/hostname\n")
    elif how == "other size":
        write_film(path, [np.zeros((64, 64, 3), np.uint8)] * 6)
    else:
        path.rename(tmp_path / "elsewhere.mp4")
        path.symlink_to(tmp_path / "elsewhere.mp4")
    says = {
        "missing": "files.background_video: 'background.mp4' is missing",
        "empty": "files.background_video: 'background.mp4' is empty",
        "text": "background.mp4 is not a video, or is truncated",
        "other size": "background.mp4 is 64x64, the avatar is 160x96",
        "outside": "leads out of the avatar's folder",
    }[how]
    assert says in problems_of(kept)
    report = verify_avatar(kept.root)
    assert any(says in problem for problem in report.problems)


def test_a_changed_video_gives_no_frame(kept: Avatar) -> None:
    kept.read_frame(1)
    damage(kept)
    with pytest.raises(BrokenAvatar, match=r"background\.mp4 has changed: its SHA-256 is not the one in the manifest"):
        kept.read_frame(1)
    with pytest.raises(BrokenAvatar, match="has changed"):
        load_avatar(kept.root).read_frame(0)


def test_verifying_decodes_all_of_it(kept: Avatar) -> None:
    told: list[tuple[str, int, int]] = []
    report = verify_avatar(kept, progress=lambda *step: told.append(step))
    assert report.problems == ()
    assert ("frames", 6, 6) in told
    assert report.ok


def reseal(avatar: Avatar) -> None:
    assert avatar.video
    digest = hashlib.sha256(avatar.video.place.read_bytes()).hexdigest()
    change(avatar, background_video={"path": "background.mp4", "sha256": digest})


def test_verifying_names_what_is_wrong_with_the_video(kept: Avatar) -> None:
    assert kept.video
    path = kept.video.place
    pictures = shown(path)
    damage(kept)
    said = verify_avatar(kept.root).problems
    assert len(said) == 1
    assert said[0].startswith("background.mp4 is damaged or truncated: frame")
    write_film(path, pictures[:5])
    assert "background.mp4 has 5 frames, the avatar has 6" in verify_avatar(kept.root).problems
    reseal(kept)
    assert verify_avatar(kept.root).problems == ("background.mp4 has 5 frames, the avatar has 6",)


def test_one_byte_changed_is_noticed(kept: Avatar) -> None:
    assert kept.video
    path = kept.video.place
    data = path.read_bytes()
    place = data.index(b"x264")  # in a note of the encoder's, which no decoder looks at
    path.write_bytes(data[:place] + b"X" + data[place + 1 :])
    assert verify_avatar(kept.root).problems == ("background.mp4 has changed: its SHA-256 is not the one in the manifest",)


def test_it_is_summed_up(kept: Avatar) -> None:
    assert "6 frames" in summary(kept)
    assert compositing_bytes(kept) > 6 * 96 * 64 * 3


def test_settings_must_name_the_same_video(kept: Avatar, models_root: Path) -> None:
    def get(**entry: Any) -> Avatar:
        return AvatarCatalog(models_root, {"kept": ModelEntry.model_validate(entry)}).get("kept")

    assert get(source_video="kept/background.mp4", loop="forward").frame_count == 6
    for entry in ({"source_video": "kept/other.mp4"}, {"background_dir": "kept/frames"}):
        with pytest.raises(BrokenAvatar, match=f"{next(iter(entry))} in the settings names another file"):
            get(**entry)


def test_the_writer_takes_pictures_or_a_video(forms: tuple[Avatar, Avatar], models_root: Path) -> None:
    kept, extracted = forms
    assert kept.video
    with AvatarWriter(models_root, "mixed", width=160, height=96) as writer:
        writer.add_frame(extracted.frame_paths[0].read_bytes(), kept.rects[0])
        with pytest.raises(ValueError, match="not both"):
            writer.set_video(kept.video.place, kept.rects)
    with AvatarWriter(models_root, "outside", width=160, height=96) as writer, pytest.raises(BrokenAvatar, match="frame 1: "):
        writer.set_video(kept.video.place, [kept.rects[0], Rect(100, 30, 161, 90)])
    assert not (models_root / "mixed").exists()
