"""Sends calls for the blocking face; `aio_calls` does the same for asyncio."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

import grpc

from lipsync_client.calls import Call, Request, Response, Result, UnderWay
from lipsync_client.channel import channel_options
from lipsync_client.errors import from_rpc_error
from lipsync_client.headers import Headers
from lipsync_client.retrying import Retries
from lipsync_client.tls import TlsOptions
from shared_proto import compositing_pb2 as pb

Method: TypeAlias = "grpc.UnaryUnaryMultiCallable[Request, Response]"
SessionMethod: TypeAlias = "grpc.StreamStreamMultiCallable[pb.SessionRequest, pb.SessionEvent]"
Channel = grpc.Channel
Condition = threading.Condition

sleep = time.sleep


def aside(read: Callable[[Response], Result], response: Response) -> Result:
    """Reads a large response."""
    return read(response)


def until(condition: Condition, true: Callable[[], Any], *, within_s: float) -> bool:
    """Waits for a held condition. Returns False if it is not true in time."""
    return bool(condition.wait_for(true, within_s))


def open_channel(target: str, tls: TlsOptions | None, *, max_message_mb: int) -> Channel:
    """Opens a channel for any number of threads. Raises ValueError as `TlsOptions.credentials` does."""
    options = channel_options(target, tls, max_message_mb=max_message_mb)
    if tls is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, tls.credentials(), options=options)


def close_channel(channel: Channel) -> None:
    """Ends the connection and the calls on it."""
    channel.close()


class Sent(UnderWay[Request, Response, Result]):
    """A call under way."""

    def __init__(self, method: Method[Request, Response], call: Call[Request, Response, Result], retries: Retries) -> None:
        super().__init__(call, method.future, retries)

    def result(self) -> Result:
        """Waits for the reply, and sends the call again where that helps. Raises LipsyncError."""
        try:
            while True:
                try:
                    return self._read(self._reply.result())
                except grpc.RpcError as error:
                    wait_s = self._wait_s(error)
                sleep(wait_s)
                self._send()
        finally:
            self.cancel()  # in case the caller was interrupted while it waited


class Stream:
    """The stream of a session under way."""

    def __init__(self, method: SessionMethod, messages: Generator[pb.SessionRequest, None, None], headers: Headers) -> None:
        self._request_id = headers.request_id
        self._call: Any = method(messages, metadata=headers.metadata(), credentials=headers.credentials)

    def next(self) -> pb.SessionEvent | None:
        """Waits for an event; None: the server has sent everything. Raises LipsyncError."""
        try:
            return next(self._call, None)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._request_id) from error

    def cancel(self) -> None:
        """Ends it. Has no effect once it has ended."""
        self._call.cancel()
