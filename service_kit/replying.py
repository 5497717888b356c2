"""Bounds what waits for callers who do not take their replies.

gRPC keeps a whole reply until its caller has let it through, without an end, and has no way to take one back. A caller who reads
nothing would cost the memory of a reply for each of its calls. So large ones are counted until they are taken, or the caller has
gone.
"""

from __future__ import annotations

import asyncio

from service_kit.errors import ResourceExhausted

# Smaller replies are not counted: they are bounded by the number of calls.
LARGE_REPLY_BYTES = 1 << 20
RETRY_AFTER_MS = 1000


class Replying:
    """Knows the large replies that wait to be taken. Use it on the event loop."""

    def __init__(self, *, most_bytes: int) -> None:
        """Large replies may have `most_bytes` in all."""
        self._most_bytes = most_bytes
        self.held_bytes = 0

    def hold(self, size: int) -> None:
        """Counts a reply of the running call until gRPC is done with it. Raises ResourceExhausted when there is no room."""
        if size < LARGE_REPLY_BYTES:
            return
        if self.held_bytes + size > self._most_bytes:
            raise ResourceExhausted(
                f"large replies that callers have not taken have {self.held_bytes} bytes, and {self._most_bytes} are allowed; "
                "try again later or on another replica",
                retry_after_ms=RETRY_AFTER_MS,
            )
        self.held_bytes += size
        call = asyncio.current_task()  # which ends when the reply is taken, or its caller has gone
        assert call
        call.add_done_callback(lambda _: self._release(size))

    def _release(self, size: int) -> None:
        self.held_bytes -= size
