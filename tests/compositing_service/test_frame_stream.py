"""Frames in order, some ahead of whoever takes them, and no work left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import BrokenAvatar
from compositing_service.backgrounds.composer import AvatarComposer
from compositing_service.backgrounds.store import BackgroundStore
from compositing_service.frame_stream import FRAMES_PER_JOB, Frame, FrameMaker
from compositing_service.metrics import CompositingMetrics
from compositing_service.mouth_source import Mouths
from compositing_service.outputs import JpegOutput, Output, RawOutput
from compositing_service.overload import Overload
from service_kit.clock import SYSTEM_CLOCK
from service_kit.errors import Unavailable
from service_kit.metrics import Metrics
from shared_proto import inference_pb2

from ..virtual_clock import VirtualClock

PATIENCE_S = 60
RAW = RawOutput()
BOUNCE = [0, 1, 2, 3, 4, 3, 2, 1]
POSITIONS = range(3, 27)
INDICES = [BOUNCE[position % 8] for position in POSITIONS]


@pytest.fixture
async def store(models_root: Path) -> AsyncIterator[BackgroundStore]:
    store = BackgroundStore(
        AvatarCatalog(models_root), max_bytes=10**9, max_avatars=9, frames_per_avatar=99, policy="lfu", default_quality=75
    )
    async with asyncio.timeout(PATIENCE_S):
        yield store
        await store.close()


@pytest.fixture
async def composer(store: BackgroundStore) -> AsyncIterator[AvatarComposer]:
    async with store.acquire("demo") as lease:
        yield lease.value


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def maker(pool: ThreadPoolExecutor) -> FrameMaker:
    return FrameMaker(pool, CompositingMetrics(Metrics()), Overload(SYSTEM_CLOCK))


def mouths_of(count: int, *, first: int = 0) -> Mouths:
    """Mouths of one grey each: 7 for the first mouth of a stream, 8 for the next."""
    pixels = np.empty((count, 320, 320, 3), np.uint8)
    pixels[...] = np.arange(first + 7, first + 7 + count).reshape(-1, 1, 1, 1)
    return Mouths(pixels, queue_ms=2.0 * count, inference_ms=4.0 * count, audio_ms=5.0, gpu_id=3)


class Source:
    """Mouths in groups of that size. Knows how many were asked for."""

    def __init__(self, size: int = 1, *, fails_at: int | None = None) -> None:
        self.size, self.fails_at = size, fails_at
        self.asked = 0
        self.exhausted = asyncio.Event()
        self.closed = False

    async def groups(self, total: int) -> AsyncGenerator[Mouths, None]:
        try:
            for first in range(0, total, self.size):
                if first == self.fails_at:
                    raise Unavailable("lost")
                count = min(self.size, total - first)
                self.asked = first + count
                yield mouths_of(count, first=first)
            self.exhausted.set()
        finally:
            self.closed = True


async def taken(stream: AsyncGenerator[Frame, None], count: int | None = None) -> list[Frame]:
    frames = []
    async with aclosing(stream):
        async for frame in stream:
            frames.append(frame)
            if len(frames) == count:
                break
    return frames


def expected(composer: AvatarComposer, output: Output) -> list[bytes]:
    mouths = mouths_of(len(INDICES)).pixels
    return [composer.composite(index, mouth, output) for index, mouth in zip(INDICES, mouths, strict=True)]


@pytest.mark.parametrize("output", [RAW, JpegOutput(60)], ids=["raw", "jpeg"])
@pytest.mark.parametrize(("size", "ahead"), [(1, 24), (3, 1), (4, 5), (5, 24), (24, 6), (24, 24)])
async def test_each_frame_has_its_own_mouth_in_order(
    maker: FrameMaker, composer: AvatarComposer, output: Output, size: int, ahead: int
) -> None:
    frames = await taken(maker.frame_stream(composer, POSITIONS, Source(size).groups(24), output, ahead=ahead))
    assert [frame.position for frame in frames] == list(POSITIONS)
    assert [frame.index for frame in frames] == INDICES
    assert [frame.picture for frame in frames] == expected(composer, output)


async def test_a_frame_knows_its_share_of_the_time(maker: FrameMaker, composer: AvatarComposer) -> None:
    frames = await taken(maker.frame_stream(composer, POSITIONS, Source(6).groups(24), RAW, ahead=24))
    for times in (frame.times for frame in frames):
        assert (times.queue_ms, times.inference_ms, times.audio_ms, times.gpu_id) == (2.0, 4.0, 5.0, 3)
        assert times.composite_ms > 0


@pytest.mark.parametrize("ahead", [1, 7, 24])
async def test_without_mouths_the_pictures_are_as_stored(maker: FrameMaker, composer: AvatarComposer, ahead: int) -> None:
    frames = await taken(maker.frame_stream(composer, POSITIONS, None, RAW, ahead=ahead))
    assert [frame.picture for frame in frames] == [composer.stored(index, RAW) for index in INDICES]
    assert {(frame.times.inference_ms, frame.times.gpu_id) for frame in frames} == {(0.0, -1)}


@pytest.mark.parametrize("ahead", [1, 5])
async def test_no_more_is_begun_than_is_wanted_ahead(maker: FrameMaker, composer: AvatarComposer, ahead: int) -> None:
    """The frame that is being looked at is one of them; the mouths of one more are there and wait."""
    source = Source()
    async with aclosing(maker.frame_stream(composer, POSITIONS, source.groups(24), RAW, ahead=ahead)) as stream:
        for count in range(1, 24 - ahead):
            await anext(stream)
            while source.asked < count + ahead:  # noqa: ASYNC110 - nothing outside this loop is waited for
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)
            assert source.asked == count + ahead


async def test_a_large_group_is_shared_out(composer: AvatarComposer) -> None:
    meeting = threading.Barrier(2, timeout=PATIENCE_S)

    class Meeting(ThreadPoolExecutor):
        """Its first two jobs run at the same time, or not at all."""

        jobs = 0

        def submit(self, work: Any, /, *args: Any, **options: Any) -> Future[Any]:
            self.jobs += 1

            def meet_first() -> Any:
                meeting.wait()
                return work(*args, **options)

            return super().submit(meet_first) if self.jobs <= 2 else super().submit(work, *args, **options)

    with Meeting(2) as pool:
        maker = FrameMaker(pool, CompositingMetrics(Metrics()), Overload(SYSTEM_CLOCK))
        frames = await taken(maker.frame_stream(composer, POSITIONS, Source(24).groups(24), RAW, ahead=24))
    assert [frame.picture for frame in frames] == expected(composer, RAW)


async def test_an_error_of_the_source_comes_after_the_frames_before_it(maker: FrameMaker, composer: AvatarComposer) -> None:
    source = Source(3, fails_at=9)
    stream = maker.frame_stream(composer, POSITIONS, source.groups(24), RAW, ahead=24)
    frames = [await anext(stream) for _ in range(9)]
    assert [frame.picture for frame in frames] == expected(composer, RAW)[:9]
    with pytest.raises(Unavailable, match="lost"):
        await anext(stream)
    assert source.closed


async def test_a_frame_that_cannot_be_made_ends_the_stream_and_its_source(
    maker: FrameMaker, composer: AvatarComposer, models_root: Path
) -> None:
    (models_root / "demo" / "frames" / "frame_000001.png").write_bytes(b"no picture")
    source = Source()
    with pytest.raises(BrokenAvatar, match="frame_000001"):
        await taken(maker.frame_stream(composer, range(24), source.groups(24), RAW, ahead=6))
    assert source.closed
    assert source.asked <= 1 + FRAMES_PER_JOB + 6


async def test_closing_drops_what_has_not_begun(store: BackgroundStore, composer: AvatarComposer) -> None:
    busy = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(busy.wait, PATIENCE_S)
        source = Source()
        maker = FrameMaker(pool, CompositingMetrics(Metrics()), Overload(SYSTEM_CLOCK))
        taking = asyncio.create_task(taken(maker.frame_stream(composer, POSITIONS, source.groups(24), RAW, ahead=24)))
        await source.exhausted.wait()
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        assert source.closed
        busy.set()
    assert taking.cancelled()
    assert (store.cache.hits, store.cache.misses) == (0, 0)


async def test_who_takes_no_more_frames_leaves_nothing_behind(maker: FrameMaker, composer: AvatarComposer) -> None:
    source = Source()
    frames = await taken(maker.frame_stream(composer, POSITIONS, source.groups(24), RAW, ahead=6), 2)
    assert [frame.picture for frame in frames] == expected(composer, RAW)[:2]
    assert source.closed
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


@pytest.mark.parametrize("overloaded", [False, True])
async def test_under_overload_batch_work_waits_while_a_session_paints(composer: AvatarComposer, overloaded: bool) -> None:
    """For a while: it must not wait for ever."""
    busy, clock = threading.Event(), VirtualClock()
    with ThreadPoolExecutor(2) as pool:
        overload = Overload(clock)
        if overloaded:
            overload.note(inference_pb2.OVERLOAD_LARGER_GROUPS)
        maker = FrameMaker(pool, CompositingMetrics(Metrics()), overload, clock)
        pool.submit(busy.wait, PATIENCE_S)
        pool.submit(busy.wait, PATIENCE_S)
        painting = asyncio.create_task(maker.paint(composer, [0], mouths_of(1), RAW))
        source = Source()
        taking = asyncio.create_task(taken(maker.frame_stream(composer, POSITIONS[:2], source.groups(2), RAW, ahead=1)))
        await asyncio.sleep(0)
        if overloaded:
            await clock.asleep()
            assert source.asked == 1, "the first frame is not begun"
            await clock.advance(0.3)
        busy.set()
        await painting
        while not taking.done():  # the second one may wait again, if the session still paints
            await clock.advance(0.3)
            await asyncio.sleep(0.01)
        assert [frame.picture for frame in await taking] == expected(composer, RAW)[:2]
