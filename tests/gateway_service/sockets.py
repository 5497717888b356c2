"""A browser's side of a socket, made from docs/websocket.md alone."""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

PATIENCE_S = 90
FRAME = struct.Struct("<BBHiqqqii")
SOUND = struct.Struct("<BBHiqii")


@dataclass(frozen=True)
class Shown:
    """A frame."""

    speech: bool
    segment: int
    number: int
    pts_us: int
    audio_us: int
    position: int
    index: int
    picture: bytes


@dataclass(frozen=True)
class Heard:
    """Sound that the gateway made."""

    segment: int
    audio_us: int
    rate: int
    samples: bytes


@dataclass
class Page:
    """One socket, and all that came over it, in order."""

    socket: aiohttp.ClientWebSocketResponse
    came: list[Any] = field(default_factory=list)
    over: bool = False
    _reading: asyncio.Task[None] | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def send(self, **message: Any) -> None:
        await self.socket.send_str(json.dumps(message))

    async def say(self, sound: bytes, pieces: Iterator[int]) -> None:
        """Sends sound in pieces of so many bytes."""
        first = 0
        while first < len(sound):
            size = next(pieces)
            await self.socket.send_bytes(sound[first : first + size])
            first += size

    async def wait(self, true: Callable[[], Any]) -> None:
        """Waits until it is true of what came, or the socket is closed."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: true() or self.over)
        assert true(), f"closed with {self.socket.close_code} before, after {self.came[-3:]}"

    async def closed(self) -> int:
        """Waits for the end. Returns the code."""
        await self.wait(lambda: self.over)
        assert self.socket.close_code is not None
        return self.socket.close_code

    def of(self, name: str) -> list[dict[str, Any]]:
        """The events with this name."""
        return [event[name] for event in self.came if isinstance(event, dict) and name in event]

    @property
    def frames(self) -> list[Shown]:
        return [each for each in self.came if isinstance(each, Shown)]

    @property
    def spoken(self) -> list[Shown]:
        """The frames of segments."""
        return [frame for frame in self.frames if frame.audio_us >= 0]

    async def read(self) -> None:
        async for message in self.socket:
            self.came.append(_read(message))
            async with self._changed:
                self._changed.notify_all()
        self.over = True
        async with self._changed:
            self._changed.notify_all()


async def eventually(true: Callable[[], Any]) -> None:
    """Looks again and again: what is watched ends after its socket, or is another process."""
    async with asyncio.timeout(PATIENCE_S):
        for _ in itertools.takewhile(lambda _: not true(), itertools.count()):
            await asyncio.sleep(0.02)


@asynccontextmanager
async def page(url: str, config: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Page]:
    """Opens a socket, and begins a session if there is a config."""
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{url}/ws", max_msg_size=0, **options) as socket:
        opened = Page(socket)
        reading = asyncio.create_task(opened.read())
        try:
            if config is not None:
                await opened.send(config=config)
            yield opened
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def _read(message: aiohttp.WSMessage) -> Any:
    if message.type is aiohttp.WSMsgType.TEXT:
        event = json.loads(message.data)
        assert len(event) == 1
        return event
    assert message.type is aiohttp.WSMsgType.BINARY, message
    kind, flags, header = struct.unpack_from("<BBH", message.data)
    rest = message.data[header:]
    if kind == 1:
        _, _, _, *fields = FRAME.unpack_from(message.data)
        assert header == 40
        return Shown(bool(flags & 1), *fields, picture=rest)
    assert (kind, flags, header) == (2, 0, 24)
    *_, segment, audio_us, rate, count = SOUND.unpack_from(message.data)
    assert len(rest) == 2 * count
    return Heard(segment, audio_us, rate, rest)
