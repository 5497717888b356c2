"""Reads the requests of calls, and bounds what they take while they come and while they are served.

gRPC's own handlers of a single request wait for it without an end and without a count: a sender that stalls before the last byte
holds what it has sent for as long as it likes. So such calls are read here, as streams of one message; callers see no difference.
The size of a message is not known before it is there. So what is on its way is bounded by time and by number, and, where the
process grows meanwhile, by dropping what has been on its way for longest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import grpc.aio

from service_kit import request_context
from service_kit.errors import DeadlineExceeded, InvalidRequest, ResourceExhausted, Violation
from service_kit.malloc import resident_bytes

# Smaller requests are not counted: they are bounded by the number of calls, and counting would cost as much as reading them.
LARGE_REQUEST_BYTES = 1 << 20
RETRY_AFTER_MS = 1000
# A message that has been on its way for so long is slow. Most are there at once.
SLOW_SECONDS = 0.5
LOOK_SECONDS = 0.1

T = TypeVar("T")

_END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the stubs


class Receiving:
    """Knows the requests that are on their way and the large ones under way. Use it on the event loop."""

    def __init__(self, *, seconds: float, most_calls: int, most_bytes: int, resident: Callable[[], int] = resident_bytes) -> None:
        """A request may be on its way for `seconds`, and `most_calls` of them at the same time. Large ones under way may have
        `most_bytes` in all, and the process may grow by as much while a slow one is on its way.
        """
        self._seconds = seconds
        self._most_calls = most_calls
        self._most_bytes = most_bytes
        self._resident = resident
        self._coming: dict[asyncio.Timeout, tuple[float, int]] = {}  # the oldest first; when each began, memory then
        self._look: asyncio.TimerHandle | None = None
        self._last_resident = 0
        self.held_bytes = 0

    @asynccontextmanager
    async def request(self, read: Callable[[], Awaitable[Any]], decode: Callable[[bytes], T]) -> AsyncIterator[T]:
        """Reads and decodes the one message of a call, which counts as under way in the block. Raises ServiceError."""
        data = await self._message(read)
        size = len(data)
        if refusal := self._refusal(size):
            del data  # or the traceback would keep it
            raise refusal
        with self._held(size):
            request = decode(data)
            del data
            yield request

    async def _message(self, read: Callable[[], Awaitable[Any]]) -> bytes:
        """Returns the message. Raises ResourceExhausted, DeadlineExceeded or InvalidRequest for one that does not come."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while len(self._coming) >= self._most_calls:
            self._drop_oldest()
        limit = asyncio.timeout_at(began_s + self._seconds)
        if self._look is None:
            self._last_resident = self._resident()
            self._look = loop.call_later(SLOW_SECONDS, self._look_at_slow)
        self._coming[limit] = began_s, self._last_resident
        try:
            async with limit:
                message = await read()
        except TimeoutError:
            if loop.time() < began_s + self._seconds:
                raise ResourceExhausted(
                    "the request was dropped while it came, as too much else is on its way; try again",
                    retry_after_ms=RETRY_AFTER_MS,
                ) from None
            raise DeadlineExceeded(f"the request did not come within {self._seconds:g} s") from None
        finally:
            self._coming.pop(limit, None)
        if message is _END:  # nearly always the caller has gone: a flood of resets is none of log lines
            request_context.sampled.set(False)
            raise InvalidRequest([Violation("", "there is no message in the request")])
        data: bytes = message
        return data

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Counts a message of a stream in its block, as a request. Raises ResourceExhausted when there is no room."""
        if refusal := self._refusal(size):
            raise refusal
        with self._held(size):
            yield

    def _refusal(self, size: int) -> ResourceExhausted | None:
        if size < LARGE_REQUEST_BYTES or self.held_bytes + size <= self._most_bytes:
            return None
        return ResourceExhausted(
            f"large requests under way have {self.held_bytes} bytes, and {self._most_bytes} are allowed; "
            "try again later or on another replica",
            retry_after_ms=RETRY_AFTER_MS,
        )

    @contextmanager
    def _held(self, size: int) -> Iterator[None]:
        """Counts a large request as under way in its block."""
        size = size if size >= LARGE_REQUEST_BYTES else 0
        self.held_bytes += size
        try:
            yield
        finally:
            self.held_bytes -= size

    def _drop_oldest(self) -> None:
        """Ends the wait for what has been on its way for longest: an honest sender is done soon, one that stalls is not."""
        oldest = next(iter(self._coming))
        del self._coming[oldest]
        if not oldest.expired():
            oldest.reschedule(asyncio.get_running_loop().time())

    def _look_at_slow(self) -> None:
        """Drops the oldest, if it is slow and the process has grown too much since it began."""
        self._look = None
        if not self._coming:
            return
        loop = asyncio.get_running_loop()
        self._last_resident = self._resident()
        began_s, resident_before = next(iter(self._coming.values()))
        is_slow = loop.time() - began_s >= SLOW_SECONDS
        if is_slow and self._last_resident - resident_before > self._most_bytes:
            self._drop_oldest()
        self._look = loop.call_later(LOOK_SECONDS if is_slow else SLOW_SECONDS, self._look_at_slow)


current: ContextVar[Receiving] = ContextVar("receiving")
"""The one of the server that the running code serves a stream of requests for."""
