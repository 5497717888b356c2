"""The pictures and sound that all viewers of a source get, and their times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gateway_service.watching import Watched
from gateway_service.webrtc.broadcast import Broadcast, Source, Viewing
from gateway_service.webrtc.settings import WebrtcSection
from gateway_service.webrtc.sound import PIECE_US
from gateway_service.webrtc.timeline import FRAME_US
from lipsync_client import Frame

from ..virtual_clock import VirtualClock
from .test_encoding import picture

RATE_HZ = 16_000


def frame(number: int) -> Frame:
    """One with its sound, all of the same size."""
    return Frame(
        picture=picture(64, 48),
        number=number,
        pts_us=FRAME_US * number,
        position=number,
        next_position=number + 1,
        index=0,
        speech=True,
        segment=0,
        audio_us=FRAME_US * number,
        audio=np.zeros(RATE_HZ * FRAME_US // 1_000_000, np.int16),
    )


class Viewer:
    """Takes the sound of a broadcast; `heard` has the times of pieces in the media and on the clock."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._more = asyncio.Condition()
        self.heard: list[tuple[int, float]] = []

    async def take(self, viewing: Viewing) -> None:
        while unit := await viewing.audio.next():
            async with self._more:
                self.heard.append((unit.media_us, self._clock.now()))
                self._more.notify_all()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(60), self._more:
            await self._more.wait_for(lambda: len(self.heard) >= count)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


@pytest.fixture
async def watched(pool: ThreadPoolExecutor) -> AsyncIterator[tuple[Watched, VirtualClock, Viewer]]:
    """A source whose clock stands still, and one who hears it."""
    shown, clock = Watched(), VirtualClock()
    source = Source("one", RATE_HZ, shown.watched, always_shows=False)
    with Broadcast(source, WebrtcSection(), pool, clock).viewed() as viewing:
        viewer = Viewer(clock)
        taking = asyncio.create_task(viewer.take(viewing))
        await asyncio.sleep(0)
        yield shown, clock, viewer
        taking.cancel()


async def test_sound_leaves_piece_by_piece_as_it_is_to_be_heard(watched: tuple[Watched, VirtualClock, Viewer]) -> None:
    shown, clock, viewer = watched
    for number in range(5):
        shown.show(frame(number))
        await viewer.until(2 * number + 1)
        await clock.advance(FRAME_US / 1e6)
        await viewer.until(2 * number + 2)
    first_us, first_s = viewer.heard[0]
    assert [us - first_us for us, _ in viewer.heard] == [PIECE_US * n for n in range(10)]
    assert [at - first_s for _, at in viewer.heard] == pytest.approx([PIECE_US * n / 1e6 for n in range(10)])


async def test_sound_that_comes_late_waits_no_longer(watched: tuple[Watched, VirtualClock, Viewer]) -> None:
    """Frames that a busy service sends at once leave so too, but for the last one's second piece."""
    shown, clock, viewer = watched
    shown.show(frame(0))
    await viewer.until(1)
    await clock.advance(0.12)
    for number in (1, 2, 3):
        shown.show(frame(number))
    await viewer.until(3)
    came_s = clock.now()
    await clock.asleep()
    while len(viewer.heard) < 8:
        await clock.advance(PIECE_US / 1e6)
        await asyncio.sleep(0.01)
    assert max(at for _, at in viewer.heard) - came_s <= 2 * PIECE_US / 1e6
