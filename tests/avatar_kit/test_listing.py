"""A listing says what reading every avatar anew would say, and reads those alone whose files changed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError
from avatar_kit.listing import AvatarListing
from avatar_kit.model_entry import ModelEntry

Write = Callable[..., Avatar]


class Reader:
    """A listing that notes which avatars it reads."""

    def __init__(self, root: Path, *, entries: dict[str, ModelEntry] | None = None, later_s: float = 10) -> None:
        """`later_s`: how long ago all files seem to have been written."""
        self.catalog = AvatarCatalog(root, entries)
        self.listing = AvatarListing(self.catalog, self._describe, wall_clock=lambda: time.time() + later_s)
        self._read: list[str] = []

    def _describe(self, avatar_id: str, found: Avatar | AvatarError) -> str:
        self._read.append(avatar_id)
        return _text(found)

    @property
    def read(self) -> list[str]:
        """Those read since it was asked last, sorted."""
        read, self._read = self._read, []
        return sorted(read)

    async def check(self) -> dict[str, str]:
        """Compares the list with the avatars that are there, and returns it."""
        listed = dict(await self.listing.entries())
        there = {}
        for avatar_id in self.catalog.ids():
            try:
                there[avatar_id] = _text(self.catalog.get(avatar_id))
            except AvatarError as error:
                there[avatar_id] = _text(error)
        assert listed == there
        assert list(listed) == sorted(listed)
        return listed


def _text(found: Avatar | AvatarError) -> str:
    return found.caller_text if isinstance(found, AvatarError) else f"{found.version} {found.frame_count} {found.loop}"


@pytest.fixture
def reader(models_root: Path, write_avatar: Write) -> Iterator[Reader]:
    write_avatar("ada")
    write_avatar("eve")
    made = Reader(models_root)
    yield made
    made.listing.close()


async def test_what_did_not_change_is_read_once(reader: Reader) -> None:
    await reader.check()
    assert reader.read == ["ada", "eve"]
    for _ in range(3):
        await reader.check()
        await reader.listing.refresh()
    assert reader.read == []


async def test_new_and_removed_ones(reader: Reader, models_root: Path, write_avatar: Write) -> None:
    await reader.check()
    write_avatar("bob")
    shutil.rmtree(models_root / "eve")
    (models_root / "file").write_bytes(b"x")
    (models_root / "empty").mkdir()
    assert list(await reader.check()) == ["ada", "bob"]
    assert reader.read == ["ada", "bob", "eve"]
    (models_root / "empty" / "avatar.yaml").write_text("a: 1")
    assert list(await reader.check()) == ["ada", "bob", "empty"]
    (models_root / "empty" / "avatar.yaml").unlink()
    (models_root / "empty" / "checkpoint").mkdir()
    assert list(await reader.check()) == ["ada", "bob"]
    (models_root / "empty" / "checkpoint" / "model_best.onnx").write_bytes(b"x")
    assert list(await reader.check()) == ["ada", "bob", "empty"]


def rewrite_manifest(root: Path) -> None:
    """Writes it in the same size as before."""
    text = (root / "avatar.yaml").read_text()
    (root / "avatar.yaml").write_text(text.replace("bounce", "FORWARD"[:6].lower()))


def edit_rects(root: Path) -> None:
    rects = json.loads((root / "crop_rects.json").read_text())
    rects[0][0] += 1
    (root / "crop_rects.json").write_text(json.dumps(rects))


def damage_first_frame(root: Path) -> None:
    with (root / "frames" / "frame_000000.jpg").open("r+b") as file:
        file.truncate(100)


@pytest.mark.parametrize(
    "change",
    [
        rewrite_manifest,
        edit_rects,
        damage_first_frame,
        lambda root: (root / "frames" / "frame_000005.jpg").unlink(),
        lambda root: (root / "frames" / "frame_000006.jpg").write_bytes(b"x"),
        lambda root: (root / "network.onnx").unlink(),
        lambda root: (root / "network.onnx").write_bytes(b""),
        lambda root: (root / "audio_encoder.onnx").unlink(),
        lambda root: (root / "avatar.yaml").rename(root / "other.yaml"),
        lambda root: os.utime(root / "avatar.yaml", (0, 0)),
    ],
    ids=range(10),
)
async def test_a_change_in_place_and_its_mending(
    reader: Reader, models_root: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    before = await reader.check()
    shutil.copytree(models_root / "ada", tmp_path / "kept")
    change(models_root / "ada")
    await reader.check()
    assert reader.read.count("eve") == 1
    for path in (tmp_path / "kept").rglob("*"):
        if path.is_file():  # written in place, file by file
            (models_root / "ada" / path.relative_to(tmp_path / "kept")).write_bytes(path.read_bytes())
    for path in (models_root / "ada").rglob("*"):
        if not (tmp_path / "kept" / path.relative_to(models_root / "ada")).exists():
            path.unlink()
    assert await reader.check() == before


async def test_a_replaced_one(reader: Reader, write_avatar: Write) -> None:
    before = await reader.check()
    write_avatar("ada", loop="forward", replace=True)
    assert (await reader.check())["ada"] != before["ada"]
    assert reader.read == ["ada", "ada", "eve"]


async def test_a_link_that_is_turned(reader: Reader, models_root: Path, tmp_path: Path) -> None:
    for name in ("ada", "eve"):
        (models_root / name).rename(tmp_path / name)
    rewrite_manifest(tmp_path / "eve")
    (models_root / "link").symlink_to(tmp_path / "ada")
    first = await reader.check()
    (models_root / "link").unlink()
    (models_root / "link").symlink_to(tmp_path / "eve")
    second = await reader.check()
    assert list(first) == list(second) == ["link"]
    assert first != second
    shutil.rmtree(tmp_path / "eve")
    assert await reader.check() == {}


async def test_files_that_were_just_written_are_read_again(models_root: Path, write_avatar: Write) -> None:
    """A second change within a tick of the file system's clock leaves time and size as they were."""
    write_avatar("ada")
    reader = Reader(models_root, later_s=0)
    await reader.check()
    await reader.check()
    assert reader.read == ["ada", "ada"]
    reader.listing.close()


