"""Rooms of LiveKit without its server: participants of one process that hear each other's streams, calls and tracks.

What is published are LiveKit's own tracks: their sound and pictures are heard as a subscriber would.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from livekit import rtc

AGENT, AVATAR = "agent-1", "avatar"
Kind = rtc.ParticipantKind


class Stream:
    """A byte stream: both its ends."""

    def __init__(self, attributes: dict[str, str]) -> None:
        self.info = SimpleNamespace(attributes=attributes, stream_id="stream")
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def write(self, data: bytes) -> None:
        self._chunks.put_nowait(data)

    async def aclose(self) -> None:
        self._chunks.put_nowait(None)

    async def __anext__(self) -> bytes:
        chunk = await self._chunks.get()
        if chunk is None:
            raise StopAsyncIteration
        return chunk


class Participant:
    """One in the room, as itself and as others see it."""

    def __init__(self, room: Room, identity: str, kind: Any, attributes: dict[str, str]) -> None:
        self._room, self.identity, self.kind, self.attributes = room, identity, kind, attributes
        self.state = rtc.ParticipantState.PARTICIPANT_STATE_ACTIVE
        self._rpc_handlers: dict[str, Callable[[Any], Any]] = {}
        self.track_publications: dict[str, Any] = {}
        self.tracks: list[tuple[Any, Any]] = []
        """Published tracks, with their options."""

    def register_rpc_method(self, name: str, handler: Callable[[Any], Any]) -> None:
        self._rpc_handlers[name] = handler

    async def perform_rpc(self, *, destination_identity: str, method: str, payload: str, **_: Any) -> str:
        there = self._room.hall.rooms.get(destination_identity)
        handler = there.local_participant._rpc_handlers.get(method) if there else None
        if handler is None:
            raise rtc.RpcError(rtc.RpcError.ErrorCode.UNSUPPORTED_METHOD, method)
        call = SimpleNamespace(caller_identity=self.identity, payload=payload, request_id="1", response_timeout=10)
        self._room.hall.calls.append((method, payload))
        answer = handler(call)
        return await answer if asyncio.iscoroutine(answer) else answer

    async def stream_bytes(
        self, *, topic: str, destination_identities: list[str], attributes: dict[str, str], **_: Any
    ) -> Stream:
        stream = Stream(attributes)
        for identity in destination_identities:
            self._room.hall.rooms[identity].byte_handlers[topic](stream, self.identity)
        return stream

    async def publish_track(self, track: Any, options: Any) -> Any:
        async def subscribed() -> None:
            pass

        self.tracks.append((track, options))
        publication = SimpleNamespace(kind=track.kind, track=track, wait_for_subscription=subscribed)
        self.track_publications[str(len(self.tracks))] = publication
        for room in self._room.hall.others(self.identity):
            room.emit("track_published", publication, self)
        self._room.hall.published.set()
        return publication


class Room(rtc.EventEmitter[Any]):
    """The place of one participant."""

    def __init__(self, hall: Hall, identity: str, kind: Any, attributes: dict[str, str]) -> None:
        super().__init__()
        self.hall, self.name = hall, "room"
        self.byte_handlers: dict[str, Callable[[Any, str], None]] = {}
        self.local_participant = Participant(self, identity, kind, attributes)

    @property
    def remote_participants(self) -> dict[str, Participant]:
        return {room.local_participant.identity: room.local_participant for room in self.hall.others(self.identity)}

    @property
    def identity(self) -> str:
        return self.local_participant.identity

    def isconnected(self) -> bool:
        return self.identity in self.hall.rooms

    def register_byte_stream_handler(self, topic: str, handler: Callable[[Any, str], None]) -> None:
        self.byte_handlers[topic] = handler

    async def connect(self, url: str, token: str, options: Any = None) -> None:
        if token == "bad":
            raise rtc.ConnectError("the token is not good")
        self.hall.rooms[self.identity] = self
        for room in self.hall.others(self.identity):
            room.emit("participant_connected", self.local_participant)
            room.emit("participant_active", self.local_participant)
        self.emit("connection_state_changed", rtc.ConnectionState.CONN_CONNECTED)

    async def disconnect(self) -> None:
        if self.hall.rooms.pop(self.identity, None):
            for room in self.hall.others(self.identity):
                room.emit("participant_disconnected", self.local_participant)
            self.emit("disconnected")


@dataclass
class Hall:
    """The part of a room that a server would hold."""

    avatar: str = AVATAR
    rooms: dict[str, Room] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Remote calls, in order: method and payload."""
    published: asyncio.Event = field(default_factory=asyncio.Event)

    def others(self, identity: str) -> list[Room]:
        return [room for name, room in self.rooms.items() if name != identity]

    def for_agent(self) -> Room:
        return Room(self, AGENT, Kind.PARTICIPANT_KIND_AGENT, {})

    def for_avatar(self) -> Room:
        return Room(self, self.avatar, Kind.PARTICIPANT_KIND_AGENT, {"lk.publish_on_behalf": AGENT})


class Subscriber:
    """Hears and sees what a participant publishes."""

    def __init__(self, hall: Hall, rate: int) -> None:
        self._hall, self._rate = hall, rate
        self._sound = bytearray()
        self.sizes: list[tuple[int, int]] = []
        self._came = asyncio.Condition()

    @property
    def sound(self) -> np.ndarray:
        """All of it, with LiveKit's silence where nothing was said."""
        return np.frombuffer(bytes(self._sound), np.int16)

    async def until(self, true: Callable[[], Any], *, within_s: float = 60) -> None:
        async with asyncio.timeout(within_s), self._came:
            await self._came.wait_for(true)

    async def _listen(self, track: Any) -> None:
        stream = rtc.AudioStream(track, sample_rate=self._rate, num_channels=1)
        try:
            async for event in stream:
                async with self._came:
                    self._sound += bytes(event.frame.data)
                    self._came.notify_all()
        finally:
            await stream.aclose()

    async def _watch(self, track: Any) -> None:
        stream = rtc.VideoStream(track)
        try:
            async for event in stream:
                async with self._came:
                    self.sizes.append((event.frame.width, event.frame.height))
                    self._came.notify_all()
        finally:
            await stream.aclose()

    async def _subscribe(self) -> None:
        await self._hall.published.wait()
        publications = self._hall.rooms[self._hall.avatar].local_participant.tracks
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(publications[0][0]))
            while len(publications) < 2:
                self._hall.published.clear()
                await self._hall.published.wait()
            tasks.create_task(self._watch(publications[1][0]))


@asynccontextmanager
async def subscribed(hall: Hall, rate: int) -> AsyncIterator[Subscriber]:
    subscriber = Subscriber(hall, rate)
    task = asyncio.create_task(subscriber._subscribe())
    try:
        yield subscriber
    finally:
        task.cancel()
        await asyncio.wait([task])
