"""Counts running calls and limits them, and ends calls that would not end by themselves.

gRPC's own `maximum_concurrent_rpcs` counts health checks too, and every open Health.Watch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from service_kit.errors import ResourceExhausted, Unavailable

RETRY_AFTER_MS = 200

T = TypeVar("T")


class RunningCalls:
    """Knows the calls that run now. Use it on the event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self.none_runs = asyncio.Event()
        self.none_runs.set()
        self._ending = False
        self._open_ended: set[asyncio.Task[Any]] = set()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Counts its block as a running call. Raises ResourceExhausted when the limit is reached."""
        if self.running >= self.limit:
            raise ResourceExhausted(
                f"the service already runs {self.limit} calls, its limit; try again later or on another replica",
                retry_after_ms=RETRY_AFTER_MS,
            )
        self._enter()
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Leaves the running call that its block belongs to uncounted: one that waits for requests which count themselves."""
        self._leave()
        try:
            yield
        finally:
            self._enter()

    async def open_ended(self, work: Awaitable[T]) -> T:
        """Awaits a call that may never end, without counting it. Raises Unavailable when `end_open_ended` comes first."""
        task = asyncio.current_task()
        assert task
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
        """Ends all open-ended calls. Otherwise each would delay the stop until the grace is over."""
        self._ending = True
        for task in self._open_ended:
            task.cancel()

    def _enter(self) -> None:
        self.running += 1
        self.none_runs.clear()

    def _leave(self) -> None:
        self.running -= 1
        if not self.running:
            self.none_runs.set()
