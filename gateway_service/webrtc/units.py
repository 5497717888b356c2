"""Encoded media on its way to viewers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# A viewer who has not taken so many pieces, a second of pictures or half of one of sound, misses those that wait.
MOST_WAITING = 25


@dataclass(frozen=True, slots=True)
class MediaUnit:
    """An encoded picture, or 20 ms of sound."""

    payloads: Sequence[bytes] = field(repr=False)
    """Content of RTP packets, one each. All viewers get the same."""
    media_us: int
    """Its time in the media, the same for pictures and sound."""
    is_key: bool = True
    """It can be decoded without those before it."""


class UnitQueue:
    """Units that wait for one viewer, of one kind. A viewer begins, and after a gap goes on, with a key picture."""

    def __init__(self, request_key: Callable[[], None]) -> None:
        self.request_key = request_key
        self._units: deque[MediaUnit] = deque()
        self._changed = asyncio.Event()
        self._is_open = False
        self._needs_key = True
        self._over = False

    async def next(self) -> MediaUnit | None:
        """Waits for the next unit. Returns None when no more follow."""
        if not self._is_open:
            self._is_open = True
            self.request_key()
        while not self._units and not self._over:
            self._changed.clear()
            await self._changed.wait()
        return self._units.popleft() if self._units else None

    def give(self, unit: MediaUnit) -> None:
        """Lets a unit wait for a viewer who is there."""
        if not self._is_open:
            return
        if len(self._units) >= MOST_WAITING:
            self._units.clear()
            self._needs_key = True
            self.request_key()
        if self._needs_key and not unit.is_key:
            return
        self._needs_key = False
        self._units.append(unit)
        self._changed.set()

    def end(self) -> None:
        """Says that nothing follows."""
        self._over = True
        self._changed.set()
