"""Which content an avatar has, and that nothing is ever read of files that took the place of its own."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import avatar_kit.catalog
import avatar_kit.writer
from avatar_kit.avatar import Avatar, Rect, load_avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarNotFound, AvatarReplaced, BrokenAvatar
from avatar_kit.exchange import exchange
from avatar_kit.model_entry import ModelEntry
from avatar_kit.writer import AvatarWriter

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


def test_a_swap_is_noticed_by_the_next_reading(avatar: Avatar, models_root: Path, jpeg_of: MakeJpeg) -> None:
    avatar.read_frame(0)
    assert avatar.is_current()
    other = other_avatar(models_root, jpeg_of)
    assert other.version != avatar.version
    assert not avatar.is_current()
    for index in (0, 5):
        with pytest.raises(AvatarReplaced, match="replaced"):
            avatar.read_frame(index)
    other.read_frame(5)


def test_a_swap_while_a_picture_is_read_is_noticed(
    avatar: Avatar, models_root: Path, jpeg_of: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture is of the new avatar and whole; only the look afterwards tells."""
    before_the_first_call(monkeypatch, os, "open", lambda: other_avatar(models_root, jpeg_of))
    with pytest.raises(AvatarReplaced):
        avatar.read_frame(3)


def test_a_frame_that_the_new_avatar_lacks_is_a_swap_not_damage(avatar: Avatar, models_root: Path, jpeg_of: MakeJpeg) -> None:
    other_avatar(models_root, jpeg_of, frames=2)
    with pytest.raises(AvatarReplaced):
        avatar.read_frame(5)


def test_a_missing_folder_is_a_swap_on_its_way(avatar: Avatar, tmp_path: Path) -> None:
    avatar.root.rename(tmp_path / "away")
    with pytest.raises(AvatarReplaced):
        avatar.read_frame(1)
    (tmp_path / "away").rename(avatar.root)
    avatar.read_frame(1)


def test_a_link_that_points_elsewhere_is_a_swap(avatar: Avatar, models_root: Path, jpeg_of: MakeJpeg) -> None:
    other_avatar(models_root, jpeg_of, avatar_id="next")
    link = models_root / "person"
    link.symlink_to("ada")
    linked = load_avatar(link)
    linked.read_frame(0)
    link.unlink()
    link.symlink_to("next")
    with pytest.raises(AvatarReplaced):
        linked.read_frame(1)


def test_damage_stays_damage(avatar: Avatar) -> None:
    avatar.frame_paths[2].write_bytes(avatar.frame_paths[2].read_bytes()[:-40])
    avatar.frame_paths[4].unlink()
    for index in (2, 4):
        with pytest.raises(BrokenAvatar):
            avatar.read_frame(index)


def test_the_same_content_put_there_again_is_no_swap(avatar: Avatar, tmp_path: Path) -> None:
    """Pictures read from it are the very same, so nobody need load anything."""
    shutil.copytree(avatar.root, tmp_path / "same")
    shutil.rmtree(avatar.root)
    (tmp_path / "same").rename(avatar.root)
    avatar.read_frame(5)
    assert avatar.is_current()


def test_edited_rectangles_are_another_version(avatar: Avatar) -> None:
    assert avatar.rects_path is not None
    avatar.rects_path.write_text(avatar.rects_path.read_text().replace("[50, 30,", "[51, 30,"))
    with pytest.raises(AvatarReplaced):
        avatar.read_frame(0)
    edited = load_avatar(avatar.root)
    assert edited.version != avatar.version
    assert edited.rects[0].x1 == 51


@pytest.mark.parametrize("change", ["network", "frame", "rects", "manifest"])
def test_any_part_of_an_old_layout_is_another_version(
    old_avatar: MakeOld, models_root: Path, avatar: Avatar, change: str, jpeg_of: MakeJpeg
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
    elif change == "rects":
        (folder / "crop_rects.json").write_text("[[1, 1, 90, 90], [1, 1, 90, 90]]")
    else:
        shutil.copyfile(avatar.root / "avatar.yaml", folder / "avatar.yaml")
    assert not old.is_current()
    with pytest.raises(AvatarReplaced):
        old.read_frame(3)


def test_other_files_beside_the_pictures_change_nothing(old_avatar: MakeOld, models_root: Path) -> None:
    folder = old_avatar()
    old = AvatarCatalog(models_root, {"sanders": ModelEntry(num_frames=4)}).get("sanders")
    (folder / "frames" / "thumbs.db").write_bytes(b"of a file manager")
    old.read_frame(3)


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
    loaded = load_avatar(avatar.root)
    assert (loaded.version, loaded.frame_count) == (swapped[0].version, 3)
    assert loaded.rects == swapped[0].rects


def test_problems_seen_in_the_middle_of_a_swap_are_not_told(
    avatar: Avatar, models_root: Path, jpeg_of: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six frames by the manifest and two listed: of two avatars, so that neither is broken."""
    before_the_first_call(monkeypatch, avatar_kit.avatar, "numbered_frames", lambda: other_avatar(models_root, jpeg_of, frames=2))
    assert load_avatar(avatar.root).frame_count == 2


def test_an_avatar_that_never_rests_is_not_loaded(avatar: Avatar, models_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, times = avatar_kit.avatar.numbered_frames, itertools.count(1)  # type: ignore[attr-defined]

    def touch_first(*args: object, **options: object) -> object:
        os.utime(avatar.root / "avatar.yaml", (next(times),) * 2)
        return real(*args, **options)

    monkeypatch.setattr(avatar_kit.avatar, "numbered_frames", touch_first)
    with pytest.raises(AvatarReplaced, match="try again"):
        AvatarCatalog(models_root).get("ada")


def test_the_moment_without_a_folder_is_waited_for(avatar: Avatar, models_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a writer leaves it between its two renames, where folders can not be swapped in one."""
    old = models_root / f".ada.{'0' * 12}.old"
    avatar.root.rename(old)
    monkeypatch.setattr(avatar_kit.catalog.time, "sleep", lambda _: old.rename(avatar.root))  # type: ignore[attr-defined]
    assert AvatarCatalog(models_root).get("ada").version == avatar.version


def test_what_a_killed_writer_left_is_not_waited_for_long(
    avatar: Avatar, models_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    avatar.root.rename(models_root / f".ada.{'0' * 12}.old")
    waits: list[float] = []
    monkeypatch.setattr(avatar_kit.catalog.time, "sleep", waits.append)  # type: ignore[attr-defined]
    with pytest.raises(AvatarNotFound):
        AvatarCatalog(models_root).get("ada")
    assert 0 < sum(waits) < 0.5


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
