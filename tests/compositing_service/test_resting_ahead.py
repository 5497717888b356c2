"""Mouths of silence that are made ahead of need, for those who will show an avatar at rest, in virtual time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avatar_kit.timeline import FrameRange, Loop
from compositing_service.backgrounds.resting import RETRY_S
from compositing_service.mouth_source import MouthOrder, Mouths, Rows, RowsOrder, Windows
from compositing_service.outputs import JpegOutput, RawOutput
from compositing_service.parts import CompositingParts, compositing_parts
from compositing_service.settings import CompositingSettings
from service_kit.deadline import Deadline
from service_kit.errors import ServiceError, Unavailable
from service_kit.metrics import Metrics
from service_kit.settings import load_settings

from ..virtual_clock import VirtualClock
from .conftest import write_avatar
from .fake_inference import FRAMES
from .test_compositing_parts import Colours

OUTPUT = RawOutput()
ALL = range(FRAMES)


class Counted(Colours):
    """Mouths of one colour for each picture. Notes the orders, and lets them wait or fail as told."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: list[list[int]] = []
        self.done = 0
        """The orders that were made whole."""
        self.refusals: deque[ServiceError] = deque()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def mouths(self, order: MouthOrder, *, deadline: Deadline) -> AsyncGenerator[Mouths, None]:
        assert isinstance(order.speech, Windows)
        assert order.due_in_ms == 0
        self.orders.append(list(order.frames))
        if self.refusals:
            raise self.refusals.popleft()
        await self.may_go_on.wait()
        for frame in order.frames:
            pixels = np.full((1, 320, 320, 3), (frame, 0, 9), np.uint8)
            yield Mouths(pixels, queue_ms=0, inference_ms=1, audio_ms=0, gpu_id=-1)
        self.done += 1

    async def rows(self, order: RowsOrder, *, deadline: Deadline) -> Rows:
        assert not any(order.sound.data)
        return Rows(bytes(2048 * order.count))


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def source() -> Counted:
    return Counted()


@pytest.fixture
def opened(models_root: Path, clock: VirtualClock, source: Counted) -> Callable[..., Any]:
    @asynccontextmanager
    async def open_parts(*overrides: str) -> AsyncIterator[CompositingParts]:
        overridden = [f"models_root={models_root}", "models.demo.loop=forward", *overrides]
        settings = load_settings(CompositingSettings, config=None, environ={}, overrides=overridden)
        async with asyncio.timeout(60), compositing_parts(settings, Metrics(), clock=clock, source=source) as parts:
            yield parts

    return open_parts


@pytest.fixture
async def parts(opened: Callable[..., Any]) -> AsyncIterator[CompositingParts]:
    async with opened() as parts:
        yield parts


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.005)


async def in_time(clock: VirtualClock, condition: Callable[[], object]) -> None:
    """Lets time pass until then."""
    while not condition():
        await clock.advance(1)
        await asyncio.sleep(0.005)


async def settled() -> None:
    """Gives work that should not be there time to show itself."""
    await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("loop", "idle", "position", "order"),
    [
        (Loop.BOUNCE, None, 3, [3, 4, 2, 1, 0]),
        (Loop.FORWARD, None, 3, [3, 4, 0, 1, 2]),
        (Loop.FORWARD, FrameRange(1, 2), 3, [3, 4, 0, 1, 2]),
        (Loop.BOUNCE, FrameRange(1, 2), 1, [1, 2]),
    ],
    ids=["bounce", "forward", "into the range", "within the range"],
)
async def test_they_are_made_in_the_order_in_which_they_are_shown(
    parts: CompositingParts,
    source: Counted,
    models_root: Path,
    loop: Loop,
    idle: FrameRange | None,
    position: int,
    order: list[int],
) -> None:
    write_avatar(models_root, "calm", loop=loop, idle=idle)
    async with parts.store.acquire("calm") as lease:
        composer = lease.value
        with parts.resting.wanted(lease, OUTPUT, position):
            await until(lambda: not composer.unrested(order, OUTPUT))
        picture = await asyncio.to_thread(parts.resting.shown, composer, order[0], OUTPUT)
        assert picture == composer.composite(order[0], np.full((320, 320, 3), (order[0], 0, 9), np.uint8), OUTPUT)
    assert source.orders == [order]


async def test_all_who_show_it_share_the_work_and_each_output_has_its_own(parts: CompositingParts, source: Counted) -> None:
    jpeg = JpegOutput(75)
    async with parts.store.acquire("demo") as lease:
        composer, wanted = lease.value, parts.resting.wanted
        source.may_go_on.clear()
        with wanted(lease, OUTPUT, 0), wanted(lease, OUTPUT, 2), wanted(lease, jpeg, 0), wanted(lease, jpeg, 4):
            await until(lambda: len(source.orders) == 2)
            source.may_go_on.set()
            await until(lambda: not composer.unrested(ALL, OUTPUT) + composer.unrested(ALL, jpeg))
            await settled()
    assert [sorted(frames) for frames in source.orders] == [[*ALL], [*ALL]]


