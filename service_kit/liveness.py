"""Tells whether only a restart can help: the event loop hangs, or the service reports itself stuck."""

from __future__ import annotations

import logging

from service_kit.clock import SYSTEM_CLOCK, Clock

BEAT_SECONDS = 1.0
# Far longer than any step on the loop should take, and than a machine under load delays one.
HANGING_SECONDS = 30.0

log = logging.getLogger(__name__)


class Liveness:
    """Is judged by `reason`, which any thread may ask, also while the event loop hangs."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._last_beat_s = clock.now()
        self._failures: dict[str, None] = {}  # in the order in which they were reported

    def fail(self, reason: str) -> None:
        """Reports for good that the service cannot go on without a restart; each reason is logged once. From any thread."""
        if reason not in self._failures:
            self._failures[reason] = None
            log.error("the service needs a restart: %s", reason)

    async def beat(self) -> None:
        """Shows, without end, that the event loop turns."""
        while True:
            self._last_beat_s = self._clock.now()
            await self._clock.sleep(BEAT_SECONDS)

    @property
    def reason(self) -> str | None:
        """The reason why the service is not alive; None when it is."""
        silent_s = self._clock.now() - self._last_beat_s
        hanging = [f"the event loop has not turned for {silent_s:.0f} s"] if silent_s > HANGING_SECONDS else []
        return "; ".join([*list(self._failures), *hanging]) or None
