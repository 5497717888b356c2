"""Serves one socket of the earlier protocol: each message is a request, and answers come in the order of the requests."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from gateway_service.earlier import text
from gateway_service.earlier.answers import Answers
from gateway_service.socket_reader import SocketReader

# Requests of one socket that are under way at the same time, so that a page that asks ahead gets the network's full pace.
AHEAD = 4


def is_earlier(first: WSMessage) -> bool:
    """Tells if a socket whose first message this is belongs to a client of the earlier servers."""
    return first.type is WSMsgType.BINARY or (first.type is WSMsgType.TEXT and text.is_request(first.data))


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Seconds for which a socket may do nothing."""

    idle_s: float
    """Without a request."""
    reader_s: float
    """Without reading while an answer waits for it."""


@dataclass(slots=True, eq=False)
class EarlierSocket:
    """One socket, after its handshake. `run` is called once."""

    request: web.Request
    socket: web.WebSocketResponse
    reader: SocketReader
    answers: Answers
    limits: SocketLimits
    draining: asyncio.Event
    begun: asyncio.Queue[asyncio.Task[str | bytes] | None] = field(default_factory=asyncio.Queue)
    """Answers in the order of their requests, of which at most AHEAD are not sent; None: no more come."""
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AHEAD))

    async def run(self, first: WSMessage) -> None:
        """Answers `first` and all that follows until the client closes, idles or does not read, or the gateway drains."""
        reading, sending = asyncio.create_task(self._read(first)), asyncio.create_task(self._send())
        tasks: list[asyncio.Task[Any]] = [reading, sending, asyncio.create_task(self.draining.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done() and not sending.done():
                await _ended(reading)
                self.begun.put_nowait(None)
                await asyncio.wait([sending])
                await self._close(WSCloseCode.GOING_AWAY, b"the server is shutting down")
            elif reading.done() and isinstance(reading.exception(), TimeoutError):
                await self._close(WSCloseCode.OK, b"no request came")
            if sending.done() and sending.exception():
                self._abort()
            for task in (reading, sending):
                _raise_unexpected(task)
        finally:
            tasks += filter(None, (self.begun.get_nowait() for _ in range(self.begun.qsize())))
            await _ended(*tasks)

    async def _read(self, message: WSMessage) -> None:
        """Begins the answer to each request. Raises TimeoutError when none comes."""
        while message.type in {WSMsgType.TEXT, WSMsgType.BINARY}:
            await self.room.acquire()
            self.begun.put_nowait(asyncio.create_task(self.answers.answer(message.data)))
            async with asyncio.timeout(self.limits.idle_s):
                message = await self.reader.next()

    async def _send(self) -> None:
        """Sends the answers. Raises TimeoutError when the client does not read, OSError when it is gone."""
        while (begun := await self.begun.get()) is not None:
            answer = await begun
            async with asyncio.timeout(self.limits.reader_s):
                if isinstance(answer, bytes):
                    await self.socket.send_bytes(answer)
                else:
                    await self.socket.send_str(answer)
            self.room.release()

    async def _close(self, code: WSCloseCode, reason: bytes) -> None:
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(self.limits.reader_s):
                await self.socket.close(code=code, message=reason)
        self._abort()

    def _abort(self) -> None:
        """Drops the connection: what the client did not read is in the way of a close."""
        if self.request.transport:
            self.request.transport.abort()


def _raise_unexpected(task: asyncio.Task[None]) -> None:
    """Raises what ended a task, if it is not the way in which clients go or fall silent."""
    error = task.exception() if task.done() and not task.cancelled() else None
    if error and not isinstance(error, TimeoutError | OSError):
        raise error


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks, and waits until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
