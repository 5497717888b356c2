"""Avatars that keep their video, in the store: prepared in one go, and read by one decoder wherever callers need it."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import Rect
from compositing_service.backgrounds.store import BackgroundStore
from compositing_service.outputs import JpegOutput, RawOutput

from ..filmed import both_forms, damage, watch_decoding

FRAMES = 48
JPEG = JpegOutput(75)
PATIENCE_S = 60


@pytest.fixture
def root(make_avatar, tmp_path):
    """The avatars "kept" and "extracted" of 48 frames, every twelfth a keyframe."""
    rects = [Rect(30 + step, 20, 62 + step, 52) for step in range(8)]
    both_forms(make_avatar(tmp_path, size=(96, 80), rects=rects), tmp_path, rounds=FRAMES // 8)
    return tmp_path


class Decoding(Counter):
    """Counts decodings of each frame. The gates hold up the threads that prepare frames, and all others; they are open."""

    def __init__(self):
        super().__init__()
        self.preparing, self.asking = threading.Event(), threading.Event()
        self.preparing.set()
        self.asking.set()


@pytest.fixture
def decoded(monkeypatch):
    counts = Decoding()

    def told(number):
        gate = counts.preparing if threading.current_thread().name.startswith("avatar-fill") else counts.asking
        assert gate.wait(PATIENCE_S)
        counts[number] += 1

    watch_decoding(monkeypatch, told)
    return counts


@pytest.fixture
def catalog(root):
    return AvatarCatalog(root)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as threads:
        yield threads


async def frame(lease, pool, index, *, mouth=None, output=JPEG):
    loop = asyncio.get_running_loop()
    if mouth is None:
        return await loop.run_in_executor(pool, lease.value.stored, index, output)
    return await loop.run_in_executor(pool, lease.value.composite, index, mouth, output)


async def expected(make_store, pool, mouths, output=JPEG):
    async with make_store().acquire("extracted") as lease:
        return [await frame(lease, pool, index, mouth=mouths[index % 4], output=output) for index in range(FRAMES)]


async def test_loading_it_decodes_each_frame_once(make_store, decoded):
    """But for the first, which is looked at before."""
    store = make_store()
    assert (await store.load("kept", preload=True)).value.cached_frames() == FRAMES
    assert decoded == Counter([0, *range(FRAMES)])
    assert (await store.load("kept", preload=True)).value.cached_frames() == FRAMES


@pytest.mark.parametrize("output", [JPEG, JpegOutput(30), RawOutput()], ids=["JPEG", "another quality", "raw"])
async def test_callers_at_eight_places_while_its_frames_are_prepared(make_store, pool, mouths, output):
    wanted = await expected(make_store, pool, mouths, output)
    store = make_store()

    async def call(first):
        async with store.acquire("kept") as lease:
            for index in [*range(first, FRAMES), *range(first)]:
                assert await frame(lease, pool, index, mouth=mouths[index % 4], output=output) == wanted[index]

    await asyncio.gather(*(call(first) for first in (40, 13, 2, 30, 25, 36, 7, 19)))


async def test_nobody_waits_for_the_preparing(make_store, pool, decoded, mouths):
    wanted = await expected(make_store, pool, mouths)
    decoded.preparing.clear()
    store = make_store()
    async with store.acquire("kept") as lease:
        for index in (38, 39, 3):
            assert await frame(lease, pool, index, mouth=mouths[index % 4]) == wanted[index]
    decoded.preparing.set()
    assert decoded[12] == 0


async def test_what_is_prepared_is_decoded_for_nobody_again(make_store, pool, decoded):
    store = make_store()
    await store.load("kept", preload=True)
    decoded.asking.clear()
    async with store.acquire("kept") as lease:
        for index in (47, 0, 20):
            await frame(lease, pool, index)


@pytest.mark.parametrize("limits", [{"frames_per_avatar": 10}, {"max_bytes": 120_000}], ids=["few frames", "few bytes"])
async def test_without_room_for_all_it_serves_the_same(make_store, pool, mouths, limits):
    wanted = await expected(make_store, pool, mouths)
    store = make_store(**limits)

    async def call(first):
        async with store.acquire("kept") as lease:
            for index in [*range(first, FRAMES), *range(first)]:
                assert await frame(lease, pool, index, mouth=mouths[index % 4]) == wanted[index]

    await asyncio.gather(*(call(first) for first in (0, 20, 33, 10)))
    assert store.cache.nbytes <= store.cache.max_bytes
    assert store.loaded[0].value.cached_frames() < FRAMES


async def test_one_caller_without_room_decodes_each_frame_about_once_a_round(make_store, pool, decoded):
    store = make_store(frames_per_avatar=1)
    async with store.acquire("kept") as lease:
        await store.load("kept", preload=True)
        before = decoded.total()
        for index in range(FRAMES):
            await frame(lease, pool, index)
    assert decoded.total() - before <= FRAMES + 1


async def test_unloading_ends_the_preparing(make_store, decoded):
    store = make_store()
    decoded.preparing.clear()
    await store.load("kept")
    assert await store.unload("kept")
    decoded.preparing.set()
    await store.close()
    assert decoded.total() < 10


async def test_closing_while_callers_wait_lets_them_go(make_store, pool, decoded):
    store = make_store()
    await store.load("kept")
    async with store.acquire("kept") as lease:
        waiting = asyncio.create_task(frame(lease, pool, 47))
        await store.close()
        assert (await waiting).startswith(b"\xff\xd8")


@pytest.mark.parametrize("frames_per_avatar", [1000, 2])
async def test_an_unloaded_avatar_lets_go_of_its_video(make_store, pool, frames_per_avatar):
    """Without a search for garbage, which knows nothing of a decoder's memory; as soon as no thread is at it."""
    store = make_store(frames_per_avatar=frames_per_avatar)
    gc.disable()
    try:
        await store.load("kept", preload=True)
        async with store.acquire("kept") as lease:
            for index in range(0, FRAMES, 5):
                await frame(lease, pool, index)
            video = weakref.ref(lease.value.avatar.video)
        del lease
        assert video()
        assert await store.unload("kept")
        await store.close()
        pool.shutdown()
        assert video() is None
    finally:
        gc.enable()


