"""Writes to a browser. It waits for one that reads slowly, drops nothing, and gives up one that does not read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import grpc
from aiohttp import web

from gateway_service.websocket.ending import client_left, failed
from lipsync_client import LipsyncError


class Outlet:
    """The writing side of a socket; any task may use it."""

    def __init__(self, socket: web.WebSocketResponse, reader_timeout_s: float) -> None:
        self._socket = socket
        self._reader_timeout_s = reader_timeout_s
        self.bytes = 0
        """Sum of the messages written."""

    async def text(self, text: str) -> None:
        """Writes a text message. Raises Ending."""
        self.bytes += len(text)
        await self._written(self._socket.send_str(text))

    async def binary(self, data: bytes) -> None:
        """Writes a binary message. Raises Ending."""
        self.bytes += len(data)
        await self._written(self._socket.send_bytes(data))

    async def _written(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._reader_timeout_s):
                await sending
        except TimeoutError:
            text = f"the client took nothing for {self._reader_timeout_s:g} s; read faster"
            raise failed(LipsyncError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)) from None
        except ConnectionError:
            raise client_left() from None
