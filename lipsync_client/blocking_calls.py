"""Sends calls for the blocking face; `aio_calls` does the same for asyncio."""

from __future__ import annotations

import time
from typing import TypeAlias

import grpc

from lipsync_client.calls import Call, Request, Response, Result, UnderWay
from lipsync_client.channel import channel_options
from lipsync_client.tls import TlsOptions

Method: TypeAlias = "grpc.UnaryUnaryMultiCallable[Request, Response]"
Channel = grpc.Channel

sleep = time.sleep


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

    def __init__(self, method: Method[Request, Response], call: Call[Request, Response, Result]) -> None:
        super().__init__(call, method.future)

    def result(self) -> Result:
        """Waits for the reply. Raises LipsyncError."""
        try:
            return self._call.parse(self._reply.result())
        except grpc.RpcError as error:
            raise self._call.error(error) from error
        finally:
            self.cancel()  # in case the caller was interrupted while it waited
