"""A text that is interrupted at any moment counts as the segment that the browser was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
from aiohttp import web

from gateway_service.settings import SpeechSection
from gateway_service.speaking import Speaker
from gateway_service.usage import Usage
from gateway_service.websocket.messages import Config, Speak
from gateway_service.websocket.outlet import Outlet
from gateway_service.websocket.voice import Voice
from lipsync_client import AsyncClient, Frame, Started

from .conftest import Stack
from .sockets import eventually

# So long that its announcement waits for the browser, and soon spoken.
TEXT = "Yes." + "\u00a0" * 90_000


@asynccontextmanager
async def stopped_reader() -> AsyncIterator[tuple[Outlet, aiohttp.ClientWebSocketResponse]]:
    """The outlet to a reader that reads nothing, when there is no room any more."""
    full: asyncio.Future[Outlet] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        outlet = Outlet(request, socket, 60.0)
        while not request.protocol.writing_paused:
            await outlet.binary(b"", bytes(300_000))
        full.set_result(outlet)
        await over.wait()
        return socket

    application = web.Application()
    application.router.add_get("/", serve)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        async with aiohttp.ClientSession() as http, http.ws_connect(f"http://{host}:{port}/", max_msg_size=0) as socket:
            yield await full, socket
    finally:
        over.set()
        await runner.cleanup()


async def test_an_interrupt_between_the_announcement_and_the_first_sound(stack: Stack) -> None:
    config = Config.model_validate({"model_id": "small", "audio_encoding": "PCM_INT16"})
    async with (
        AsyncClient(stack.compositing.address) as client,
        client.session("small", pacing="fast") as session,
        stopped_reader() as (outlet, browser),
    ):
        assert isinstance(await anext(session), Started)
        voice = Voice(Speaker(SpeechSection(max_characters=len(TEXT))), session, outlet, config, Usage(config.rate, 0.0))
        before = outlet.bytes
        at_once = asyncio.Event()
        at_once.set()
        speaking = asyncio.create_task(voice.speak(Speak(text=TEXT), after=at_once))
        await eventually(lambda: outlet.bytes > before)  # `speaking` is on its way, and its sound waits for the browser
        await voice.stop()
        await session.interrupt()
        await speaking
        while (message := await browser.receive()).type is not aiohttp.WSMsgType.TEXT:
            pass
        assert message.json() == {"speaking": {"segment": 0, "text": TEXT}}
        await session.push(np.full(640, 9000, np.int16))
        await session.close()
        assert {event.segment async for event in session if isinstance(event, Frame) and event.audio_us >= 0} == {1}
