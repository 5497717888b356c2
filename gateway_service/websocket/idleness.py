"""Ends a session that nobody uses: a page that was left open would keep its place for ever."""

from __future__ import annotations

from typing import NoReturn

import grpc

from gateway_service.websocket.ending import failed
from lipsync_client import LipsyncError
from service_kit.clock import Clock


class Idleness:
    """Counts the seconds since a session was used last."""

    def __init__(self, clock: Clock, limit_s: float) -> None:
        """With a limit of 0 the session may stay unused."""
        self._clock = clock
        self._limit_s = limit_s
        self._used_s = clock.now()

    @property
    def limit_ms(self) -> int:
        """The limit, for the browser; 0: none."""
        return round(1000 * self._limit_s)

    def used(self) -> None:
        """Notes that somebody uses the session."""
        self._used_s = self._clock.now()

    async def watch(self) -> NoReturn:
        """Waits until the session was not used for as long as it may be. Raises Ending."""
        while (left_s := self._used_s + self._limit_s - self._clock.now()) > 0:
            await self._clock.sleep(left_s)
        text = f"nothing was said for {self._limit_s:g} s, so the session ended"
        raise failed(LipsyncError(grpc.StatusCode.DEADLINE_EXCEEDED, text))
