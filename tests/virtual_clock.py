"""Time that passes only when a test says so."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count


class VirtualClock:
    """A `service_kit.clock.Clock` for one event loop. Sleepers wake in the order of their moments, at exactly these."""

    def __init__(self) -> None:
        self._now_s = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()
        self._begun = asyncio.Condition()

    def now(self) -> float:
        return self._now_s

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + seconds, next(self._order), waking))
        async with self._begun:
            self._begun.notify_all()
        await waking

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        if seconds == float("inf"):
            await event.wait()
            return
        tasks = [asyncio.create_task(event.wait()), asyncio.create_task(self.sleep(seconds))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def asleep(self, tasks: int = 1) -> None:
        """Waits until so many tasks sleep."""
        async with self._begun:
            await self._begun.wait_for(lambda: sum(not waking.done() for _, _, waking in self._sleepers) >= tasks)

    async def advance(self, seconds: float) -> None:
        """Lets time pass. What is woken runs until it waits for something else than time, or sleeps again."""
        end_s = self._now_s + seconds
        while self._sleepers and self._sleepers[0][0] <= end_s:
            self._now_s, _, waking = heapq.heappop(self._sleepers)
            if not waking.done():
                waking.set_result(None)
            await self._settle()
        self._now_s = end_s
        await self._settle()

    async def _settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
