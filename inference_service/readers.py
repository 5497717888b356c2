"""Waits for callers to take what is sent to them, and knows those who take nothing.

A request keeps its place in the queue until its caller has all of its mouths. So callers who read nothing would keep all places.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from service_kit.errors import ResourceExhausted

READER_SECONDS = 30.0
# A reader that has taken nothing for so long loses its place when others want one.
STALLED_SECONDS = 1.0


class Readers:
    """The callers that are waited for. Use it on the event loop."""

    def __init__(self) -> None:
        self._waits: dict[asyncio.Timeout, float] = {}  # the oldest first, with its beginning

    async def taken(self, write: Awaitable[None]) -> None:
        """Waits for a write. Raises ResourceExhausted for a reader that takes nothing."""
        began_s = asyncio.get_running_loop().time()
        limit = asyncio.timeout_at(began_s + READER_SECONDS)
        self._waits[limit] = began_s
        try:
            async with limit:
                await write
        except TimeoutError:
            raise ResourceExhausted("the reader took nothing, and others wait for its place") from None
        finally:
            self._waits.pop(limit, None)

    def give_up_one(self) -> bool:
        """Ends the call of the reader that has taken nothing for longest. Returns False when each has taken something lately."""
        now_s = asyncio.get_running_loop().time()
        limit, began_s = next(iter(self._waits.items()), (None, now_s))
        if limit is None or now_s - began_s < STALLED_SECONDS:
            return False
        del self._waits[limit]
        if not limit.expired():
            limit.reschedule(now_s)
        return True
