from __future__ import annotations

import asyncio
import shutil
import threading

import pytest

from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarNotFound, BrokenAvatar, InvalidAvatarId
from avatar_kit.geometry import Rect
from compositing_service.outputs import JpegOutput, RawOutput
from service_kit.errors import ResourceExhausted

from ..virtual_clock import VirtualClock

PATIENCE_S = 60


class Catalog:
    """The real catalog, counting its readings; those of `held` avatars wait for `go_on`."""

    def __init__(self, root):
        self._catalog = AvatarCatalog(root)
        self.readings = []
        self.held = set()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def get(self, avatar_id):
        self.readings.append(avatar_id)
        if avatar_id in self.held:
            self.begun.set()
            assert self.go_on.wait(PATIENCE_S)
        return self._catalog.get(avatar_id)


@pytest.fixture
def root(make_avatar, tmp_path):
    for number, avatar_id in enumerate(["anna", "bert", "cleo"]):
        make_avatar(tmp_path, avatar_id, seed=10 * number)
    return tmp_path


@pytest.fixture
def catalog(root):
    return Catalog(root)


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def store_settings(clock):
    return {"clock": clock, "wall_clock": lambda: 1_700_000_000.0 + clock.now()}


def loaded_ids(store):
    return [lease.key for lease in store.loaded]


async def use(store, avatar_id, *, times=1):
    for _ in range(times):
        async with store.acquire(avatar_id) as lease:
            await asyncio.to_thread(lease.value.stored, 0, JpegOutput(75))


async def test_a_preload_gives_back_once_what_decoded_pictures_took(make_store, monkeypatch):
    given_back = []
    monkeypatch.setattr(
        "compositing_service.backgrounds.preparing.return_free_memory",
        lambda: given_back.append(store.find("anna").value.cached_frames()),
    )
    store = make_store()
    await store.load("anna", preload=True)
    assert given_back == [4]


async def test_one_avatars_loading_holds_up_nobody_else(make_store, catalog):
    catalog.held.add("anna")
    store = make_store()
    slow = asyncio.create_task(use(store, "anna"))
    await asyncio.to_thread(catalog.begun.wait, PATIENCE_S)
    await use(store, "bert")
    await store.load("cleo", preload=True)
    assert not slow.done()
    catalog.go_on.set()
    await slow


@pytest.mark.parametrize(
    ("avatar_id", "error"),
    [
        pytest.param("nobody", AvatarNotFound, id="unknown"),
        pytest.param("", InvalidAvatarId, id="empty"),
        pytest.param("../x", InvalidAvatarId, id="a-path"),
        pytest.param("x" * 10_000, InvalidAvatarId, id="too-long"),
    ],
)
async def test_ids_that_nobody_bears_fail_and_leave_nothing_behind(make_store, avatar_id, error):
    store = make_store(max_avatars=1)
    await use(store, "anna")
    for _ in range(2):
        with pytest.raises(error):
            await use(store, avatar_id)
    assert loaded_ids(store) == ["anna"]
    assert not store.load_errors


async def test_a_broken_avatar_says_why_and_works_when_mended(make_store, root):
    store = make_store()
    rects = root / "anna" / "crop_rects.json"
    rects.rename(root / "elsewhere")
    with pytest.raises(BrokenAvatar):
        await use(store, "anna")
    assert loaded_ids(store) == []
    assert "crop_rects" in store.load_errors["anna"]
    await use(store, "bert")

    (root / "elsewhere").rename(rects)
    await use(store, "anna")
    assert not store.load_errors


@pytest.mark.parametrize(("policy", "victim"), [("lfu", "bert"), ("lru", "anna")])
async def test_another_avatar_takes_the_place_that_the_policy_says(make_store, clock, policy, victim):
    store = make_store(max_avatars=2, policy=policy)
    for avatar_id, times in (("anna", 3), ("bert", 1), ("cleo", 1)):
        await clock.advance(1)
        await use(store, avatar_id, times=times)
    assert victim not in loaded_ids(store)
    assert len(loaded_ids(store)) == 2
    assert store.avatar_evictions == 1


