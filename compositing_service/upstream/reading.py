"""Reads the answers of calls that may be given up at any time."""

from __future__ import annotations

import asyncio
from typing import Any


async def read_message(call: Any) -> Any:
    """Returns the next message of a grpc.aio call, or gRPC's mark of the end. Cancel the call when this was cancelled.

    A `call.read()` that is cancelled never frees the message that was on its way (issue 43360 of grpc). So it goes on here until
    the call has ended.
    """
    reading = asyncio.ensure_future(call.read())
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        reading.add_done_callback(_take_error)
        raise


def _take_error(reading: asyncio.Future[Any]) -> None:
    """Keeps asyncio from warning of an error that nobody waits for."""
    if not reading.cancelled():
        reading.exception()
