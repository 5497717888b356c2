"""Format version 1 on disk: what is written can be checked with other tools, and every damage is named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avatar_kit.avatar import Avatar, Loop, Mask, Paste, Rect, load_avatar
from avatar_kit.errors import BrokenAvatar


def change(folder: Path, **keys: Any) -> None:
    path = folder / "avatar.yaml"
    content = yaml.safe_load(path.read_text())
    content.update(keys)
    path.write_text(yaml.safe_dump(content))


def problems_of(folder: Path) -> tuple[str, ...]:
    with pytest.raises(BrokenAvatar) as caught:
        load_avatar(folder)
    assert str(folder) not in str(caught.value), "callers may see this: no paths of this machine"
    return caught.value.problems


def test_what_was_written_is_loaded(write_avatar: Callable[..., Avatar], models_root: Path) -> None:
    written = write_avatar(loop=Loop.FORWARD, paste=Paste.FEATHER, mask=Mask(1, 2, 300, 310))
    avatar = load_avatar(models_root / "ada")
    assert avatar == written
    assert (avatar.id, avatar.fps, avatar.frame_count, avatar.width, avatar.height) == ("ada", 25.0, 6, 160, 96)
    assert (avatar.loop, avatar.paste, avatar.mask) == (Loop.FORWARD, Paste.FEATHER, Mask(1, 2, 300, 310))
    assert avatar.rects[2] == Rect(52, 30, 112, 90)
    assert [path.name for path in avatar.frame_paths[:2]] == ["frame_000000.jpg", "frame_000001.jpg"]
    assert avatar.network_path.is_file()
    assert avatar.audio_encoder_path is not None
    assert avatar.features_path is None


def test_the_manifest_says_what_the_format_promises(avatar: Avatar) -> None:
    content = yaml.safe_load((avatar.root / "avatar.yaml").read_text())
    files = content.pop("files")
    assert content == {
        "format_version": 1,
        "id": "ada",
        "fps": 25,
        "frame_count": 6,
        "width": 160,
        "height": 96,
        "network_kind": "ave",
        "loop": "bounce",
        "paste": "reference",
        "mask": [5, 5, 310, 305],
        "reference": "current",
        "idle_mouth": "rest",
    }
    assert json.loads((avatar.root / "crop_rects.json").read_text())[1] == [51, 30, 111, 90]
    for entry in files.values():
        assert hashlib.sha256((avatar.root / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]
    sums = [line.split("  ") for line in (avatar.root / "frames.sha256").read_text().splitlines()]
    assert [name for _, name in sums] == [f"frames/frame_{index:06d}.jpg" for index in range(6)]
    assert all(hashlib.sha256((avatar.root / name).read_bytes()).hexdigest() == digest for digest, name in sums)


def test_frames_are_decoded_as_opencv_does(avatar: Avatar) -> None:
    for index, path in enumerate(avatar.frame_paths):
        assert np.array_equal(avatar.read_frame(index), cv2.imread(str(path)))


@pytest.mark.parametrize("index", [-1, 6, 10**9])
def test_a_frame_beyond_the_clip_is_an_index_error(avatar: Avatar, index: int) -> None:
    with pytest.raises(IndexError):
        avatar.read_frame(index)


def test_a_copied_folder_is_an_avatar_under_its_new_name(avatar: Avatar, models_root: Path) -> None:
    shutil.copytree(avatar.root, models_root / "twin")
    assert load_avatar(models_root / "twin").id == "twin"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("format_version", 2, "format_version is 2, only 1"),
        ("format_version", "one", "format_version"),
        ("id", "../x", "not an avatar id"),
        ("fps", 30, "only 25 can be served"),
        ("fps", float("nan"), "fps"),
        ("frame_count", 0, "frame_count"),
        ("frame_count", True, "frame_count"),
        ("frame_count", 10**9, "frame_count"),
        ("frame_count", 7, "6 pictures, but avatar.yaml says frame_count 7"),
        ("width", 161, "is 160x96, the avatar is 161x96"),
        ("width", -1, "less than 16x16"),
        ("height", 100_000, "more than 8192"),
        ("network_kind", "wenet", "network_kind"),
        ("loop", "sideways", "bounce"),
        ("paste", "glue", "reference"),
        ("mask", [5, 5, 310], "x, y, width, height"),
        ("mask", [5, 5, 320, 305], "320x320"),
        ("mask", [5.5, 5, 310, 305], "whole numbers"),
        ("files", {}, "files.network is missing"),
        ("files", "all", "files"),
        ("colour", "red", "colour is not a key"),
    ],
)
def test_each_wrong_key_is_named(avatar: Avatar, key: str, value: object, says: str) -> None:
    change(avatar.root, **{key: value})
    assert says in "; ".join(problems_of(avatar.root))


def test_every_problem_is_named_at_once(avatar: Avatar) -> None:
    (avatar.root / "frames" / "frame_000003.jpg").unlink()
    (avatar.root / "network.onnx").unlink()
    rects = json.loads((avatar.root / "crop_rects.json").read_text())
    rects[4] = [100, 30, 161, 90]
    (avatar.root / "crop_rects.json").write_text(json.dumps(rects))
    said = problems_of(avatar.root)
    assert len(said) == 3
    assert any("frame 3 is missing" in problem for problem in said)
    assert any("network.onnx" in problem and "missing" in problem for problem in said)
    assert any("frame 4: [100, 30, 161, 90] is not inside the 160x96 picture" in problem for problem in said)


@pytest.mark.parametrize("gone", [0, 2, 5])
def test_a_missing_frame_is_named(avatar: Avatar, gone: int) -> None:
    avatar.frame_paths[gone].unlink()
    said = "; ".join(problems_of(avatar.root))
    assert f"frame {gone} is missing" in said or (gone == 5 and "5 pictures" in said)


@pytest.mark.parametrize(
    ("rects", "says"),
    [
        ([], "0 rectangles for 6 frames"),
        ([[0, 0, 9, 9]] * 5, "5 rectangles for 6 frames"),
        ([[0, 0, 9, 9]] * 7, "7 rectangles for 6 frames"),
        ([[0, 0, 9, 9]] * 5 + [[9, 0, 9, 9]], "frame 5: [9, 0, 9, 9] is empty"),
        ([[0, 0, 9, 9]] * 5 + [[0, 9, 9, 8]], "frame 5: [0, 9, 9, 8] is empty"),
        ([[-1, 0, 9, 9]] + [[0, 0, 9, 9]] * 5, "frame 0: [-1, 0, 9, 9] is not inside"),
        ([[0, 0, 9, 97]] * 6, "frame 0: [0, 0, 9, 97] is not inside"),
        ([[0, 0, 9.5, 9]] + [[0, 0, 9, 9]] * 5, "frame 0: [0, 0, 9.5, 9] is not four whole numbers"),
        ([[0, 0, True, 9]] * 6, "is not four whole numbers"),
        ([[0, 0, 9]] * 6, "is not four whole numbers"),
        ([None] * 6, "is not four whole numbers"),
        (["0,0,9,9"] * 6, "is not four whole numbers"),
        ([[0, 0, float("nan"), 9]] * 6, "is not four whole numbers"),
        ([[0, 0, float("inf"), 9]] * 6, "is not four whole numbers"),
        ([[0, 0, 10**30, 9]] * 6, "is not inside"),
        ("rects", "neither an array"),
        ({"rects": []}, "not a frame number"),
    ],
)
def test_wrong_rectangles_are_named_with_their_frame(avatar: Avatar, rects: object, says: str) -> None:
    (avatar.root / "crop_rects.json").write_text(json.dumps(rects))
    assert says in "; ".join(problems_of(avatar.root))


def test_many_wrong_rectangles_are_counted_not_listed(avatar: Avatar) -> None:
    (avatar.root / "crop_rects.json").write_text(json.dumps([[0, 0, 999, 9]] * 500))
    said = problems_of(avatar.root)
    assert len(said) < 15
    assert said[-1].endswith("and 490 more like these")


@pytest.mark.parametrize(
    "text", ["", "[", "[[1,2,3,4]", "[" * 100_000, "\xff\xfe", "9" * 10_000, "[" + "9" * 5000 + "]"], ids=range(7)
)
def test_what_is_no_json_is_a_problem(avatar: Avatar, text: str) -> None:
    (avatar.root / "crop_rects.json").write_text(text, encoding="latin-1")
    assert "crop_rects.json" in problems_of(avatar.root)[0]


def test_rectangles_with_whole_floats_are_rectangles(avatar: Avatar) -> None:
    (avatar.root / "crop_rects.json").write_text(json.dumps([[0.0, 1.0, 9.0, 10.0]] * 6))
    assert load_avatar(avatar.root).rects[0] == Rect(0, 1, 9, 10)


@pytest.mark.parametrize("path", ["../network.onnx", "/etc/hostname", "a/../../network.onnx", "..\\network.onnx", "a\0b", "."])
def test_a_file_outside_the_folder_is_refused(avatar: Avatar, path: str) -> None:
    shutil.copy(avatar.network_path, avatar.root.parent / "network.onnx")
    content = yaml.safe_load((avatar.root / "avatar.yaml").read_text())
    content["files"]["network"]["path"] = path
    change(avatar.root, files=content["files"])
    assert "files.network" in problems_of(avatar.root)[0]


@pytest.mark.parametrize("name", ["network.onnx", "crop_rects.json", "audio_encoder.onnx", "frames/frame_000002.jpg", "frames"])
def test_a_link_out_of_the_folder_is_refused(avatar: Avatar, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "elsewhere"
    (avatar.root / name).rename(outside)
    (avatar.root / name).symlink_to(outside)
    assert "leads out of the avatar's folder" in "; ".join(problems_of(avatar.root))


def test_a_link_inside_the_folder_is_fine(avatar: Avatar) -> None:
    (avatar.root / "net").mkdir()
    (avatar.root / "network.onnx").rename(avatar.root / "net" / "a.onnx")
    (avatar.root / "network.onnx").symlink_to("net/a.onnx")
    assert load_avatar(avatar.root).network_path.is_file()


def test_a_circle_of_links_is_a_problem(avatar: Avatar) -> None:
    (avatar.root / "network.onnx").unlink()
    (avatar.root / "network.onnx").symlink_to("network.onnx")
    assert "network" in problems_of(avatar.root)[0]


@pytest.mark.parametrize("name", ["avatar.yaml", "crop_rects.json", "network.onnx", "frames/frame_000000.jpg"])
def test_a_pipe_in_a_files_place_does_not_block(avatar: Avatar, name: str) -> None:
    (avatar.root / name).unlink()
    os.mkfifo(avatar.root / name)
    assert "not a regular file" in "; ".join(problems_of(avatar.root))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n- b\n",
        "a: [1, 2",
        "{" * 5000,
        "a: &x [1]\nb: *x\n",
        "a: &a {k: 1}\nb: &b {<<: [*a, *a]}\n",
        "!!python/object/apply:os.system ['touch /tmp/pwned']",
        "a: !!python/name:os.system\n",
        "a: 2001-99-99\n",
        "? [a]\n: b\n",
        "\0",
        "%YAML 9.9\n---\na: 1\n",
        "a: 0x" + "f" * 60_000,
        "a: " + "9" * 60_000,
        "#" * 70_000,
    ],
    ids=range(15),
)
def test_a_hostile_manifest_is_a_problem(avatar: Avatar, text: str) -> None:
    (avatar.root / "avatar.yaml").write_text(text)
    assert problems_of(avatar.root)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings().max_examples * 80 // 100)
@given(st.binary(max_size=200) | st.text("{}[]&*!|>:-? ab1\n\t'\"#%@`", max_size=120).map(str.encode))
def test_any_manifest_is_an_avatar_or_a_problem(avatar: Avatar, content: bytes) -> None:
    (avatar.root / "avatar.yaml").write_bytes(content)
    assert problems_of(avatar.root)


def test_aliases_which_can_grow_without_end_are_refused(avatar: Avatar) -> None:
    path = avatar.root / "avatar.yaml"
    path.write_text(path.read_text() + "more: &x [1]\nstill: [*x, *x]\n")
    assert "aliases are not allowed" in problems_of(avatar.root)[0]


@pytest.mark.parametrize("lists", ["[" * 5000, "- " * 5000 + "1", "{a: " * 12 + "1" + "}" * 12])
def test_deep_nesting_is_refused(avatar: Avatar, lists: str) -> None:
    path = avatar.root / "avatar.yaml"
    path.write_text(path.read_text() + "more:\n  " + lists)
    assert "not valid YAML: nested too deeply" in problems_of(avatar.root)[0]


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("damage", [truncated, lambda data: b"", lambda data: b"not a picture", lambda data: data[:-2]])
def test_a_damaged_frame_is_named_when_it_is_read(avatar: Avatar, damage: Callable[[bytes], bytes]) -> None:
    path = avatar.frame_paths[3]
    path.write_bytes(damage(path.read_bytes()))
    loaded = load_avatar(avatar.root)
    assert loaded.read_frame(2).shape == (96, 160, 3)
    with pytest.raises(BrokenAvatar, match=r"^frames/frame_000003.jpg "):
        loaded.read_frame(3)
    path.unlink()
    with pytest.raises(BrokenAvatar, match=r"^frames/frame_000003.jpg is missing"):
        loaded.read_frame(3)


@pytest.mark.parametrize("name", ["avatar.yaml", "crop_rects.json", "network.onnx", "frames/frame_000000.jpg"])
def test_a_folder_in_a_files_place_is_a_problem_and_stays_closed(avatar: Avatar, name: str) -> None:
    (avatar.root / name).unlink()
    (avatar.root / name).mkdir()
    before = len(os.listdir("/proc/self/fd"))
    assert "not a regular file" in "; ".join(problems_of(avatar.root))
    assert len(os.listdir("/proc/self/fd")) <= before  # fewer: those of earlier tests


def test_a_file_larger_than_allowed_is_refused_unread(avatar: Avatar) -> None:
    with (avatar.root / "crop_rects.json").open("r+b") as file:
        file.truncate(2**40)
    assert "more than the" in "; ".join(problems_of(avatar.root))


def test_a_damaged_first_frame_is_found_at_loading(avatar: Avatar) -> None:
    avatar.frame_paths[0].write_bytes(avatar.frame_paths[0].read_bytes()[:-300])
    assert "frames/frame_000000.jpg is truncated" in problems_of(avatar.root)[0]


def test_a_frame_of_another_size_is_named(avatar: Avatar) -> None:
    cv2.imwrite(str(avatar.frame_paths[1]), np.zeros((100, 160, 3), np.uint8))
    with pytest.raises(BrokenAvatar, match="is 160x100, the avatar is 160x96"):
        avatar.read_frame(1)


def test_a_picture_of_more_bytes_than_its_pixels_is_not_read(avatar: Avatar) -> None:
    with avatar.frame_paths[1].open("r+b") as file:
        file.truncate(60 << 20)
    with pytest.raises(BrokenAvatar, match=r"frame_000001.jpg has 62914560 bytes, more than the 1171456 allowed"):
        avatar.read_frame(1)
