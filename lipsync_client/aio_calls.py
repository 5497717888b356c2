"""Sends calls for the asyncio face; `blocking_calls` does the same for threads."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import grpc
import grpc.aio

from lipsync_client.calls import Call, Request, Response, Result, UnderWay
from lipsync_client.channel import channel_options
from lipsync_client.tls import TlsOptions

Method: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[Request, Response]"
Channel = grpc.aio.Channel

sleep = asyncio.sleep


def open_channel(target: str, tls: TlsOptions | None, *, max_message_mb: int) -> Channel:
    """Opens a channel of the running event loop. Raises ValueError as `TlsOptions.credentials` does."""
    options = channel_options(target, tls, max_message_mb=max_message_mb)
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, tls.credentials(), options=options)


async def close_channel(channel: Channel) -> None:
    """Ends the connection and the calls on it."""
    await channel.close(grace=None)


class Sent(UnderWay[Request, Response, Result]):
    """A call under way."""

    def __init__(self, method: Method[Request, Response], call: Call[Request, Response, Result]) -> None:
        super().__init__(call, method)

    async def result(self) -> Result:
        """Waits for the reply. Raises LipsyncError."""
        try:
            return self._call.parse(await self._reply)
        except grpc.RpcError as error:
            raise self._call.error(error) from error
