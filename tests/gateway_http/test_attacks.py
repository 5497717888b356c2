"""A session goes on untouched while others attack the gateway that holds it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from service_kit.life import RunningService

from ..end_to_end.processes import Service
from .conftest import running_gateway
from .raw import connected, sent

FRAMES = 60
GENEROUS = "guard.requests_per_second=100000", "guard.request_burst=100000"
HEAD = b"GET /api/avatars/small/stream.mjpeg HTTP/1.1\r\nHost: here\r\n\r\n"


async def vanish(gateway: RunningService) -> None:
    """Takes the first bytes of moving pictures, and resets the connection."""
    reader, writer = await connected(gateway)
    writer.write(HEAD)
    with suppress(ConnectionError):
        await reader.read(100)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def take_nothing(gateway: RunningService) -> None:
    """Asks for moving pictures and reads none for a while."""
    address = gateway.address
    lazy = socket.socket()
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.setblocking(False)
    with lazy:
        await asyncio.get_running_loop().sock_connect(lazy, (address.host, address.port))
        await asyncio.get_running_loop().sock_sendall(lazy, HEAD)
        await asyncio.sleep(0.3)


async def flood(gateway: RunningService) -> None:
    """Sends headers without an end."""
    await sent(gateway, b"GET / HTTP/1.1\r\nHost: here\r\n" + b"X-Flood: " + b"y" * 200_000)


async def dribble(gateway: RunningService) -> None:
    """Begins requests and leaves them so."""
    held = [await connected(gateway) for _ in range(20)]
    for _, writer in held:
        writer.write(b"GET /api/avatars HTTP/1.1\r\nHost:")
    await asyncio.sleep(0.1)
    for _, writer in held:
        writer.close()


async def scale(gateway: RunningService) -> None:
    """Asks for stills in every width."""
    async with aiohttp.ClientSession(f"http://{gateway.address.reachable}") as http:
        for width in range(16, 416, 40):
            await (await http.get(f"/api/avatars/small/still.jpg?width={width}")).read()


@pytest.mark.parametrize("attack", [vanish, take_nothing, flood, dribble, scale])
async def test_a_session_gets_every_frame_meanwhile(
    compositing: Service, attack: Callable[[RunningService], Coroutine[Any, Any, None]]
) -> None:
    async with running_gateway(compositing.address, *GENEROUS) as gateway, aiohttp.ClientSession() as http:
        async with http.ws_connect(f"http://{gateway.address.reachable}/ws") as ws:
            await ws.send_json({"config": {"model_id": "other"}})

            over = asyncio.Event()

            async def again() -> None:
                while not over.is_set():
                    with suppress(ConnectionError):
                        await attack(gateway)

            attackers = [asyncio.create_task(again()) for _ in range(5)]
            numbers: list[int] = []
            while len(numbers) < FRAMES:
                message = await ws.receive(timeout=60)
                if message.type is aiohttp.WSMsgType.BINARY:
                    numbers.append(struct.unpack_from("<q", message.data, 8)[0])
                    assert message.data[40:42] == b"\xff\xd8"
                    assert message.data[-2:] == b"\xff\xd9"
            assert not any(attacker.done() for attacker in attackers)
            over.set()
            await asyncio.gather(*attackers)
        assert numbers == list(range(numbers[0], numbers[0] + FRAMES))
