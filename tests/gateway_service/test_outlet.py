"""Bytes written to a socket come as they were written, in order, to fast and slow readers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from gateway_service.websocket.ending import Ending
from gateway_service.websocket.outlet import Outlet

from .sockets import eventually

HEADER = bytes(range(40))
# Around the sizes at which the head of a message grows.
SIZES = [size - len(HEADER) for size in (40, 41, 124, 125, 126, 127, 1000, 65_534, 65_535, 65_536, 65_537, 300_000)]


@asynccontextmanager
async def written(
    sizes: list[int], *, timeout_s: float = 60.0
) -> AsyncIterator[tuple[aiohttp.ClientWebSocketResponse, list[str]]]:
    """A socket to which contents of these sizes are written, each followed by a text, and the names of what ended it."""
    endings: list[str] = []

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        outlet = Outlet(request, socket, timeout_s)
        try:
            for size in sizes:
                await outlet.binary(HEADER, random.Random(size).randbytes(size))
                await outlet.text(str(size))
            assert outlet.bytes == sum(len(HEADER) + size + len(str(size)) for size in sizes)
            await socket.close()
        except Ending as ending:
            endings.append(ending.name)
        return socket

    application = web.Application()
    application.router.add_get("/", serve)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        async with aiohttp.ClientSession() as http, http.ws_connect(f"http://{host}:{port}/", max_msg_size=0) as socket:
            yield socket, endings
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("pause_s", [0.0, 0.3])
async def test_all_sizes_come_whole_and_in_order(pause_s: float) -> None:
    sizes = [*SIZES, *SIZES[::-1], *[300_000] * 40]
    async with written(sizes) as (socket, _):
        await asyncio.sleep(pause_s)  # what is written meanwhile does not go into the socket
        came = [message.data async for message in socket]
    wanted = [each for size in sizes for each in (HEADER + random.Random(size).randbytes(size), str(size))]
    assert came == wanted


async def test_a_reader_that_takes_nothing_is_given_up() -> None:
    async with written([300_000] * 400, timeout_s=0.3) as (socket, endings):
        await eventually(lambda: endings)
        assert endings == ["RESOURCE_EXHAUSTED"]
        assert socket.close_code is None


async def test_a_reader_that_has_gone_is_noticed() -> None:
    async with written([300_000] * 400) as (socket, endings):
        await socket.receive()
        assert socket._response.connection is not None
        assert socket._response.connection.transport is not None
        socket._response.connection.transport.abort()
        await eventually(lambda: endings)
        assert endings == ["CLIENT_LEFT"]
