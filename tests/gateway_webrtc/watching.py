"""A player: an aiortc peer that offers by WHEP, and decodes what comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import av
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtp import RtcpSrPacket
from numpy.typing import NDArray

PATIENCE_S = 60
SDP = {"Content-Type": "application/sdp"}
RATES = {"video": 90_000, "audio": 48_000}


@dataclass
class Report:
    """The sender's report of its clock: the time of the day at a time of the media."""

    unix_s: float
    rtp: int


@dataclass
class Player:
    """One connection, and what came over it."""

    connection: RTCPeerConnection
    address: str = ""
    etag: str = ""
    pictures: list[av.VideoFrame] = field(default_factory=list)
    sound: list[av.AudioFrame] = field(default_factory=list)
    reports: dict[str, list[Report]] = field(default_factory=lambda: {"video": [], "audio": []})
    origins: dict[str, int] = field(default_factory=dict)
    """RTP times of the first packets: frames have theirs from there on."""
    over: set[str] = field(default_factory=set)
    """The kinds that have ended."""

    async def until(self, *, pictures: int = 0, sound: int = 0, reports: int = 0) -> None:
        """Waits until so much has come."""

        def is_there() -> bool:
            told = min(len(each) for each in self.reports.values())
            return len(self.pictures) >= pictures and len(self.sound) >= sound and told >= reports

        async with asyncio.timeout(PATIENCE_S):
            while not is_there():  # noqa: ASYNC110 - aiortc calls nobody
                await asyncio.sleep(0.02)

    async def until_over(self) -> None:
        """Waits until the gateway has ended it."""
        async with asyncio.timeout(PATIENCE_S):
            while self.over != {"video", "audio"}:  # noqa: ASYNC110 - aiortc calls nobody
                await asyncio.sleep(0.02)

    def unix_s(self, kind: str, pts: int) -> float:
        """The time of the day that a frame belongs to, as the last report says."""
        last = self.reports[kind][-1]
        return last.unix_s + ((self.origins[kind] + pts - last.rtp + 2**31) % 2**32 - 2**31) / RATES[kind]

    async def read(self, track: MediaStreamTrack) -> None:
        """Takes all that comes."""
        frames: list[Any] = self.pictures if track.kind == "video" else self.sound
        try:
            while True:
                frames.append(await track.recv())
        except MediaStreamError:
            self.over.add(track.kind)

    def note_times(self, receiver: RTCRtpReceiver) -> None:
        """Keeps what packets and reports say of the clock, which aiortc does not use."""
        kind, handle, take = receiver.track.kind, receiver._handle_rtcp_packet, receiver._handle_rtp_packet

        async def note(packet: Any) -> None:
            if isinstance(packet, RtcpSrPacket):
                info = packet.sender_info
                self.reports[kind].append(Report(info.ntp_timestamp / 2**32 - 2_208_988_800, info.rtp_timestamp))
            await handle(packet)

        async def note_first(packet: Any, arrival_time_ms: int) -> None:
            self.origins.setdefault(kind, packet.timestamp)
            await take(packet, arrival_time_ms=arrival_time_ms)

        vars(receiver).update(_handle_rtcp_packet=note, _handle_rtp_packet=note_first)


def new_connection() -> RTCPeerConnection:
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))


async def offer_of(connection: RTCPeerConnection, *kinds: str) -> str:
    """An offer to receive, with candidates."""
    for kind in kinds or ("video", "audio"):
        connection.addTransceiver(kind, "recvonly")
    await connection.setLocalDescription(await connection.createOffer())
    return connection.localDescription.sdp


async def _as_it_is(answer: str) -> str:
    return answer


@asynccontextmanager
async def player(
    http: aiohttp.ClientSession,
    path: str,
    *kinds: str,
    through: Callable[[str], Awaitable[str]] = _as_it_is,
    headers: dict[str, str] | None = None,
    connection: RTCPeerConnection | None = None,
) -> AsyncIterator[Player]:
    """Watches what is at a path, and leaves by DELETE. `through` may change the answer."""
    playing = Player(connection or new_connection())
    tasks: list[asyncio.Task[None]] = []
    try:
        offer = await offer_of(playing.connection, *kinds)

        @playing.connection.on("track")
        def _(track: MediaStreamTrack) -> None:
            tasks.append(asyncio.create_task(playing.read(track)))

        async with http.post(path, data=offer, headers=SDP | (headers or {})) as answer:
            text = await answer.text()
            assert answer.status == 201, text
            playing.address, playing.etag = answer.headers["Location"], answer.headers["ETag"]
        await playing.connection.setRemoteDescription(RTCSessionDescription(await through(text), "answer"))
        for receiver in playing.connection.getReceivers():
            playing.note_times(receiver)
        yield playing
        async with http.delete(playing.address) as ended:
            assert ended.status in {200, 404}
    finally:
        await playing.connection.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def heard(watching: Player) -> NDArray[np.float32]:
    """The sound as one, [samples] at 16 kHz, silent where none came."""
    begin = watching.sound[0].pts
    mono = np.zeros((watching.sound[-1].pts - begin) // 3 + 320, np.float32)
    for frame in watching.sound:
        place = (frame.pts - begin) // 3
        mono[place : place + 320] = frame.to_ndarray().reshape(320, 6).mean(axis=1) / 32768
    return mono
