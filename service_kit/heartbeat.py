"""Whether the event loop turns. One that hangs serves nobody, and only a restart helps: that is what "live" is for."""

from __future__ import annotations

import asyncio
from time import monotonic

BEAT_SECONDS = 1.0
# Far longer than any step on the loop should take, and than a machine under load delays one.
HANGING_SECONDS = 30.0


class Heartbeat:
    """`beat` runs on the loop, `reason` is asked from other threads."""

    def __init__(self) -> None:
        self._last_s = monotonic()

    async def beat(self) -> None:
        """Beats for ever."""
        while True:
            self._last_s = monotonic()
            await asyncio.sleep(BEAT_SECONDS)

    def reason(self) -> str | None:
        """Why the service is not alive, or None."""
        silent_s = monotonic() - self._last_s
        return f"the event loop has not turned for {silent_s:.0f} s" if silent_s > HANGING_SECONDS else None
