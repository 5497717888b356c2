"""HTTP/2 written by hand: a caller of gRPC that can stop, or go wrong, at any byte."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK, END_STREAM, END_HEADERS = 1, 1, 4
LARGEST_FRAME = 16_384
Pairs = Sequence[tuple[bytes, bytes]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of any kind."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def header_block(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as literals that nobody remembers (RFC 7541, 6.2.2), so nothing needs a table."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in pairs)


def call_headers(path: str, more: Pairs = ()) -> bytes:
    """The headers of a gRPC call."""
    return header_block(
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            *more,
        ]
    )


def message(data: bytes, *, length: int | None = None, compressed: bool = False) -> bytes:
    """A gRPC message with its prefix, which may tell of another length."""
    return bytes([compressed]) + (len(data) if length is None else length).to_bytes(4) + data


def _text(data: bytes) -> bytes:
    size = len(data)
    if size < 127:
        return bytes([size]) + data
    size -= 127
    prefix = bytearray([127])
    while size >= 128:
        prefix.append(128 + size % 128)
        size //= 128
    return bytes([*prefix, size]) + data


class RawCaller:
    """A connection; use it as an asynchronous context manager. It answers settings and pings, and keeps the windows."""

    def __init__(self, address: str) -> None:
        self._host, self._port = address.rsplit(":", 1)
        self._changed = asyncio.Condition()
        self._window = 65_535
        self._windows: dict[int, int] = {}
        self._initial = 65_535
        self.settings: dict[int, int] = {}
        self.reset: dict[int, int] = {}
        """Streams that the server has reset, with the error."""
        self.ended: set[int] = set()
        """Streams that the server has ended."""
        self.left = False
        """The server has sent GOAWAY or closed the connection."""

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))
        self._writer.write(PREFACE + frame(SETTINGS, 0, 0))
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._writer.transport.abort()

    async def write(self, data: bytes) -> None:
        """Sends bytes as they are."""
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def open(self, stream: int, path: str, more: Pairs = ()) -> None:
        """Begins a call."""
        await self.write(frame(HEADERS, END_HEADERS, stream, call_headers(path, more)))

    async def send(self, stream: int, data: bytes, *, end: bool = False) -> bool:
        """Sends bytes of a call as the windows allow. Returns False when the server has ended the call before all were sent."""
        view = memoryview(data)
        while view:
            async with self._changed:
                await self._changed.wait_for(lambda: self._is_over(stream) or min(self._window, self._room(stream)) > 0)
                if self._is_over(stream):
                    return False
                size = min(len(view), LARGEST_FRAME, self._window, self._room(stream))
                self._window -= size
                self._windows[stream] = self._room(stream) - size
            await self.write(frame(DATA, END_STREAM if end and size == len(view) else 0, stream, bytes(view[:size])))
            view = view[size:]
        return True

    async def wait_for_the_end(self, stream: int, *, within_s: float) -> bool:
        """Waits until the server has ended a call; False when it has not within that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s), self._changed:
                await self._changed.wait_for(lambda: self._is_over(stream))
        return self._is_over(stream)

    def _is_over(self, stream: int) -> bool:
        return self.left or stream in self.reset or stream in self.ended

    def _room(self, stream: int) -> int:
        return self._windows.get(stream, self._initial)

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3]))
                async with self._changed:
                    await self._take(head[3], head[4], int.from_bytes(head[5:]) & 0x7FFF_FFFF, payload)
                    self._changed.notify_all()
        except (asyncio.IncompleteReadError, ConnectionError):
            async with self._changed:
                self.left = True
                self._changed.notify_all()

    async def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case 4 if not flags & ACK:
                for place in range(0, len(payload), 6):
                    key, value = int.from_bytes(payload[place : place + 2]), int.from_bytes(payload[place + 2 : place + 6])
                    self.settings[key] = value
                    if key == 4:  # SETTINGS_INITIAL_WINDOW_SIZE
                        self._windows = {each: room + value - self._initial for each, room in self._windows.items()}
                        self._initial = value
                await self.write(frame(SETTINGS, ACK, 0))
            case 6 if not flags & ACK:
                await self.write(frame(PING, ACK, 0, payload))
            case 8 if stream == 0:
                self._window += int.from_bytes(payload)
            case 8:
                self._windows[stream] = self._room(stream) + int.from_bytes(payload)
            case 3:
                self.reset[stream] = int.from_bytes(payload)
            case 7:
                self.left = True
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            self.ended.add(stream)