async def test_damage_is_told_and_spoils_no_other_avatar(make_store, root, pool, mouths):
    kept = AvatarCatalog(root).get("kept")
    damage(kept)
    store = make_store()
    with pytest.raises(BrokenAvatar, match=r"background\.mp4 has changed"):
        await store.load("kept", preload=True)
    async with store.acquire("extracted") as lease:
        assert await frame(lease, pool, 0, mouth=mouths[0])


async def test_a_damaged_video_without_checksum_serves_what_is_whole(make_store, root, pool):
    """Nothing in the older servers' layout tells of the content."""
    folder = root / "sanders"
    (folder / "checkpoint").mkdir(parents=True)
    kept = AvatarCatalog(root).get("kept")
    (folder / "checkpoint" / "model_best.onnx").write_bytes(b"no network")
    (folder / "crop_rects.json").write_bytes((kept.root / "crop_rects.json").read_bytes())
    (folder / "video.mp4").write_bytes((kept.root / "background.mp4").read_bytes())
    from avatar_kit.model_entry import ModelEntry

    catalog = AvatarCatalog(root, {"sanders": ModelEntry.model_validate({"source_video": "sanders/video.mp4"})})
    damage(catalog.get("sanders"))
    store = BackgroundStore(catalog, max_bytes=10**9, max_avatars=3, frames_per_avatar=1000, policy="lfu", default_quality=75)
    with pytest.raises(BrokenAvatar, match=r"video\.mp4 is damaged or truncated: frames? \d+"):
        await store.load("sanders", preload=True)
    async with store.acquire("sanders") as lease:
        assert (await frame(lease, pool, 0)).startswith(b"\xff\xd8")
        assert (await frame(lease, pool, 47)).startswith(b"\xff\xd8")
    assert "damaged" in store.load_errors["sanders"]
    await store.close()
