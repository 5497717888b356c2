"""The passing of time, for everything that paces, waits, backs off or measures idle time.

Production code uses `SYSTEM_CLOCK`. Tests use a clock that they advance themselves.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Counts seconds that never jump, and lets tasks wait."""

    def now(self) -> float:
        """Returns seconds since an arbitrary moment. Any thread may call it."""

    async def sleep(self, seconds: float) -> None:
        """Waits that long. Lets other tasks run at least once."""

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Waits for an event, or until the time is over; infinity: for the event alone. May set it then."""


class SystemClock:
    """Uses the machine's monotonic time, as the event loop does."""

    def now(self) -> float:
        """Returns `time.monotonic`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Waits on the event loop."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Waits on the event loop, without a task. A timer that sets the event costs a fraction of `asyncio.timeout`."""
        if seconds == float("inf"):
            await event.wait()
            return
        timer = asyncio.get_running_loop().call_later(seconds, event.set)
        try:
            await event.wait()
        finally:
            timer.cancel()


SYSTEM_CLOCK: Clock = SystemClock()
