"""Things that are opened when somebody first asks for them, and held in memory while they are in use and beyond.

Each is opened once however many ask, and a caller that gives up takes it from nobody. It may be opened anew; who holds the older
one keeps it. One that is dropped is closed when its last holder lets go. This has no I/O and no threads: `open` does the work.
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
"""Of those not in use the first to go: the least often used, the longest unused of those alike; or the longest unused."""


class Lease(Generic[T]):
    """One opening of a thing, and what is known of its use. Its holders share it."""

    value: T  # not before it is open

    def __init__(self, key: str, newest: Callable[[str], Lease[T] | None]) -> None:
        self.key = key
        self.in_use = 0
        """Holders now, and callers that wait for it."""
        self.usage_count = 0
        self.last_used_s = 0.0
        """On the clock; the moment of opening until it is used."""
        self.last_used_unix_s = 0.0
        """0: not yet."""
        self.opened_unix_s = 0.0
        """0: not open yet."""
        self.dropped = False
        """True when nobody else gets it: its holders may go on, work that is not for them should end."""
        self._newest = newest
        self._begun = self._closed = False
        self._opening: asyncio.Task[None]

    @property
    def renewed(self) -> bool:
        """True when there is a newer one: acquiring it now gives that, this one stays as it is."""
        return self._newest(self.key) not in (None, self)


class Leases(Generic[T]):
    """For one event loop."""

    def __init__(
        self,
        open: Callable[[str], Awaitable[T]],  # noqa: A002  # the word for it
        *,
        admit: Callable[[Lease[T]], None],
        close: Callable[[T], None],
        clock: Clock = SYSTEM_CLOCK,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`open` may raise, which its callers see. `admit` is told of each that has been opened, before anybody gets it: it makes
        room for it, or raises. `close` is told of each that nobody has any more.
        """
        self._open, self._admit, self._close = open, admit, close
        self._clock, self._wall_clock = clock, wall_clock
        self._opened: dict[str, Lease[T]] = {}
        self._opening: dict[str, Lease[T]] = {}

    @property
    def opened(self) -> list[Lease[T]]:
        """Those that callers get without waiting. From any thread."""
        return list(self._opened.values())

    def find(self, key: str) -> Lease[T] | None:
        """The one that a caller gets without waiting."""
        return self._opened.get(key)

    @asynccontextmanager
    async def acquire(self, key: str) -> AsyncIterator[Lease[T]]:
        """Holds a thing for the length of the block, opened first if need be. Counts as one use. Raises what `open` raises."""
        async with self.hold(key) as lease:
            lease.usage_count += 1
            lease.last_used_s, lease.last_used_unix_s = self._clock.now(), self._wall_clock()
            yield lease

    @asynccontextmanager
    async def hold(self, key: str, *, anew: bool = False) -> AsyncIterator[Lease[T]]:
        """Holds it without counting a use. `anew`: opened after this call in any case; if that fails the older one stays."""
        lease = await self._begun_anew(key) if anew else self._opened.get(key) or self._opening.get(key) or self._begin(key)
        async with self._held(lease):
            yield lease

    async def renew(self, lease: Lease[T]) -> None:
        """Opens it again, unless that has been done since, or is under way. Raises what `open` raises."""
        if self._opened.get(lease.key) is lease:
            async with self._held(self._opening.get(lease.key) or self._begin(lease.key)):
                pass

    def drop(self, key: str) -> bool:
        """Nobody else gets it; holders, and those who wait for it, keep it. False: there was none."""
        leases = [lease for lease in (self._opened.pop(key, None), self._opening.pop(key, None)) if lease]
        for lease in leases:
            self._drop(lease)
        return bool(leases)

    def drop_idle(self, seconds: float) -> list[str]:
        """Drops those that nobody has used for so long, and names them."""
        longest = self._clock.now() - seconds
        idle = [lease.key for lease in self.opened if not lease.in_use and lease.last_used_s <= longest]
        for key in idle:
            self.drop(key)
        return idle

    async def close(self) -> None:
        """Drops everything; what is being opened is cancelled."""
        under_way = [lease._opening for lease in self._opening.values()]
        for key in [*self._opened, *self._opening]:
            self.drop(key)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _begun_anew(self, key: str) -> Lease[T]:
        under_way = self._opening.get(key)
        if under_way and under_way._begun:  # and has perhaps looked already at what has changed before this call
            await asyncio.wait([under_way._opening])
            under_way = self._opening.get(key)  # begun by somebody who waited too
        return under_way or self._begin(key)

    def _begin(self, key: str) -> Lease[T]:
        lease = self._opening[key] = Lease(key, self.find)
        lease._opening = asyncio.create_task(self._run(lease), name=f"open-{key}")
        lease._opening.add_done_callback(_look_at_error)
        return lease

    async def _run(self, lease: Lease[T]) -> None:
        """Opens it, whoever waits or has stopped waiting for it."""
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
    """Those that are not in use, in the order in which they make room for others."""
    unused = [lease for lease in leases if not lease.in_use]
    if policy == "lru":
        return sorted(unused, key=lambda lease: lease.last_used_s)
    return sorted(unused, key=lambda lease: (lease.usage_count, lease.last_used_s))


def _look_at_error(opening: asyncio.Task[None]) -> None:
    """So that asyncio does not report as forgotten an error for which nobody waits any more."""
    if not opening.cancelled():
        opening.exception()
