"""A player: an aiortc peer that offers by WHEP, and decodes what comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import av
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

PATIENCE_S = 60
SDP = {"Content-Type": "application/sdp"}


@dataclass
class Player:
    """One connection, and what came over it."""

    connection: RTCPeerConnection
    address: str = ""
    etag: str = ""
    pictures: list[av.VideoFrame] = field(default_factory=list)
    sound: list[av.AudioFrame] = field(default_factory=list)
    over: set[str] = field(default_factory=set)

    async def until(self, *, pictures: int = 0, sound: int = 0) -> None:
        """Waits until so much has come."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.pictures) < pictures or len(self.sound) < sound:  # noqa: ASYNC110 - aiortc calls nobody
                await asyncio.sleep(0.02)


def new_connection() -> RTCPeerConnection:
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))


async def offer_of(connection: RTCPeerConnection, *kinds: str) -> str:
    """An offer to receive, with candidates."""
    for kind in kinds or ("video", "audio"):
        connection.addTransceiver(kind, "recvonly")
    await connection.setLocalDescription(await connection.createOffer())
    return connection.localDescription.sdp


@asynccontextmanager
async def player(http: aiohttp.ClientSession, path: str, *kinds: str) -> AsyncIterator[Player]:
    """Watches what is at a path, and leaves by DELETE."""
    playing = Player(new_connection())
    tasks: list[asyncio.Task[None]] = []

    async def read(track: object, frames: list[object]) -> None:
        try:
            while True:
                frames.append(await track.recv())
        except Exception:
            playing.over.add(track.kind)

    @playing.connection.on("track")
    def _(track: object) -> None:
        tasks.append(asyncio.create_task(read(track, playing.pictures if track.kind == "video" else playing.sound)))

    try:
        offer = await offer_of(playing.connection, *kinds)
        async with http.post(path, data=offer, headers=SDP) as answer:
            text = await answer.text()
            assert answer.status == 201, text
            playing.address, playing.etag = answer.headers["Location"], answer.headers["ETag"]
        await playing.connection.setRemoteDescription(RTCSessionDescription(text, "answer"))
        yield playing
        async with http.delete(playing.address) as ended:
            assert ended.status in {200, 404}
    finally:
        await playing.connection.close()
        await asyncio.gather(*tasks, return_exceptions=True)
