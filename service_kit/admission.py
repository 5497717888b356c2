"""How many calls run, a limit to it, and the moment when none runs.

gRPC's own `maximum_concurrent_rpcs` counts health checks too, every open Health.Watch for ever.
"""

from __future__ import annotations

import asyncio

from service_kit.errors import ResourceExhausted

RETRY_AFTER_MS = 200


class RunningCalls:
    """The calls that run now. Lives on the event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self) -> None:
        """One more call runs; ResourceExhausted when the limit is reached. `leave` must follow."""
        if self.running >= self.limit:
            raise ResourceExhausted(
                f"the service already runs {self.limit} calls, its limit; try again later or on another replica",
                retry_after_ms=RETRY_AFTER_MS,
            )
        self.running += 1
        self._idle.clear()

    def leave(self) -> None:
        """One call less runs."""
        self.running -= 1
        if not self.running:
            self._idle.set()

    async def none_left(self) -> None:
        """Waits until no call runs."""
        await self._idle.wait()
