"""Viewers of live sessions: `python -m benchmarks.viewers ws|grpc HOST:PORT COUNT SECONDS PID`. Prints what they saw as JSON.

Each opens a session and takes its frames, over the gateway's WebSocket or with the client straight from the service. PID is the
process whose processor time is measured meanwhile; 0 for none.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict, dataclass, field
from statistics import quantiles

import aiohttp
import psutil

from benchmarks.frame_source import PERIOD_S, age_ms
from lipsync_client import AsyncClient, Frame

SETTLE_S = 2.0


@dataclass
class Seen:
    """Frames of all viewers within the time that is measured."""

    frames: int
    p50_ms: float
    p95_ms: float
    own_s: float
    """Processor time of the viewers."""
    server_s: float
    """Processor time of PID."""


@dataclass
class _Record:
    ages_ms: list[float] = field(default_factory=list)
    on: bool = False

    def take(self, picture: bytes | memoryview) -> None:
        if self.on:
            self.ages_ms.append(age_ms(picture))


async def over_websocket(address: str, record: _Record, http: aiohttp.ClientSession) -> None:
    """Takes frames from the gateway."""
    async with http.ws_connect(f"http://{address}/ws", max_msg_size=0) as socket:
        await socket.send_json({"config": {"model_id": "stored"}})
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                record.take(message.data)
            elif message.type is aiohttp.WSMsgType.TEXT and "error" in json.loads(message.data):
                raise RuntimeError(message.data)


async def directly(client: AsyncClient, record: _Record) -> None:
    """Takes frames from the service."""
    async with client.session("stored") as session:
        async for event in session:
            if isinstance(event, Frame):
                record.take(event.picture)


async def watched(way: str, address: str, count: int, seconds: float, pid: int) -> Seen:
    """Runs the viewers, spread over a frame's period, and measures after a while."""
    record = _Record()
    process = psutil.Process(pid) if pid else None

    def used() -> float:
        times = process.cpu_times() if process else None
        return float(times.user + times.system) if times else 0.0

    async for view in _views(way, address, record):
        viewers: list[asyncio.Task[None]] = []
        for _ in range(count):
            viewers.append(asyncio.create_task(view()))
            await asyncio.sleep(PERIOD_S / count * 3.7)
        await asyncio.sleep(SETTLE_S)
        record.on, own_s, server_s = True, time.process_time(), used()
        await asyncio.wait(viewers, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        own_s, server_s, record.on = time.process_time() - own_s, used() - server_s, False
        for viewer in viewers:
            if viewer.done():
                raise RuntimeError(f"a viewer ended early: {viewer.exception()}")
            viewer.cancel()
        await asyncio.wait(viewers)
    cuts = quantiles(record.ages_ms, n=100)
    return Seen(len(record.ages_ms), cuts[49], cuts[94], own_s, server_s)


async def _views(way: str, address: str, record: _Record) -> AsyncIterator[Callable[[], Coroutine[None, None, None]]]:
    if way == "ws":
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            yield lambda: over_websocket(address, record, http)
    else:
        async with AsyncClient(address) as client:
            yield lambda: directly(client, record)


if __name__ == "__main__":
    _, way, address, count, seconds, pid = sys.argv
    print(json.dumps(asdict(asyncio.run(watched(way, address, int(count), float(seconds), int(pid))))))
