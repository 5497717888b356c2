"""Sends calls for the blocking face; `aio_calls` is the same for asyncio."""

from __future__ import annotations

import time
from typing import Generic, TypeAlias

import grpc

from lipsync_client.calls import Call, Request, Response, Result
from lipsync_client.channel import channel_options
from lipsync_client.tls import TlsOptions

Method: TypeAlias = "grpc.UnaryUnaryMultiCallable[Request, Response]"
Channel = grpc.Channel

sleep = time.sleep


def open_channel(target: str, tls: TlsOptions | None, *, max_message_mb: int) -> Channel:
    """Opens a channel for any number of threads. Raises ValueError as `TlsOptions.credentials`."""
    options = channel_options(target, max_message_mb=max_message_mb)
    if tls is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, tls.credentials(), options=[*options, *tls.channel_options()])


def close_channel(channel: Channel) -> None:
    """Ends the connection and the calls on it."""
    channel.close()


class Sent(Generic[Request, Response, Result]):
    """A call under way."""

    def __init__(self, method: Method[Request, Response], call: Call[Request, Response, Result]) -> None:
        self._call = call
        self._started = time.monotonic()
        self._ended: float | None = None
        self._reply = method.future(call.request, timeout=call.timeout, metadata=call.headers.metadata())
        self._reply.add_done_callback(self._note_end)

    @property
    def seconds(self) -> float:
        """Time from sending to the reply, however late the caller waited for it."""
        # gRPC may hand the reply out before it says that the call is done.
        return (time.monotonic() if self._ended is None else self._ended) - self._started

    def result(self) -> Result:
        """Waits for the reply. Raises LipsyncError."""
        try:
            return self._call.parse(self._reply.result())
        except grpc.RpcError as error:
            raise self._call.error(error) from error
        finally:
            self.cancel()  # nothing to a call that has ended; else the caller was interrupted while it waited

    def cancel(self) -> None:
        """Gives the call up."""
        self._reply.cancel()  # type: ignore[no-untyped-call]

    def _note_end(self, _: object) -> None:
        self._ended = time.monotonic()
