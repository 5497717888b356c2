"""Keeps what is costly to make, for a while, and makes each thing once however many ask for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from service_kit.clock import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    size: int
    until_s: float


class Kept(Generic[K, V]):
    """Values by key, each for `seconds` from its making; the least recently used go when their sizes exceed `most`.

    Failures are not kept, but all who wait for the same making get the same one.
    """

    def __init__(self, clock: Clock, *, seconds: float, most: int, size: Callable[[V], int] = lambda value: 1) -> None:
        self._clock = clock
        self._seconds = seconds
        self._most = most
        self._size_of = size
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._making: dict[K, asyncio.Task[V]] = {}
        self.total = 0
        """Sizes of all that is kept."""

    async def get(self, key: K, make: Callable[[], Awaitable[V]]) -> V:
        """Returns what is kept, or makes it. Making goes on for the others when one who waits gives up."""
        entry = self._entries.get(key)
        if entry and self._clock.now() < entry.until_s:
            self._entries.move_to_end(key)
            return entry.value
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = asyncio.create_task(self._make(key, make))
            making.add_done_callback(_retrieve)
        return await asyncio.shield(making)

    def last(self, key: K) -> tuple[V, float] | None:
        """Returns what was made last and is still here, also when its time is over, and its age in seconds."""
        entry = self._entries.get(key)
        return (entry.value, self._clock.now() - entry.until_s + self._seconds) if entry else None

    async def close(self) -> None:
        """Ends what is being made."""
        for making in self._making.values():
            making.cancel()
        await asyncio.gather(*self._making.values(), return_exceptions=True)

    async def _make(self, key: K, make: Callable[[], Awaitable[V]]) -> V:
        try:
            value = await make()
            self._keep(key, _Entry(value, self._size_of(value), self._clock.now() + self._seconds))
            return value
        finally:
            del self._making[key]

    def _keep(self, key: K, entry: _Entry[V]) -> None:
        self._drop(key)
        self._entries[key] = entry
        self.total += entry.size
        while self.total > self._most:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry:
            self.total -= entry.size


def _retrieve(task: asyncio.Task[V]) -> None:
    """Takes the error of a task, which those who wait have got, or nobody wants."""
    if not task.cancelled():
        task.exception()
