"""Opens things at their first request, and keeps them in memory during their use and after it.

Many callers of a thing share one opening, which continues when some of them give up. A thing may be opened again; holders of
the older one keep it. A dropped thing is closed when its last holder releases it. There is no I/O here: `open` does the work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Generic, Literal, TypeVar

from service_kit.clock import SYSTEM_CLOCK, Clock

T = TypeVar("T")

Policy = Literal["lfu", "lru"]
"""The unused things to evict first: the least often used (of equals, the longest unused), or the longest unused."""


class Lease(Generic[T]):
    """One opening of a thing, and figures of its use. All its holders share it."""

    value: T  # once it is open

    def __init__(self, key: str, newest: Callable[[str], Lease[T] | None]) -> None:
        self.key = key
        self.in_use = 0
        """The number of holders and of callers that wait."""
        self.usage_count = 0
        self.last_used_s = 0.0
        """Time on the clock. Before the first use, the time of opening."""
        self.last_used_unix_s = 0.0
        """0: not yet."""
        self.opened_unix_s = 0.0
        """0: not open yet."""
        self.dropped = False
        """True when new callers do not get it. Its holders may continue; other work on it should end."""
        self._newest = newest
        self._begun = self._closed = False
        self._opening: asyncio.Task[None]

    @property
    def renewed(self) -> bool:
        """True when there is a newer opening, which new callers get. This one does not change."""
        return self._newest(self.key) not in (None, self)


class Leases(Generic[T]):
    """Holds the leases of one event loop."""

    def __init__(
        self,
        open: Callable[[str], Awaitable[T]],  # noqa: A002  # the common word
        *,
        admit: Callable[[Lease[T]], None],
        close: Callable[[T], None],
        clock: Clock = SYSTEM_CLOCK,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Callers see the errors of `open`. `admit` is called after each opening, before callers get the lease: it makes room, or
        raises. `close` is called when the last holder of a dropped one has released it.
        """
        self._open, self._admit, self._close = open, admit, close
        self._clock, self._wall_clock = clock, wall_clock
        self._opened: dict[str, Lease[T]] = {}
        self._opening: dict[str, Lease[T]] = {}

    @property
    def opened(self) -> list[Lease[T]]:
        """The leases that callers get without waiting. Any thread may read it."""
        return list(self._opened.values())

    def find(self, key: str) -> Lease[T] | None:
        """Returns the lease that a caller gets without waiting, if there is one."""
        return self._opened.get(key)

    @asynccontextmanager
    async def acquire(self, key: str) -> AsyncIterator[Lease[T]]:
        """Holds a thing during the block, and opens it first if it is not open. Counts one use. Raises the errors of `open`."""
        async with self.hold(key) as lease:
            lease.usage_count += 1
            lease.last_used_s, lease.last_used_unix_s = self._clock.now(), self._wall_clock()
            yield lease

    @asynccontextmanager
    async def hold(self, key: str, *, anew: bool = False) -> AsyncIterator[Lease[T]]:
        """Holds a thing without counting a use. `anew` always opens it after this call; if that fails, the older one stays."""
        lease = await self._begun_anew(key) if anew else self._opened.get(key) or self._opening.get(key) or self._begin(key)
        async with self._held(lease):
            yield lease

    async def renew(self, lease: Lease[T]) -> None:
        """Opens it again, unless a newer one is open or under way. Raises the errors of `open`."""
        if self._opened.get(lease.key) is lease:
            async with self._held(self._opening.get(lease.key) or self._begin(lease.key)):
                pass

    def drop(self, key: str) -> bool:
        """Takes it from new callers; holders and waiting callers keep it. Returns False if there was none."""
        leases = [lease for lease in (self._opened.pop(key, None), self._opening.pop(key, None)) if lease]
        for lease in leases:
            self._drop(lease)
        return bool(leases)

    def drop_idle(self, seconds: float) -> list[str]:
        """Drops things unused for `seconds`, and returns their keys."""
        longest = self._clock.now() - seconds
        idle = [lease.key for lease in self.opened if not lease.in_use and lease.last_used_s <= longest]
        for key in idle:
            self.drop(key)
        return idle

    async def close(self) -> None:
        """Drops everything, and cancels openings under way."""
        under_way = [lease._opening for lease in self._opening.values()]
        for key in [*self._opened, *self._opening]:
            self.drop(key)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _begun_anew(self, key: str) -> Lease[T]:
        under_way = self._opening.get(key)
        if under_way and under_way._begun:  # it may have read files before the change that this call is about
            await asyncio.wait([under_way._opening])
            under_way = self._opening.get(key)  # begun by another caller that waited
        return under_way or self._begin(key)

    def _begin(self, key: str) -> Lease[T]:
        lease = self._opening[key] = Lease(key, self.find)
        lease._opening = asyncio.create_task(self._run(lease), name=f"open-{key}")
        lease._opening.add_done_callback(_look_at_error)
        return lease

    async def _run(self, lease: Lease[T]) -> None:
        """Opens it, even when no caller waits any more."""
        lease._begun = True
        try:
            lease.value = await self._open(lease.key)
            lease.last_used_s, lease.opened_unix_s = self._clock.now(), self._wall_clock()
            if not lease.dropped:
                self._admit(lease)
                older = self._opened.get(lease.key)
                self._opened[lease.key] = lease
                if older:
                    self._drop(older)
        except BaseException:
            lease.dropped = True
            raise
        finally:
            if self._opening.get(lease.key) is lease:
                del self._opening[lease.key]
            self._close_when_over(lease)

    @asynccontextmanager
    async def _held(self, lease: Lease[T]) -> AsyncIterator[None]:
        lease.in_use += 1
        try:
            await asyncio.shield(lease._opening)
            yield
        finally:
            lease.in_use -= 1
            lease.last_used_s = self._clock.now()
            self._close_when_over(lease)

    def _drop(self, lease: Lease[T]) -> None:
        lease.dropped = True
        self._close_when_over(lease)

    def _close_when_over(self, lease: Lease[T]) -> None:
        if lease.dropped and lease.opened_unix_s and not lease.in_use and not lease._closed:
            lease._closed = True
            self._close(lease.value)


def first_to_go(leases: Iterable[Lease[T]], policy: Policy) -> list[Lease[T]]:
    """Returns the unused leases in the order of their eviction."""
    unused = [lease for lease in leases if not lease.in_use]
    if policy == "lru":
        return sorted(unused, key=lambda lease: lease.last_used_s)
    return sorted(unused, key=lambda lease: (lease.usage_count, lease.last_used_s))


def _look_at_error(opening: asyncio.Task[None]) -> None:
    """Takes the error, so that asyncio does not report it as forgotten when no caller waits."""
    if not opening.cancelled():
        opening.exception()
