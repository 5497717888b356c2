"""Fills a loaded avatar's crop bank in the background. A long video takes minutes, so this has its own threads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from avatar_kit.errors import AvatarError, AvatarReplaced, BrokenAvatar
from inference_service.limited_threads import LimitedThreads
from inference_service.models.model import LoadedModel
from service_kit.leases import Lease

log = logging.getLogger(__name__)


class BackgroundFills:
    """Fills crop banks. Used from the event loop only; its own threads do the work."""

    def __init__(self, on_lost: Callable[[str], None]) -> None:
        self._threads = LimitedThreads(2, "fill", on_lost=on_lost)
        self._tasks: dict[Lease[LoadedModel], asyncio.Task[AvatarError | None]] = {}

    def begin(self, lease: Lease[LoadedModel]) -> asyncio.Task[AvatarError | None]:
        """Begins to fill the banks of an avatar, until it is unloaded. Returns a task, whose result is the error if it fails."""
        task = self._tasks.get(lease)
        if task is None:
            task = self._tasks[lease] = asyncio.create_task(self._fill(lease), name=f"fill-{lease.key}")
            task.add_done_callback(lambda _: self._tasks.pop(lease))
        return task

    async def fill(self, lease: Lease[LoadedModel]) -> None:
        """Waits until the banks are full. Raises AvatarError when they cannot be."""
        if error := await asyncio.shield(self.begin(lease)):
            raise error

    async def close(self) -> None:
        """Ends all fills, each after its current frame. The avatars must be unloaded before."""
        await self._threads.close()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _fill(self, lease: Lease[LoadedModel]) -> AvatarError | None:
        try:
            for engine in lease.value.engines:
                await self._threads.run(partial(engine.bank.fill, lambda: not lease.dropped))
        except BrokenAvatar as error:
            log.warning("avatar %s: not all frames can be served: %s", lease.key, error)
            return error
        except AvatarReplaced:
            pass  # the next request that needs a frame loads it again
        return None