async def test_an_avatar_in_use_is_never_evicted(make_store):
    store = make_store(max_avatars=1)
    async with store.acquire("anna") as anna:
        before = anna.value.stored(0, JpegOutput(75))
        with pytest.raises(ResourceExhausted, match="in use"):
            await use(store, "bert")
        assert loaded_ids(store) == ["anna"]
        assert anna.value.stored(0, JpegOutput(75)) == before
    await use(store, "bert")
    assert loaded_ids(store) == ["bert"]


async def test_the_bytes_hold_across_avatars(make_store, root):
    store = make_store()
    for avatar_id in ("anna", "bert", "cleo"):
        await store.load(avatar_id, preload=True)
    everything = store.cache.nbytes
    assert everything == sum(lease.value.memory_bytes() for lease in store.loaded)

    store = make_store(max_bytes=everything // 2)
    for avatar_id in ("anna", "bert", "cleo") * 2:
        async with store.acquire(avatar_id) as lease:
            for index in range(4):
                lease.value.stored(index, JpegOutput(75))
                lease.value.stored(index, RawOutput())
                assert store.cache.nbytes <= everything // 2
    assert store.cache.evictions > 0


async def test_frames_per_avatar_holds(make_store):
    store = make_store(frames_per_avatar=2)
    async with store.acquire("anna") as lease:
        frames = [lease.value.stored(index, JpegOutput(75)) for index in (0, 1, 2, 3, 0, 1, 2, 3)]
    assert frames[:4] == frames[4:]
    assert store.find("anna").value.cached_frames() == 2


async def test_unload_lets_requests_finish_and_frees_the_memory(make_store, catalog):
    store = make_store()
    assert not await store.unload("anna")
    async with store.acquire("anna") as lease:
        frame = lease.value.stored(1, JpegOutput(75))
        assert await store.unload("anna")
        assert store.find("anna") is None
        assert lease.value.stored(1, JpegOutput(75)) == frame
        async with store.acquire("anna") as again:
            assert again.value is not lease.value
            assert again.value.stored(1, JpegOutput(75)) == frame
    assert await store.unload("anna")
    assert not await store.unload("anna")
    assert store.cache.nbytes == 0
    assert catalog.readings == ["anna", "anna"]


async def test_force_reload_reads_again_while_requests_finish_on_the_old_state(make_store, make_avatar, root):
    store = make_store()
    async with store.acquire("anna") as old:
        before = [old.value.stored(index, JpegOutput(75)) for index in range(4)]
        make_avatar(root, "anna", seed=500, rects=[Rect(0, 0, 20, 20)] * 3, replace=True)
        await store.load("anna", force_reload=True)
        assert [old.value.stored(index, JpegOutput(75)) for index in range(4)] == before
        async with store.acquire("anna") as new:
            assert new.value.avatar.frame_count == 3
            assert new.value.stored(0, JpegOutput(75)) != before[0]
    assert store.find("anna").value.memory_bytes() == store.cache.nbytes


async def test_a_reload_that_fails_leaves_the_old_state(make_store, root):
    store = make_store()
    async with store.acquire("anna") as lease:
        frame = lease.value.stored(0, JpegOutput(75))
    (root / "anna" / "avatar.yaml").write_text("format_version: nonsense")
    with pytest.raises(BrokenAvatar):
        await store.load("anna", force_reload=True)
    assert loaded_ids(store) == ["anna"]
    assert store.load_errors["anna"]
    async with store.acquire("anna") as lease:
        assert lease.value.stored(0, JpegOutput(75)) == frame


async def test_load_without_force_reads_once(make_store, catalog):
    store = make_store()
    await asyncio.gather(*(store.load("anna") for _ in range(5)))
    await store.load("anna")
    assert catalog.readings == ["anna"]
    await asyncio.gather(*(store.load("anna", force_reload=True) for _ in range(5)))
    assert catalog.readings == ["anna", "anna"]


async def test_preload_has_every_frame_ready_when_it_returns(make_store, root):
    store = make_store()
    assert (await store.load("anna", preload=True)).value.cached_frames() == 4
    shutil.rmtree(root / "anna" / "frames")
    async with store.acquire("anna") as lease:
        assert len({lease.value.stored(index, JpegOutput(75)) for index in range(4)}) == 4
    assert store.cache.misses == 0


async def test_lazy_loading_reads_no_more_than_was_asked_for(make_store):
    store = make_store()
    assert (await store.load("anna")).value.cached_frames() == 0
    await use(store, "anna")
    assert store.find("anna").value.cached_frames() == 1


async def test_a_preload_stops_where_its_own_frames_would_have_to_go(make_store):
    store = make_store(frames_per_avatar=3)
    assert (await store.load("anna", preload=True)).value.cached_frames() == 3
    assert store.cache.evictions == 0


async def test_a_preload_names_every_broken_frame_and_keeps_the_others(make_store, root):
    store = make_store()
    (root / "anna" / "frames" / "frame_000001.png").write_bytes(b"")
    (root / "anna" / "frames" / "frame_000003.png").write_bytes(b"no picture")
    with pytest.raises(BrokenAvatar) as caught:
        await store.load("anna", preload=True)
    assert len(caught.value.problems) == 2
    assert store.find("anna").value.cached_frames() == 2
    assert "frame_000001" in store.load_errors["anna"]
    await use(store, "anna")


async def test_many_callers_at_once_get_the_right_frames_whatever_is_evicted(make_store, mouths):
    calm = make_store()
    expected = {}
    for avatar_id in ("anna", "bert", "cleo"):
        async with calm.acquire(avatar_id) as lease:
            expected[avatar_id] = [lease.value.composite(index, mouths[0], JpegOutput(75)) for index in range(4)]
    everything = calm.cache.nbytes
    store = make_store(max_avatars=2, max_bytes=everything // 3, frames_per_avatar=3)
    refused = 0

    async def caller(number):
        nonlocal refused
        for step in range(12):
            avatar_id = ("anna", "bert", "cleo")[(number * 7 + step * 5) % 3]
            index = (number + step) % 4
            if (number + step) % 11 == 0:
                await store.unload(avatar_id)
            try:
                if (number + step) % 13 == 0:
                    await store.load(avatar_id, force_reload=True)
                async with store.acquire(avatar_id) as lease:
                    frame = await asyncio.to_thread(lease.value.composite, index, mouths[0], JpegOutput(75))
            except ResourceExhausted:
                refused += 1
            else:
                assert frame == expected[avatar_id][index]
            assert store.cache.nbytes <= everything // 3

    await asyncio.gather(*(caller(number) for number in range(10)))
    assert refused < 120
    for avatar_id in loaded_ids(store):
        assert store.find(avatar_id).in_use == 0
        await store.unload(avatar_id)
    assert store.cache.nbytes == 0


async def test_avatars_share_no_data(make_store, make_avatar, root):
    """Two avatars of the same files give the same pictures from bytes of their own."""
    shutil.copytree(root / "anna", root / "dora")
    manifest = root / "dora" / "avatar.yaml"
    manifest.write_text(manifest.read_text().replace("anna", "dora"))
    store = make_store()
    async with store.acquire("anna") as anna, store.acquire("dora") as dora:
        assert anna.value.stored(0, JpegOutput(75)) == dora.value.stored(0, JpegOutput(75))
        assert anna.value.stored(0, JpegOutput(75)) is not dora.value.stored(0, JpegOutput(75))
    await store.unload("anna")
    assert store.find("dora").value.memory_bytes() == store.cache.nbytes > 0
