"""Gives memory back to the system after a burst. Otherwise a process would keep for good what it once needed at its busiest."""

from __future__ import annotations

import asyncio

from service_kit.clock import Clock
from service_kit.malloc import free_bytes, resident_bytes, return_free_memory
from service_kit.tasks import every

LOOK_SECONDS = 10.0
# Steady work needs less than that anew, and would pay for it in page faults.
WORTH_BYTES = 128 << 20


class Trimming:
    """Looks at the memory of the process. What is free at two looks, and was not there after the last return, is not needed."""

    def __init__(self) -> None:
        self._least_bytes = resident_bytes()
        self._was_free = False

    async def look(self) -> None:
        """Returns what is free to the system, on a thread, if that is worth it now."""
        resident = resident_bytes()
        self._least_bytes = min(self._least_bytes, resident)
        is_free = resident - self._least_bytes > WORTH_BYTES and await asyncio.to_thread(free_bytes) > WORTH_BYTES
        if is_free and self._was_free:
            await asyncio.to_thread(return_free_memory)
            self._least_bytes = resident_bytes()
            is_free = False
        self._was_free = is_free


async def trim_when_idle(clock: Clock) -> None:
    """Looks now and then, without end."""
    await every(clock, LOOK_SECONDS, Trimming().look)
