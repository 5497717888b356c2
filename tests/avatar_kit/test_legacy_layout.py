"""The earlier servers' layout through their YAML keys."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from avatar_kit.avatar import Loop, Mask, Paste, Rect
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import BrokenAvatar
from avatar_kit.model_entry import ModelEntry
from avatar_tools.verify import verify_avatar
from inference_service.settings import InferenceSettings
from tools.configuration_docs import describe

from .legacy import SANDERS, Frame, catalog, problems_of, without_frames

NAMINGS = ("frame_{:06d}.jpg", "frame_{:04d}.png", "{}.jpg")


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("rects_as", ["array", "object"])
def test_every_naming_numbering_and_form_of_rectangles(
    old_avatar: Callable[..., Path], models_root: Path, frame: Frame, naming: str, first: int, rects_as: str
) -> None:
    old_avatar(naming=naming, first=first, rects_as=rects_as)
    avatar = catalog(models_root, **SANDERS).get("sanders")
    assert (avatar.frame_count, avatar.width, avatar.height, avatar.fps) == (6, 160, 96, 25.0)
    assert (avatar.loop, avatar.paste, avatar.mask) == (Loop.BOUNCE, Paste.REFERENCE, Mask())
    assert avatar.audio_encoder_path is None
    for index in range(6):
        assert avatar.rects[index] == Rect(50 + index, 30, 110 + index, 90)
        assert np.abs(avatar.read_frame(index).astype(int) - frame(index)).mean() < 3


def test_frames_are_ordered_by_number_not_by_name(models_root: Path, old_avatar: Callable[..., Path]) -> None:
    folder = old_avatar()
    for path in (folder / "frames").iterdir():
        path.unlink()
    for index in range(12):
        cv2.imwrite(str(folder / "frames" / f"{index}.jpg"), np.full((96, 160, 3), index * 20, np.uint8))
    (folder / "crop_rects.json").write_text(json.dumps([[0, 0, 9, 9]] * 12))
    avatar = catalog(models_root).get("sanders")
    assert [round(avatar.read_frame(index).mean() / 20) for index in range(12)] == list(range(12))


def test_rectangles_keyed_by_number_are_ordered_by_number(models_root: Path, old_avatar: Callable[..., Path]) -> None:
    folder = old_avatar()
    keyed = {str(index): {"rect": [index, 0, 99, 90]} for index in (3, 1, 5, 2, 4, 6)}
    (folder / "crop_rects.json").write_text(json.dumps(keyed))
    assert [rect.x1 for rect in catalog(models_root).get("sanders").rects] == [1, 2, 3, 4, 5, 6]


def test_files_may_lie_anywhere_that_the_operator_says(
    models_root: Path, old_avatar: Callable[..., Path], tmp_path: Path
) -> None:
    folder = old_avatar("sanders")
    folder.rename(tmp_path / "disk2")
    entry = {
        "model_path": str(tmp_path / "disk2" / "checkpoint" / "model_best.onnx"),
        "background_dir": str(tmp_path / "disk2" / "frames"),
        "crop_rects_path": "../disk2/crop_rects.json",
    }
    assert catalog(models_root, **entry).get("sanders").frame_count == 6


def test_num_frames_limits_to_the_first(models_root: Path, old_avatar: Callable[..., Path]) -> None:
    folder = old_avatar()
    avatar = catalog(models_root, num_frames=4).get("sanders")
    assert (avatar.frame_count, len(avatar.frame_paths), len(avatar.rects)) == (4, 4, 4)
    rects = json.loads((folder / "crop_rects.json").read_text())
    (folder / "crop_rects.json").write_text(json.dumps(rects[:4]))
    assert catalog(models_root, num_frames=4).get("sanders").frame_count == 4
    assert "has 4 rectangles for 6 frames" in problems_of(models_root)


def test_num_frames_beyond_what_is_there_is_a_problem(models_root: Path, old_avatar: Callable[..., Path]) -> None:
    old_avatar()
    assert "num_frames is 523, but there are 6 frames" in problems_of(models_root, num_frames=523)


def without_network(folder: Path) -> None:
    (folder / "checkpoint" / "model_best.onnx").unlink()


def with_gap(folder: Path) -> None:
    (folder / "frames" / "frame_000002.jpg").unlink()
    (folder / "frames" / "frame_000003.jpg").unlink()


def with_double(folder: Path) -> None:
    (folder / "frames" / "4.jpg").write_bytes((folder / "frames" / "frame_000004.jpg").read_bytes())


def starting_late(folder: Path) -> None:
    for index in (0, 1, 2):
        (folder / "frames" / f"frame_{index:06d}.jpg").unlink()


def with_one_rect(folder: Path) -> None:
    (folder / "crop_rects.json").write_text("[[1, 2, 30, 40]]")


def with_rect_outside(folder: Path) -> None:
    (folder / "crop_rects.json").write_text(json.dumps([[1, 2, 30, 40]] * 5 + [[0, 0, 999, 9]]))


def with_gap_in_rects(folder: Path) -> None:
    (folder / "crop_rects.json").write_text(json.dumps({str(n): {"rect": [1, 2, 30, 40]} for n in (0, 1, 2, 4, 5, 6)}))


def with_truncated_first(folder: Path) -> None:
    path = folder / "frames" / "frame_000000.jpg"
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without_network, "model_path: sanders/checkpoint/model_best.onnx is missing"),
        (with_gap, "background_dir: sanders/frames frames 2 to 3 are missing"),
        (with_double, "frame 4 is there more than once: 4.jpg and frame_000004.jpg"),
        (starting_late, "frames 0 to 2 are missing"),
        (with_one_rect, "crop_rects_path: sanders/crop_rects.json has 1 rectangles for 6 frames"),
        (with_rect_outside, "frame 5: [0, 0, 999, 9] is not inside the 160x96 picture"),
        (with_gap_in_rects, "frame 3 is missing"),
        (with_truncated_first, "frame_000000.jpg is truncated"),
        (without_frames, "has no frame pictures in it; with source_video"),
    ],
)
def test_each_damage_is_named(
    models_root: Path, old_avatar: Callable[..., Path], damage: Callable[[Path], None], says: str
) -> None:
    damage(old_avatar())
    assert says in problems_of(models_root, **{**SANDERS, "num_frames": None})


def test_every_damage_is_named_at_once(models_root: Path, old_avatar: Callable[..., Path]) -> None:
    folder = old_avatar()
    without_network(folder)
    with_gap(folder)
    (folder / "crop_rects.json").write_text("{")
    said = problems_of(models_root)
    assert all(key in said for key in ("model_path", "background_dir", "crop_rects_path"))


def test_an_entry_without_files_names_them_all(models_root: Path) -> None:
    said = problems_of(models_root)
    assert said.count("is missing") == 3


def test_a_stray_number_is_told_without_counting_to_it(models_root: Path, old_avatar: Callable[..., Path]) -> None:
    folder = old_avatar()
    (folder / "frames" / "999999999.jpg").write_bytes(b"x")
    assert "frames 6 to 999999998 are missing" in problems_of(models_root)


def test_other_files_among_the_frames_are_ignored(models_root: Path, old_avatar: Callable[..., Path]) -> None:
    folder = old_avatar()
    for name in ("Thumbs.db", ".DS_Store", "cover.jpg", "frame_000001.jpg.bak", "frame_x.jpg"):
        (folder / "frames" / name).write_bytes(b"x")
    assert catalog(models_root).get("sanders").frame_count == 6


def test_loop_paste_and_mask_can_be_said(models_root: Path, old_avatar: Callable[..., Path]) -> None:
    old_avatar()
    avatar = catalog(models_root, loop="forward", paste="direct", mask=[5, 5, 310, 315]).get("sanders")
    assert (avatar.loop, avatar.paste, avatar.mask) == (Loop.FORWARD, Paste.DIRECT, Mask(5, 5, 310, 315))


@pytest.mark.parametrize(
    "entry",
    [
        {"model_pth": "x"},
        {"num_frames": 0},
        {"num_frames": "many"},
        {"num_frames": True},
        {"preferred_gpu": -2},
        {"preload": "perhaps"},
        {"mask": [1]},
        {"paste": "glue"},
    ],
    ids=str,
)
def test_a_wrong_entry_is_refused(entry: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelEntry.model_validate(entry)


def test_every_key_of_an_entry_is_described() -> None:
    fields = ModelEntry.model_fields
    old_keys = "model_path background_dir crop_rects_path num_frames preload preload_model preload_backgrounds preferred_gpu"
    assert set(old_keys.split()) | {"source_video", "crops_video_path", "rois_video_path"} <= set(fields)
    told = {row.key: row.description for row in describe(InferenceSettings)}
    assert all(len(told[f"models.<id>.{name}"]) > 20 for name in fields)


@pytest.mark.parametrize(("entry", "wanted"), [({}, False), ({"preload": True}, True), ({"preload_model": True}, True)])
def test_either_name_asks_for_preloading(entry: dict[str, bool], wanted: bool) -> None:
    assert ModelEntry.model_validate(entry).wants_model_preloaded is wanted


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        (
            "checkpoint/model_best.onnx",
            11 << 30,
            "model_path: sanders/checkpoint/model_best.onnx has 11811160064 bytes",
        ),
        (
            "crop_rects.json",
            15_000_000,
            "crop_rects_path: sanders/crop_rects.json has 15000000 bytes, more than the 68608",
        ),
        (
            "frames/frame_000000.jpg",
            1 << 40,
            "background_dir: sanders/frames/frame_000000.jpg has 1099511627776 bytes",
        ),
    ],
)
def test_a_file_of_more_than_is_needed_is_not_read(
    models_root: Path, old_avatar: Callable[..., Path], name: str, size: int, says: str
) -> None:
    folder = old_avatar("sanders")
    with (folder / name).open("r+b") as file:
        file.truncate(size)
    with pytest.raises(BrokenAvatar) as caught:
        AvatarCatalog(models_root).get("sanders")
    assert str(caught.value).startswith(says)


def turned(picture: Any, suffix: str) -> bytes:
    """A file that has the picture lying on its side, and says so, as telephones write it."""
    lying = cv2.imencode(suffix, cv2.rotate(picture, cv2.ROTATE_90_COUNTERCLOCKWISE))[1].tobytes()
    tags = (
        b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<I", 0)
    )
    if suffix == ".png":
        chunk = b"eXIf" + tags
        return lying[:33] + struct.pack(">I", len(tags)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + lying[33:]
    segment = b"Exif\0\0" + tags
    return lying[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + lying[2:]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("which", [range(6), [3]], ids=["all", "one"])
def test_pictures_that_are_stored_turned_are_read_upright(
    models_root: Path, old_avatar: Callable[..., Path], frame: Frame, suffix: str, which: Sequence[int]
) -> None:
    """OpenCV shows them so, with which rectangles are found, and an import writes them so."""
    folder = old_avatar("sanders", naming="frame_{:06d}" + suffix)
    for index in which:
        (folder / "frames" / f"frame_{index:06d}{suffix}").write_bytes(turned(frame(index), suffix))
    avatar = AvatarCatalog(models_root).get("sanders")
    assert (avatar.width, avatar.height) == (160, 96)
    for index, path in enumerate(avatar.frame_paths):
        assert np.array_equal(avatar.read_frame(index), cv2.imread(str(path)))
    assert verify_avatar(avatar, run_networks=False).ok
    path = avatar.frame_paths[which[-1]]
    path.write_bytes(path.read_bytes()[:-40])
    assert "is truncated" in verify_avatar(avatar, run_networks=False).problems[0]
    with pytest.raises(BrokenAvatar, match="is truncated"):
        avatar.read_frame(which[-1])


def test_one_picture_that_is_turned_the_wrong_way_is_named(
    models_root: Path, old_avatar: Callable[..., Path], frame: Frame
) -> None:
    folder = old_avatar("sanders")
    upright = cv2.rotate(frame(2), cv2.ROTATE_90_CLOCKWISE)
    (folder / "frames" / "frame_000002.jpg").write_bytes(turned(upright, ".jpg"))
    avatar = AvatarCatalog(models_root).get("sanders")
    with pytest.raises(BrokenAvatar, match=r"frame_000002.jpg is 96x160, the avatar is 160x96"):
        avatar.read_frame(2)
    assert "is 96x160" in verify_avatar(avatar, run_networks=False).problems[0]
