"""Sends calls for the asyncio face; `blocking_calls` does the same for threads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

from lipsync_client.calls import Call, Request, Response, Result, UnderWay
from lipsync_client.channel import channel_options
from lipsync_client.errors import LipsyncError, from_rpc_error
from lipsync_client.headers import Headers
from lipsync_client.retrying import Retries
from lipsync_client.tls import TlsOptions
from shared_proto import compositing_pb2 as pb
from shared_proto.aio_reading import Reply, end_replies

Method: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[Request, Response]"
SessionMethod: TypeAlias = "grpc.aio.StreamStreamMultiCallable[pb.SessionRequest, pb.SessionEvent]"
Channel = grpc.aio.Channel
Condition = asyncio.Condition

# Events that are read before they are asked for: with fewer, each would cost another turn of the event loop.
READ_AHEAD = 2

sleep = asyncio.sleep


async def aside(read: Callable[[Response], Result], response: Response) -> Result:
    """Reads a response that is large enough to hold up the event loop, in a thread."""
    return await asyncio.to_thread(read, response)


async def until(condition: Condition, true: Callable[[], Any], *, within_s: float) -> bool:
    """Waits for a held condition. Returns False if it is not true in time."""
    try:
        async with asyncio.timeout(within_s):
            await condition.wait_for(true)
    except TimeoutError:
        return False
    return True


def open_channel(target: str, tls: TlsOptions | None, *, max_message_mb: int) -> Channel:
    """Opens a channel of the running event loop. Raises ValueError as `TlsOptions.credentials` does."""
    options = channel_options(target, tls, max_message_mb=max_message_mb)
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, tls.credentials(), options=options)


async def close_channel(channel: Channel) -> None:
    """Ends the calls, and then the connection."""
    try:
        await end_replies(channel)
    finally:
        await channel.close(grace=None)


class Sent(UnderWay[Request, Response, Result]):
    """A call under way."""

    def __init__(self, method: Method[Request, Response], call: Call[Request, Response, Result], retries: Retries) -> None:
        super().__init__(call, lambda *args, **kwargs: Reply(method(*args, **kwargs)), retries)

    async def result(self) -> Result:
        """Waits for the reply, and sends the call again where that helps. Raises LipsyncError."""
        while True:
            try:
                return self._read(await self._reply)
            except grpc.RpcError as error:
                wait_s = self._wait_s(error)
            await sleep(wait_s)
            self._send()


class Stream:
    """The stream of a session under way.

    A task of its own reads it, a little ahead: gRPC ends a call whose reader is cancelled, and a caller may well give up waiting
    for one event.
    """

    def __init__(self, method: SessionMethod, messages: AsyncGenerator[pb.SessionRequest, None], headers: Headers) -> None:
        self._request_id = headers.request_id
        self._call: Any = method(messages, metadata=headers.metadata(), credentials=headers.credentials)
        self._read: deque[pb.SessionEvent] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._end: LipsyncError | None = None
        self._is_cancelled = False
        self._came = _Signal()
        self._taken = _Signal()

    async def next(self) -> pb.SessionEvent | None:
        """Waits for an event; None: the server has sent everything. Raises LipsyncError."""
        self._reading = self._reading or asyncio.create_task(self._read_on())
        while not self._read:
            if self._reading.done():
                if self._end:
                    raise self._end
                return None
            await self._came.wait()
        self._taken.set()
        return self._read.popleft()

    def cancel(self) -> None:
        """Ends it. Has no effect once it has ended."""
        self._is_cancelled = True
        # This ends a read too, which must not be cancelled itself: see `shared_proto.aio_reading`.
        self._call.cancel()
        self._taken.set()

    async def _read_on(self) -> None:
        try:
            while isinstance(event := await self._call.read(), pb.SessionEvent):
                self._read.append(event)
                self._came.set()
                while len(self._read) >= READ_AHEAD and not self._is_cancelled:
                    await self._taken.wait()
        except grpc.RpcError as error:
            self._end = from_rpc_error(error, self._request_id)
            self._end.__cause__ = error
        except asyncio.CancelledError:
            self._end = LipsyncError(grpc.StatusCode.CANCELLED, "the connection was closed here", request_id=self._request_id)
        finally:
            asyncio.get_running_loop().call_soon(self._came.set)  # once the task is done


class _Signal:
    """Wakes one task that waits."""

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wakes it. Has no effect when none waits."""
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Waits for `set`."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter
