"""Runs work beside other work."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from service_kit.clock import Clock

log = logging.getLogger(__name__)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs endless work as long as the block lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def every(clock: Clock, seconds: float, work: Callable[[], object]) -> None:
    """Does `work`, a function or a coroutine function, now and then every `seconds`. Logs the exceptions that it raises."""
    while True:
        try:
            if inspect.isawaitable(result := work()):
                await result
        except Exception:  # the next turn may do better, and nothing else depends on this one
            log.exception("periodic work failed")
        await clock.sleep(seconds)
