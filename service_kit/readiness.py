"""Knows if the service can do its work now (ready), and if only a restart can help it (not alive)."""

from __future__ import annotations

import asyncio
import logging

from service_kit.clock import SYSTEM_CLOCK, Clock

BEAT_SECONDS = 1.0
# Far longer than any step on the event loop should take, and than a machine under load delays one.
HANGING_SECONDS = 30.0

log = logging.getLogger(__name__)


class Readiness:
    """Is ready when nothing blocks it. Each cause blocks and clears for itself. Change it on the event loop; any thread may read.

    `changed` is set at each change, for the one task that waits for it and clears it.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, str] = {}
        self.changed = asyncio.Event()

    @property
    def reason(self) -> str | None:
        """The reason why the service is not ready, as a sentence; None when it is."""
        return "; ".join(list(self._blocks.values())) or None

    def block(self, cause: str, reason: str) -> None:
        """Makes the service not ready until `cause` is cleared."""
        self._blocks[cause] = reason
        self.changed.set()

    def clear(self, cause: str) -> None:
        """Ends the block by `cause`, if there is one."""
        self._blocks.pop(cause, None)
        self.changed.set()


class Liveness:
    """Notices an event loop that hangs, and takes reports of being stuck. Any thread may read `reason`, also meanwhile."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._last_beat_s = clock.now()
        self._failures: dict[str, None] = {}  # in the order of the reports

    def fail(self, reason: str) -> None:
        """Reports for good that the service needs a restart. Logs each reason once. From any thread."""
        if reason not in self._failures:
            self._failures[reason] = None
            log.error("the service needs a restart: %s", reason)

    async def beat(self) -> None:
        """Shows that the event loop turns, without end."""
        while True:
            self._last_beat_s = self._clock.now()
            await self._clock.sleep(BEAT_SECONDS)

    @property
    def reason(self) -> str | None:
        """The reason why the service is not alive; None when it is."""
        silent_s = self._clock.now() - self._last_beat_s
        hanging = [f"the event loop has not turned for {silent_s:.0f} s"] if silent_s > HANGING_SECONDS else []
        return "; ".join([*list(self._failures), *hanging]) or None
