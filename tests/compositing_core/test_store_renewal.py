"""Reloading avatars whose files were replaced: once however many ask, never content with what was read before."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import compositing_service.backgrounds.store
from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarReplaced, BrokenAvatar
from compositing_service.backgrounds.composer import open_composer
from compositing_service.backgrounds.store import BackgroundStore
from compositing_service.outputs import JpegOutput

JPEG = JpegOutput(75)
MakeAvatar = Callable[..., Avatar]


@pytest.fixture
def catalog(make_avatar: MakeAvatar, tmp_path: Path) -> AvatarCatalog:
    make_avatar(tmp_path, "anna")
    return AvatarCatalog(tmp_path)


@pytest.fixture
def store(make_store: Callable[..., BackgroundStore]) -> BackgroundStore:
    return make_store(max_avatars=1)


@pytest.fixture
def replace(make_avatar: MakeAvatar, tmp_path: Path) -> Callable[[], Avatar]:
    """Puts other pictures in the place of "anna"."""

    def put() -> Avatar:
        made = make_avatar(tmp_path / "elsewhere", "anna", seed=70)
        shutil.rmtree(tmp_path / "anna")
        made.root.rename(tmp_path / "anna")
        return AvatarCatalog(tmp_path).get("anna")

    return put


async def version(store: BackgroundStore) -> str:
    async with store.acquire("anna") as lease:
        return lease.value.avatar.version


async def test_files_that_are_the_same_are_not_loaded_again(store: BackgroundStore) -> None:
    async with store.acquire("anna") as lease:
        assert not await store.renew(lease)
    async with store.acquire("anna") as again:
        assert again.value is lease.value


async def test_rectangles_edited_in_place_are_another_version(store: BackgroundStore, tmp_path: Path) -> None:
    async with store.acquire("anna") as lease:
        rects = tmp_path / "anna" / "crop_rects.json"
        rects.write_text(rects.read_text().replace("[30,", "[29,"))
        assert await store.renew(lease)
    assert await version(store) != lease.value.avatar.version


async def test_who_comes_late_finds_it_done(store: BackgroundStore, replace: Callable[[], Avatar]) -> None:
    async with store.acquire("anna") as old:
        new = replace()
        assert all(await asyncio.gather(*(store.renew(old) for _ in range(10))))
        async with store.acquire("anna") as renewed:
            assert renewed.value.avatar.version == new.version
            assert await store.renew(old)
        async with store.acquire("anna") as still:
            assert still.value is renewed.value
        with pytest.raises(AvatarReplaced):
            await asyncio.to_thread(old.value.stored, 1, JpegOutput(75))


async def test_broken_files_leave_the_old_one(store: BackgroundStore, replace: Callable[[], Avatar]) -> None:
    await store.load("anna", preload=True)
    async with store.acquire("anna") as old:
        new = replace()
        (new.root / "crop_rects.json").write_text("nothing")
        with pytest.raises(AvatarReplaced, match=r"replaced.*crop_rects"):
            await store.renew(old)
        await asyncio.to_thread(old.value.stored, 1, JpegOutput(75))
    assert await version(store) == old.value.avatar.version
    assert "crop_rects" in store.load_errors["anna"]


async def test_opening_in_the_middle_of_a_swap_begins_again(
    store: BackgroundStore, replace: Callable[[], Avatar], monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped: list[Avatar] = []

    def swap_first(avatar: Avatar, **options: Any) -> Any:
        if not swapped:
            swapped.append(replace())
        return open_composer(avatar, **options)

    monkeypatch.setattr(compositing_service.backgrounds.store, "open_composer", swap_first)
    assert await version(store) == swapped[0].version


async def test_a_preload_finishes_with_the_new_files(
    store: BackgroundStore, replace: Callable[[], Avatar], monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.load("anna")
    new = replace()
    assert (await store.load("anna", preload=True)).value.cached_frames() == new.frame_count
    assert await version(store) == new.version


async def test_a_preload_tells_what_is_wrong_with_the_new_files(store: BackgroundStore, replace: Callable[[], Avatar]) -> None:
    await store.load("anna")
    (replace().root / "crop_rects.json").write_text("nothing")
    with pytest.raises(BrokenAvatar, match="crop_rects"):
        await store.load("anna", preload=True)
    assert store.find("anna")
