"""Reads the answers of grpc.aio calls that may be given up at any time.

grpc.aio never frees the message that was on its way to a wait that is cancelled (issue 43360 of grpc). So its own waits are never
cancelled here: they go on, shielded, until the call has ended, and to give up means to cancel the call alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

from grpc import aio

_Result = TypeVar("_Result")
_Call: Any = aio._call.Call  # type: ignore[attr-defined]  # missing in the stubs


class Reply(Generic[_Result]):
    """The reply to a unary call, to be awaited once. Whoever cancels that cancels the call."""

    def __init__(self, call: aio.UnaryUnaryCall[Any, _Result]) -> None:
        self._call: Any = call

    def __await__(self) -> Generator[Any, None, _Result]:
        return self._wait().__await__()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls it with the call when that has ended."""
        self._call.add_done_callback(callback)

    def cancel(self) -> None:
        """Cancels the call. Has no effect once it has ended."""
        _Call.cancel(self._call)  # a unary call's own `cancel` does this, and cancels its wait

    async def _wait(self) -> _Result:
        try:
            return await _shielded(self._call)
        except asyncio.CancelledError:
            self.cancel()
            raise


async def read_message(call: Any) -> Any:
    """Returns the next message of a stream, or gRPC's mark of the end. Cancel the call when this was cancelled."""
    return await _shielded(call.read())


async def end_replies(channel: aio.Channel) -> None:
    """Ends the unary calls of a channel that is about to be closed, which would cancel their waits.

    gRPC does not export its list of them, and older versions (1.81) have none.
    """
    calls = [call for call in getattr(channel, "_active_calls", ()) if isinstance(call, aio.UnaryUnaryCall)]
    for call in calls:
        _Call.cancel(call)
    await asyncio.gather(*(call.code() for call in calls))


async def _shielded(wait: Awaitable[_Result]) -> _Result:
    waiting = asyncio.ensure_future(wait)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        waiting.add_done_callback(_take_error)
        raise


def _take_error(waiting: asyncio.Future[Any]) -> None:
    """Keeps asyncio from warning of an error that nobody waits for."""
    if not waiting.cancelled():
        waiting.exception()