async def test_one_whose_files_are_elsewhere(models_root: Path, old_avatar: Callable[..., Path], tmp_path: Path) -> None:
    shutil.move(old_avatar("sanders"), tmp_path / "sanders")
    entry = ModelEntry(
        model_path=tmp_path / "sanders" / "checkpoint" / "model_best.onnx",
        background_dir=tmp_path / "sanders" / "frames",
        crop_rects_path=tmp_path / "sanders" / "crop_rects.json",
    )
    reader = Reader(models_root, entries={"sanders": entry})
    good = await reader.check()
    for name in ("crop_rects.json", "checkpoint/model_best.onnx", "frames/frame_000000.jpg"):
        (tmp_path / "sanders" / name).rename(tmp_path / "moved")
        assert await reader.check() != good
        (tmp_path / "moved").rename(tmp_path / "sanders" / name)
        assert await reader.check() == good
    assert len(reader.read) == 7
    reader.listing.close()


async def test_errors_that_pass_are_not_kept(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("avatar_kit.rectangles.json.loads", _raise_no_memory)
        assert "memory" in (await reader.listing.entries())["ada"]
    await reader.check()


def _raise_no_memory(_: object) -> None:
    raise MemoryError


async def test_of_very_many_some_are_looked_at_each_second(
    models_root: Path, write_avatar: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Covers those changed in place; what is new, gone or replaced is seen at once."""
    monkeypatch.setattr("avatar_kit.listing.ALL_AT_ONCE", 20)
    monkeypatch.setattr("avatar_kit.listing.EACH_REFRESH", 60)
    first = write_avatar("a0000").root
    count = 100
    for number in range(1, count):
        shutil.copytree(first, models_root / f"a{number:04d}")
    reader = Reader(models_root)
    assert len(await reader.listing.entries()) == len(reader.read) == count
    last = models_root / f"a{count - 1:04d}"
    for folder in (first, last):
        (folder / "avatar.yaml").unlink()
        (folder / "avatar.yaml").write_text("a: 1")
    shutil.rmtree(models_root / "a0005")
    shutil.copytree(first, models_root / "new")
    listed = await reader.listing.entries()
    assert "a0005" not in listed
    assert "is missing" in listed["new"]
    assert reader.read == ["new"]
    for _ in range(3):
        await reader.listing.refresh()
    assert reader.read == ["a0000", last.name]
    listed = await reader.listing.entries()
    assert "is missing" in listed["a0000"]
    assert "is missing" in listed[last.name]
    for number in set(range(count)) - {5}:
        (models_root / f"a{number:04d}" / "avatar.yaml").write_text("another: text")
    for _ in range(3):
        await reader.listing.refresh()
    assert len(reader.read) == count - 1
    reader.listing.close()
