"""Viewers over WebRTC: `python -m benchmarks.webrtc_viewers HOST:PORT COUNT SECONDS PID`. Prints what they saw as JSON.

They watch one session, whose WebSocket is the first viewer's. They take packets and decode none, so that they cost little. PID is
the gateway, whose processor time is measured meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from typing import Any

import aiohttp
import psutil
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

SETTLE_S = 3.0
TICKS_A_FRAME = 3600
MOST_APART = 15
_NUMBER = struct.Struct("<8xq")


@dataclass
class Seen:
    """Pictures and sound that came within the measured time."""

    pictures: int
    """Whole pictures of all viewers."""
    sent_mbit: float
    """Megabits of the pictures of the first viewer, a second."""
    added_p50_ms: float
    """From a frame at the WebSocket to the last packet of its picture, of the first viewer."""
    added_p95_ms: float
    server_s: float
    """Processor time of PID."""


@dataclass
class _Record:
    """When pictures were whole, by their RTP time, and frames came, by their numbers."""

    pictures: dict[int, float] = field(default_factory=dict)
    frames: dict[int, float] = field(default_factory=dict)
    bytes: int = 0
    on: bool = False


@asynccontextmanager
async def viewer(http: aiohttp.ClientSession, path: str, record: _Record) -> AsyncIterator[None]:
    """Takes what is at an address, during the block."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    for kind in ("video", "audio"):
        connection.addTransceiver(kind, "recvonly")
    await connection.setLocalDescription(await connection.createOffer())
    body, headers = connection.localDescription.sdp, {"Content-Type": "application/sdp"}
    async with http.post(path, data=body, headers=headers) as answer:
        answer.raise_for_status()
        text, address = await answer.text(), answer.headers["Location"]
    await connection.setRemoteDescription(RTCSessionDescription(text, "answer"))
    for receiver in connection.getReceivers():
        vars(receiver).update(_handle_rtp_packet=_taker(record, is_video=receiver.track.kind == "video"))
    try:
        yield
    finally:
        async with http.delete(address):
            await connection.close()


def _taker(record: _Record, *, is_video: bool) -> Any:
    async def take(packet: Any, arrival_time_ms: int) -> None:
        if record.on:
            record.bytes += len(packet.payload)
            if is_video and packet.marker:
                record.pictures[packet.timestamp] = time.monotonic()

    return take


async def watched(address: str, count: int, seconds: float, pid: int) -> Seen:
    """Runs the viewers, and measures after a while."""
    gateway, records = psutil.Process(pid), [_Record() for _ in range(max(1, count))]

    def used() -> float:
        times = gateway.cpu_times()
        return float(times.user + times.system)

    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(f"http://{address}"))
        socket = await stack.enter_async_context(http.ws_connect("/ws", max_msg_size=0))
        await socket.send_json({"config": {"model_id": "demo", "pictures": False}})
        secret = json.loads((await socket.receive()).data)["started"]["secret"]
        reading = asyncio.create_task(_read(socket, records[0]))
        for record in records[:count]:
            await stack.enter_async_context(viewer(http, f"/api/sessions/{secret}/whep", record))
        await asyncio.sleep(SETTLE_S)
        for record in records:
            record.on = True
        server_s = used()
        await asyncio.sleep(seconds)
        server_s = used() - server_s
        for record in records:
            record.on = False
        reading.cancel()
    added = _added_ms(records[0]) if count else [0.0, 0.0]
    cuts = quantiles(added, n=100)
    pictures = sum(len(record.pictures) for record in records)
    return Seen(pictures, 8e-6 * records[0].bytes / seconds, cuts[49], cuts[94], server_s)


async def _read(socket: aiohttp.ClientWebSocketResponse, record: _Record) -> None:
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY and record.on:
            record.frames[_NUMBER.unpack_from(message.data)[0]] = time.monotonic()


def _added_ms(record: _Record) -> list[float]:
    """Pairs pictures with frames, both by the times that they have; a picture is later by less than a frame lasts."""
    begin = min(record.pictures)
    counted = {(at - begin) // TICKS_A_FRAME: moment for at, moment in record.pictures.items()}
    first = min(record.frames)

    def later(shift: int) -> list[float]:
        pairs = ((moment, record.frames.get(first + number + shift)) for number, moment in counted.items())
        return [1000 * (moment - came) for moment, came in pairs if came is not None]

    shifts = range(-MOST_APART, MOST_APART + 1)
    return min((each for each in map(later, shifts) if len(each) > len(counted) // 2 and median(each) > 0), key=median)


if __name__ == "__main__":
    _, address, count, seconds, pid = sys.argv
    print(json.dumps(asdict(asyncio.run(watched(address, int(count), float(seconds), int(pid))))))
