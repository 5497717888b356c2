"""Writes to a browser. It waits for one that reads slowly, drops nothing, and gives up one that does not read.

Most browsers keep up. A binary message goes to their socket at once then, in one piece and without a timer: aiohttp would send
the head of a large one as a packet of its own.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable

import grpc
from aiohttp import WSMsgType, web

from gateway_service.websocket.ending import client_left, failed
from lipsync_client import LipsyncError

# The head of a message that is one frame: RFC 6455, section 5.2. A server sends it without a mask.
_FINAL = 0x80
_SHORT, _MEDIUM, _LONG = struct.Struct("!BB"), struct.Struct("!BBH"), struct.Struct("!BBQ")
_MOST_SHORT, _MOST_MEDIUM = 125, (1 << 16) - 1


class Outlet:
    """The writing side of a socket; any task may use it."""

    def __init__(self, request: web.Request, socket: web.WebSocketResponse, reader_timeout_s: float) -> None:
        self._request = request
        self._socket = socket
        self._reader_timeout_s = reader_timeout_s
        self.bytes = 0
        """Sum of the messages written."""

    async def text(self, text: str) -> None:
        """Writes a text message. Raises Ending."""
        self.bytes += len(text)
        await self._written(self._socket.send_str(text))

    async def binary(self, header: bytes, content: bytes) -> None:
        """Writes a binary message. Raises Ending."""
        size = len(header) + len(content)
        self.bytes += size
        transport = self._request.transport
        if transport and not (self._request.protocol.writing_paused or self._socket.closed or transport.is_closing()):
            transport.writelines((_head(size) + header, content))
        else:
            await self._written(self._socket.send_bytes(header + content))

    async def _written(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._reader_timeout_s):
                await sending
        except TimeoutError:
            text = f"the client took nothing for {self._reader_timeout_s:g} s; read faster"
            raise failed(LipsyncError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)) from None
        except ConnectionError:
            raise client_left() from None


def _head(size: int) -> bytes:
    """Begins a binary message of so many bytes."""
    first = _FINAL | WSMsgType.BINARY
    if size <= _MOST_SHORT:
        return _SHORT.pack(first, size)
    if size <= _MOST_MEDIUM:
        return _MEDIUM.pack(first, _MOST_SHORT + 1, size)
    return _LONG.pack(first, _MOST_SHORT + 2, size)
