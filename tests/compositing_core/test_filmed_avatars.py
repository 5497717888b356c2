"""Avatars that keep their video, in the store: decoded once, in whatever order callers need its frames."""

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
from avatar_kit.video.cursor import VideoCursor
from avatar_kit.video.frames import VideoFrames
from compositing_service.backgrounds.store import BackgroundStore
from compositing_service.outputs import JpegOutput, RawOutput

from ..filmed import both_forms, damage

FRAMES = 48
JPEG = JpegOutput(75)
PATIENCE_S = 30


@pytest.fixture
def root(make_avatar, tmp_path):
    """The avatars "kept" and "extracted" of 48 frames, every twelfth a keyframe."""
    rects = [Rect(30 + step, 20, 62 + step, 52) for step in range(8)]
    both_forms(make_avatar(tmp_path, size=(96, 80), rects=rects), tmp_path, rounds=FRAMES // 8)
    return tmp_path


@pytest.fixture
def decoded(monkeypatch):
    """How often each frame was decoded. `gate` can hold decoding up; it is open."""
    counts = Counter()
    counts.gate = threading.Event()
    counts.gate.set()
    advance = VideoCursor.advance

    def counting(cursor):
        assert counts.gate.wait(PATIENCE_S)
        counts[cursor.next] += 1
        return advance(cursor)

    monkeypatch.setattr(VideoCursor, "advance", counting)
    return counts


@pytest.fixture
async def make_store(root):
    stores = []

    def make(**settings):
        defaults = {
            "max_bytes": 10**9,
            "max_avatars": 10,
            "frames_per_avatar": 1000,
            "policy": "lfu",
            "default_quality": 75,
        }
        stores.append(BackgroundStore(AvatarCatalog(root), **defaults | settings))
        return stores[-1]

    async with asyncio.timeout(PATIENCE_S * 2):
        yield make
        for store in stores:
            await store.close()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as threads:
        yield threads


async def frame(lease, pool, index, *, mouth=None, output=JPEG):
    """As the service makes it: what is being prepared is waited for without a thread."""
    preparing = lease.preparing([index], output)
    if preparing:
        await preparing
    loop = asyncio.get_running_loop()
    if mouth is None:
        return await loop.run_in_executor(pool, lease.composer.stored, index, output)
    return await loop.run_in_executor(pool, lease.composer.composite, index, mouth, output)


async def expected(make_store, pool, mouths):
    async with make_store().acquire("extracted") as lease:
        return [await frame(lease, pool, index, mouth=mouths[index % 4]) for index in range(FRAMES)]


async def test_loading_it_decodes_each_frame_once(make_store, decoded):
    store = make_store()
    stats = await store.load("kept", preload=True)
    assert stats.cached_frames == FRAMES
    assert decoded == Counter(range(FRAMES))
    again = await store.load("kept", preload=True)
    assert again.cached_frames == FRAMES


async def test_the_frame_that_it_was_opened_with_is_not_decoded_again(make_store, pool, decoded):
    """Although others, at four places of the video, are waited for before it."""
    store = make_store()
    async with store.acquire("kept") as lease:
        await asyncio.gather(*(frame(lease, pool, index) for index in (40, 30, 15, 3)))
    await store.load("kept", preload=True)
    assert decoded == Counter(range(FRAMES))


async def test_callers_at_eight_places_while_it_is_gone_through(make_store, pool, decoded, mouths):
    """Each frame is decoded once all the same, and is the very one of the avatar with pictures."""
    wanted = await expected(make_store, pool, mouths)
    store = make_store()

    async def call(first):
        async with store.acquire("kept") as lease:
            for index in range(first, min(first + 12, FRAMES)):
                assert await frame(lease, pool, index, mouth=mouths[index % 4]) == wanted[index]

    await asyncio.gather(*(call(first) for first in (40, 13, 2, 30, 25, 36, 7, 19)))
    await store.load("kept", preload=True)
    assert decoded == Counter(range(FRAMES))


@pytest.mark.parametrize("output", [JpegOutput(30), RawOutput()], ids=["another quality", "raw"])
async def test_what_is_wished_is_made_of_the_one_decoding(make_store, pool, decoded, mouths, output):
    store = make_store()
    async with make_store().acquire("extracted") as lease:
        wanted = [await frame(lease, pool, index, mouth=mouths[0], output=output) for index in range(12)]
    decoded.gate.clear()
    loading = asyncio.create_task(store.load("kept"))
    decoded.gate.set()
    await loading
    async with store.acquire("kept") as lease:
        got = await asyncio.gather(*(frame(lease, pool, index, mouth=mouths[0], output=output) for index in range(12)))
    assert got == wanted


async def test_a_frame_far_ahead_is_served_while_the_rest_is_not_yet(make_store, pool, decoded, mouths):
    wanted = await expected(make_store, pool, mouths)
    store = make_store()
    async with store.acquire("kept") as lease:
        assert await frame(lease, pool, 38, mouth=mouths[2]) == wanted[38]
    await store.load("kept", preload=True)
    assert decoded == Counter(range(FRAMES))


@pytest.mark.parametrize("limits", [{"frames_per_avatar": 10}, {"max_bytes": 120_000}], ids=["few frames", "few bytes"])
async def test_without_room_for_all_it_serves_the_same(make_store, pool, mouths, limits):
    wanted = await expected(make_store, pool, mouths)
    store = make_store(**limits)

    async def call(first):
        async with store.acquire("kept") as lease:
            for index in [*range(first, FRAMES), *range(first)]:
                assert await frame(lease, pool, index, mouth=mouths[index % 4]) == wanted[index]

    await asyncio.gather(*(call(first) for first in (0, 20, 33, 10)))
    stats = store.stats()
    assert stats.memory_bytes <= stats.max_bytes
    assert stats.avatars[0].cached_frames < FRAMES


async def test_one_caller_without_room_decodes_each_frame_about_once_a_round(make_store, pool, decoded):
    store = make_store(frames_per_avatar=1)
    async with store.acquire("kept") as lease:
        await store.load("kept", preload=True)
        before = decoded.total()
        for index in range(FRAMES):
            await frame(lease, pool, index)
    assert decoded.total() - before <= FRAMES + 1


async def test_unloading_ends_the_going_through(make_store, decoded):
    store = make_store()
    decoded.gate.clear()
    store_load = asyncio.create_task(store.load("kept"))
    decoded.gate.set()
    await store_load
    assert await store.unload("kept")
    await store.close()
    assert decoded.total() <= FRAMES


async def test_closing_while_callers_wait_lets_them_go(make_store, pool, decoded):
    store = make_store()
    await store.load("kept")
    async with store.acquire("kept") as lease:
        waiting = asyncio.create_task(frame(lease, pool, 47))
        await store.close()
        assert (await waiting).startswith(b"\xff\xd8")


async def test_the_end_of_the_going_through_waits_for_no_reader_on_the_event_loop(make_store, pool, monkeypatch):
    """Somebody is at the beginning of a long run of frames when the last one has been prepared."""
    closing, ended = threading.Event(), threading.Event()
    close = VideoFrames.close

    def wait_and_close(video):
        closing.set()
        assert ended.wait(PATIENCE_S), "the event loop waits"
        close(video)

    monkeypatch.setattr(VideoFrames, "close", wait_and_close)
    store = make_store()
    preload = asyncio.create_task(store.load("kept", preload=True))
    assert await asyncio.to_thread(closing.wait, PATIENCE_S)
    async with store.acquire("kept") as lease:
        assert await frame(lease, pool, FRAMES - 1)
    ended.set()
    assert (await preload).cached_frames == FRAMES


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
            video = weakref.ref(lease.avatar.video)
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
    """As in the older servers' layout, where nothing says what the content was."""
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
    assert "damaged" in store.stats().avatars[0].load_error
    await store.close()
