"""An avatar's version, and that nothing is ever read of files that took the place of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import avatar_kit.avatar
import avatar_kit.writer
from avatar_kit.avatar import Avatar, Rect, load_avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarReplaced, BrokenAvatar
from avatar_kit.partial_folder import exchange
from avatar_kit.writer import AvatarWriter

from ..filmed import both_forms

MakeJpeg = Callable[[int], bytes]
MakeOld = Callable[..., Path]


def other_avatar(root: Path, jpeg_of: MakeJpeg, *, avatar_id: str = "ada", frames: int = 6) -> Avatar:
    """Other pictures, rectangles and network under the same id."""
    with AvatarWriter(root, avatar_id, width=160, height=96, replace=True) as writer:
        for index in range(frames):
            writer.add_frame(jpeg_of(20 + index), Rect(10, 10, 80 + index, 90))
        writer.set_network(b"another")
        return writer.finish()


def before_the_first_call(patch: pytest.MonkeyPatch, module: object, name: str, do: Callable[[], object]) -> None:
    """Has something done in the middle: just before the first call of a function of a module."""
    real, waiting = getattr(module, name), [do]

    def call(*args: object, **options: object) -> object:
        if waiting:
            waiting.pop()()
        return real(*args, **options)

    patch.setattr(module, name, call)


def test_the_version_is_the_manifests_checksum(avatar: Avatar) -> None:
    assert avatar.version == hashlib.sha256((avatar.root / "avatar.yaml").read_bytes()).hexdigest()[:16]


def test_copies_have_the_same_version(avatar: Avatar, old_avatar: MakeOld, tmp_path: Path, models_root: Path) -> None:
    old_avatar()
    shutil.copytree(models_root, tmp_path / "elsewhere")  # with other times and other inodes
    for folder in (tmp_path / "elsewhere").rglob("*"):
        os.utime(folder, (1, 1))
    for avatar_id in ("ada", "sanders"):
        here = AvatarCatalog(models_root).get(avatar_id).version
        assert here
        assert AvatarCatalog(tmp_path / "elsewhere").get(avatar_id).version == here


def put_another_in_its_place(avatar: Avatar, other: Avatar) -> None:
    avatar.root.rename(avatar.root.with_name("away"))
    other.root.rename(avatar.root)


def turn_the_link(avatar: Avatar, other: Avatar) -> None:
    avatar.root.unlink()
    avatar.root.symlink_to(other.root)


@pytest.mark.parametrize("layout", ["pictures", "linked", "video", "old"])
def test_frames_are_those_of_the_folder_that_was_loaded(
    avatar: Avatar, models_root: Path, old_avatar: MakeOld, jpeg_of: MakeJpeg, layout: str
) -> None:
    """Another folder takes its name when one frame at most has been read."""
    other = other_avatar(models_root, jpeg_of, avatar_id="next")
    replace = put_another_in_its_place
    if layout == "old":
        old_avatar()
        avatar, other = AvatarCatalog(models_root).get("sanders"), dataclasses.replace(other, root=other.root / "frames")
        avatar = dataclasses.replace(avatar, root=avatar.root / "frames")
    elif layout == "video":
        avatar, _ = both_forms(avatar, models_root)
    elif layout == "linked":
        (models_root / "person").symlink_to("ada")
        avatar, replace = load_avatar(models_root / "person"), turn_the_link
    before = [avatar.read_frame(index) for index in range(avatar.frame_count)]
    again = AvatarCatalog(models_root).get(avatar.id)
    again.read_frame(0)
    replace(avatar, other)
    assert not again.held.is_in_place()
    for index, picture in enumerate(before):
        np.testing.assert_array_equal(again.read_frame(index), picture)


@pytest.mark.parametrize("frames", [2, 6])
def test_frames_that_went_with_their_folder_are_replaced_not_broken(
    avatar: Avatar, models_root: Path, jpeg_of: MakeJpeg, frames: int
) -> None:
    avatar.read_frame(0)
    other = other_avatar(models_root, jpeg_of, frames=frames)
    assert other.version != avatar.version
    for index in (0, 5):
        with pytest.raises(AvatarReplaced, match="replaced"):
            avatar.read_frame(index)
    other.read_frame(1)
    shutil.rmtree(other.root)
    with pytest.raises(AvatarReplaced):
        other.read_frame(1)


def test_a_swap_while_a_picture_is_read_gives_the_old_one(
    avatar: Avatar, models_root: Path, jpeg_of: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = other_avatar(models_root, jpeg_of, avatar_id="next")
    wanted = avatar.read_frame(3)
    before_the_first_call(monkeypatch, os, "open", lambda: put_another_in_its_place(avatar, other))
    np.testing.assert_array_equal(avatar.read_frame(3), wanted)


def test_other_files_are_read_by_their_paths_and_looked_at_afterwards(
    avatar: Avatar, models_root: Path, jpeg_of: MakeJpeg
) -> None:
    with avatar.held.in_place():
        assert avatar.network_path.read_bytes()
    with pytest.raises(BrokenAvatar), avatar.held.in_place():
        raise BrokenAvatar("of its own files")
    with pytest.raises(AvatarReplaced), avatar.held.in_place():
        other_avatar(models_root, jpeg_of)
    assert avatar.network_path.read_bytes() == b"another"
    with pytest.raises(AvatarReplaced), avatar.held.in_place():
        raise BrokenAvatar("of files that are not its own")


def test_who_forgets_an_avatar_leaves_nothing_open(avatar: Avatar) -> None:
    def open_times() -> int:
        return [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()].count(str(avatar.root))

    before, loaded = open_times(), load_avatar(avatar.root)
    for _ in range(50):
        load_avatar(avatar.root).read_frame(2)
    assert loaded.held.is_in_place()
    assert open_times() == before + 1
    del loaded
    assert open_times() == before


def test_damage_stays_damage(avatar: Avatar) -> None:
    avatar.frame_paths[2].write_bytes(avatar.frame_paths[2].read_bytes()[:-40])
    avatar.frame_paths[4].unlink()
    for index in (2, 4):
        with pytest.raises(BrokenAvatar):
            avatar.read_frame(index)


def test_edited_rectangles_are_another_version(avatar: Avatar) -> None:
    assert avatar.rects_path is not None
    avatar.rects_path.write_text(avatar.rects_path.read_text().replace("[50, 30,", "[51, 30,"))
    edited = load_avatar(avatar.root)
    assert edited.version != avatar.version
    assert edited.rects[0].x1 == 51


@pytest.mark.parametrize("change", ["network", "frame", "rects"])
def test_any_part_of_an_old_layout_is_another_version(
    old_avatar: MakeOld, models_root: Path, change: str, jpeg_of: MakeJpeg
) -> None:
    folder = old_avatar()
    old = AvatarCatalog(models_root).get("sanders")
    network, [first, *_] = old.network_path, old.frame_paths
    if change == "network":
        network.write_bytes(bytes(reversed(network.read_bytes())))
    elif change == "frame":
        replacement = first.with_name("new")
        replacement.write_bytes(jpeg_of(50))
        replacement.rename(first)
    else:
        (folder / "crop_rects.json").write_text(json.dumps([[1, 1, 90, 90]] * 6))
    assert AvatarCatalog(models_root).get("sanders").version != old.version


def test_a_large_network_trained_on_is_another_version(old_avatar: MakeOld, models_root: Path) -> None:
    old_avatar()
    catalog = AvatarCatalog(models_root)
    network = catalog.get("sanders").network_path
    network.write_bytes(os.urandom(3 << 20))
    before = catalog.get("sanders").version
    network.write_bytes(os.urandom(3 << 20))
    assert catalog.get("sanders").version != before


def test_loading_in_the_middle_of_a_swap_gives_one_avatar(
    avatar: Avatar, models_root: Path, jpeg_of: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is the old one's; by the time that the frames are listed the new one is there."""
    swapped: list[Avatar] = []

    def swap() -> None:
        swapped.append(other_avatar(models_root, jpeg_of, frames=3))

    before_the_first_call(monkeypatch, avatar_kit.avatar, "numbered_frames", swap)
    loaded = AvatarCatalog(models_root).get("ada")
    assert (loaded.version, loaded.frame_count) == (swapped[0].version, 3)
    assert loaded.rects == swapped[0].rects


