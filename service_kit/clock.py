"""The passing of time, handed to everything that paces, waits, backs off or counts idle time.

Production code takes `SYSTEM_CLOCK`; tests take a clock that they advance themselves.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Tells seconds that never jump, and lets tasks wait."""

    def now(self) -> float:
        """Returns seconds since an arbitrary moment. Callable from any thread."""

    async def sleep(self, seconds: float) -> None:
        """Waits that long; at least lets other tasks run once."""


class SystemClock:
    """Tells the machine's monotonic time, which is the event loop's too."""

    def now(self) -> float:
        """Returns `time.monotonic`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Waits on the event loop."""
        await asyncio.sleep(seconds)


SYSTEM_CLOCK: Clock = SystemClock()