async def test_orders_are_short_and_begin_where_the_holder_is(
    parts: CompositingParts, source: Counted, models_root: Path
) -> None:
    write_avatar(models_root, "long", loop=Loop.FORWARD, frames=30)
    async with parts.store.acquire("long") as lease:
        source.may_go_on.clear()
        with parts.resting.wanted(lease, OUTPUT, 0) as wish:
            await until(lambda: source.orders)
            wish.position = 20
            source.may_go_on.set()
            await until(lambda: not lease.value.unrested(range(30), OUTPUT))
    assert source.orders == [[*range(8)], [*range(20, 28)], [28, 29, *range(8, 14)], [*range(14, 20)]]


async def test_what_will_be_shown_before_an_order_is_made_is_left_for_the_next_round(
    parts: CompositingParts, source: Counted, clock: VirtualClock, models_root: Path
) -> None:
    write_avatar(models_root, "long", loop=Loop.FORWARD, frames=40)
    async with parts.store.acquire("long") as lease:
        source.may_go_on.clear()
        with parts.resting.wanted(lease, OUTPUT, 0) as wish:
            await until(lambda: source.orders)
            await clock.advance(0.4)
            wish.position = 10
            source.may_go_on.set()
            await until(lambda: not lease.value.unrested(range(40), OUTPUT))
    assert source.orders[1] == [*range(20, 28)]


async def test_holders_have_their_turns(parts: CompositingParts, source: Counted, models_root: Path) -> None:
    write_avatar(models_root, "long", loop=Loop.FORWARD, frames=40)
    async with parts.store.acquire("long") as lease:
        with parts.resting.wanted(lease, OUTPUT, 0), parts.resting.wanted(lease, OUTPUT, 20):
            await until(lambda: not lease.value.unrested(range(40), OUTPUT))
    assert [frames[0] for frames in source.orders[:4]] == [20, 0, 28, 8]


async def test_nobody_left_ends_the_work(parts: CompositingParts, source: Counted) -> None:
    async with parts.store.acquire("demo") as lease:
        source.may_go_on.clear()
        with parts.resting.wanted(lease, OUTPUT, 0):
            await until(lambda: source.orders)
        source.may_go_on.set()
        await settled()
        assert lease.value.unrested(ALL, OUTPUT) == [*ALL]
        with parts.resting.wanted(lease, OUTPUT, 0):
            await until(lambda: not lease.value.unrested(ALL, OUTPUT))
    assert len(source.orders) == 2


@pytest.mark.parametrize("anew", [False, True], ids=["unloaded", "loaded anew"])
async def test_a_dropped_avatar_ends_the_work(parts: CompositingParts, source: Counted, clock: VirtualClock, anew: bool) -> None:
    async with parts.store.acquire("demo") as lease:
        source.refusals.append(Unavailable("away"))
        with parts.resting.wanted(lease, OUTPUT, 0):
            await until(lambda: source.orders)
            await (parts.store.load("demo", force_reload=True) if anew else parts.store.unload("demo"))
            await clock.advance(10 * RETRY_S)
            await settled()
    assert len(source.orders) == 1


async def test_it_is_tried_again_while_inference_is_away(parts: CompositingParts, source: Counted, clock: VirtualClock) -> None:
    async with parts.store.acquire("demo") as lease:
        source.refusals.extend([Unavailable("away")] * 2)
        with parts.resting.wanted(lease, OUTPUT, 0):
            for attempt in (1, 2):
                await in_time(clock, lambda attempt=attempt: len(source.orders) == attempt)  # type: ignore[misc]
                await settled()
                assert len(source.orders) == attempt, "not before its time"
            await in_time(clock, lambda: not lease.value.unrested(ALL, OUTPUT))
    assert len(source.orders) == 3


async def test_mouths_that_find_no_room_are_made_when_there_is_some(
    opened: Callable[..., Any], source: Counted, clock: VirtualClock, models_root: Path
) -> None:
    write_avatar(models_root, "calm")
    small_gb = 0.00023  # all frames of one avatar, and two mouths
    async with (
        opened(f"capacity.max_memory_gb={small_gb}") as parts,
        parts.store.acquire("calm") as lease,
        AsyncExitStack() as other,
    ):
        await other.enter_async_context(parts.store.acquire("demo"))
        await parts.store.load("demo", preload=True)  # before the mouths, which would keep the room that they have
        with parts.resting.wanted(lease, OUTPUT, 0):
            await until(lambda: source.done)
            await settled()
            assert len(source.orders) <= 3, "no order follows one of which nothing could be kept"
            missing = lease.value.unrested(ALL, OUTPUT)
            assert missing
            await other.aclose()
            await in_time(clock, lambda: not lease.value.unrested(ALL, OUTPUT))
    assert set(source.orders[-1]) <= set(missing)


async def test_a_picture_that_cannot_be_read_keeps_no_other_from_being_made(
    parts: CompositingParts, source: Counted, models_root: Path
) -> None:
    write_avatar(models_root, "torn", loop=Loop.FORWARD, frames=12)
    torn = [0, 1, 2, 3, 5, 6, 7, 8, 9]
    async with parts.store.acquire("torn") as lease:
        for index in torn:
            (models_root / "torn" / "frames" / f"frame_{index:06}.png").write_bytes(b"no picture")
        with parts.resting.wanted(lease, OUTPUT, 0):
            await until(lambda: lease.value.unrested(range(12), OUTPUT) == torn)
            await settled()
    assert source.orders == [[*range(8)], [8, 9, 10, 11]]