def test_problems_seen_in_the_middle_of_a_swap_are_not_told(
    avatar: Avatar, models_root: Path, jpeg_of: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six frames by the manifest and two listed: of two avatars, so that neither is broken."""
    before_the_first_call(monkeypatch, avatar_kit.avatar, "numbered_frames", lambda: other_avatar(models_root, jpeg_of, frames=2))
    assert AvatarCatalog(models_root).get("ada").frame_count == 2


def test_an_avatar_that_is_replaced_at_every_reading_is_not_loaded(
    avatar: Avatar, models_root: Path, jpeg_of: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = avatar_kit.avatar.numbered_frames  # type: ignore[attr-defined]

    def replace_first(*args: object, **options: object) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(avatar_kit.avatar, "numbered_frames", real)
            other_avatar(models_root, jpeg_of)
        return real(*args, **options)

    monkeypatch.setattr(avatar_kit.avatar, "numbered_frames", replace_first)
    with pytest.raises(AvatarReplaced, match="load it again"):
        AvatarCatalog(models_root).get("ada")


def test_nobody_sees_a_replaced_avatar_missing(avatar: Avatar, models_root: Path, jpeg_of: MakeJpeg, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system swaps nothing in one step")
    missing, done, looking = [], threading.Event(), threading.Event()

    def look() -> None:
        while not done.is_set():
            if not os.path.lexists(avatar.root / "avatar.yaml"):
                missing.append(True)
            looking.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    assert looking.wait(20)
    try:
        for _ in range(20):
            other_avatar(models_root, jpeg_of, frames=1)
    finally:
        done.set()
        watcher.join()
    assert not missing
    assert [path.name for path in models_root.iterdir()] == ["ada"]


@pytest.mark.parametrize("in_one_step", [True, False])
def test_whatever_stood_there_is_replaced(
    models_root: Path, jpeg_of: MakeJpeg, tmp_path: Path, in_one_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_one_step:
        monkeypatch.setattr(avatar_kit.writer, "exchange", lambda *_: False)
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "kept").write_text("of somebody else")
    place = models_root / "ada"
    for stand in (lambda: place.symlink_to(tmp_path / "target"), place.mkdir, lambda: None):
        stand()
        assert other_avatar(models_root, jpeg_of).frame_count == 6
        assert [path.name for path in models_root.iterdir()] == ["ada"]
        shutil.rmtree(place)
    assert (tmp_path / "target" / "kept").exists()


def test_exchange_refuses_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    assert not exchange(tmp_path / "one", tmp_path / "two")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_network_replaced_by_the_importer_is_another_version(
    avatar: Avatar, models_root: Path, jpeg_of: MakeJpeg, network: Callable[..., onnx.ModelProto]
) -> None:
    """Everything else being the same: the manifest has its checksum."""
    versions = set()
    for gain in (0.1, 0.2):
        with AvatarWriter(models_root, "ada", width=160, height=96, replace=True) as writer:
            writer.add_frame(jpeg_of(0), Rect(10, 10, 80, 90))
            writer.set_network(network(gain=gain).SerializeToString())
            versions.add(writer.finish().version)
    assert len(versions) == 2
