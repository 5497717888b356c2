"""How many calls run, and a limit to it; and the end of calls that would not end by themselves.

gRPC's own `maximum_concurrent_rpcs` counts health checks too, every open Health.Watch for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from service_kit.errors import ResourceExhausted, Unavailable

RETRY_AFTER_MS = 200

T = TypeVar("T")


class RunningCalls:
    """The calls that run now. Lives on the event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self.none_runs = asyncio.Event()
        self.none_runs.set()
        self._ending = False
        self._open_ended: set[asyncio.Task[Any]] = set()

    def enter(self) -> None:
        """One more call runs; ResourceExhausted when the limit is reached. `leave` must follow."""
        if self.running >= self.limit:
            raise ResourceExhausted(
                f"the service already runs {self.limit} calls, its limit; try again later or on another replica",
                retry_after_ms=RETRY_AFTER_MS,
            )
        self.running += 1
        self.none_runs.clear()

    def leave(self) -> None:
        """Counts the end of a call."""
        self.running -= 1
        if not self.running:
            self.none_runs.set()

    async def open_ended(self, work: Awaitable[T]) -> T:
        """Awaits a call that may never end by itself, uncounted; Unavailable when `end_open_ended` comes first."""
        task = asyncio.current_task()
        if task is None:
            return await work
        self._open_ended.add(task)
        try:
            return await work
        except asyncio.CancelledError:
            if self._ending and task.uncancel() == 0:
                raise Unavailable("the service is shutting down") from None
            raise
        finally:
            self._open_ended.discard(task)

    def end_open_ended(self) -> None:
        """Ends all such calls, or each would keep a server from stopping until the grace is over."""
        self._ending = True
        for task in self._open_ended:
            task.cancel()
