"""Reads WebSockets so that a flood of messages on one leaves the others their turns."""

from __future__ import annotations

import asyncio

from aiohttp import WSMessage, WSMsgType, web
from aiohttp.http import WS_CLOSED_MESSAGE

# What has come already is read without a pause, which would keep all others waiting for a client that sends without one.
FRAMES_A_TURN = 32


class SocketReader:
    """The reading side of a socket that was made with `autoping=False`: aiohttp's own answers to pings know no turns."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self._frames = 0

    async def next(self) -> WSMessage:
        """Waits for the next message, or for the end of the socket. Answers pings meanwhile."""
        while True:
            self._frames += 1
            if self._frames % FRAMES_A_TURN == 0:
                await asyncio.sleep(0)
            message = await self._socket.receive()
            if message.type is WSMsgType.PING:
                try:
                    await self._socket.pong(message.data)
                except ConnectionError:
                    return WS_CLOSED_MESSAGE
            elif message.type is not WSMsgType.PONG:
                return message
