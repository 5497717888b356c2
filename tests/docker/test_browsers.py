"""Browsers come in through the balancer, as they do on any host: WebSockets, with and without TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from .callers import CALL_S, sound
from .stack import MARKS, Stack

pytestmark = MARKS

SPEECH_FRAMES = 25
HEADER_BYTES = 40
JPEG = b"\xff\xd8"


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose connections are closed before the event loop is: aiohttp ends them a little after the session."""
    async with aiohttp.ClientSession() as http:
        yield http
    await asyncio.sleep(0.25)


@asynccontextmanager
async def session(url: str, key: str, context: ssl.SSLContext | None = None) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A session that has started. A machine that is busy with other tests may have no room for it at first."""
    async with client() as http:
        while True:
            headers = {"Authorization": f"Bearer {key}"}
            async with http.post(f"{url}/api/tickets", headers=headers, ssl=context or True, raise_for_status=True) as answer:
                ticket = (await answer.json())["ticket"]
            async with http.ws_connect(f"{url}/ws", ssl=context or True) as socket:
                await socket.send_json({"config": {"model_id": "demo", "ticket": ticket}})
                first = await socket.receive_json()
                if "started" in first:
                    yield socket
                    return
                assert first["error"]["code"] == "RESOURCE_EXHAUSTED", first
                await asyncio.sleep(first["error"]["retry_ms"] / 1000)


async def spoken(url: str, key: str, context: ssl.SSLContext | None = None) -> int:
    """The number of frames with speech that a session with a second of sound gets."""
    speech = 0
    async with asyncio.timeout(CALL_S), session(url, key, context) as socket:
        await socket.send_bytes(sound(SPEECH_FRAMES).astype("<f4").tobytes())
        await socket.send_json({"close": {}})
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                assert message.data[HEADER_BYTES : HEADER_BYTES + 2] == JPEG
                speech += message.data[1] & 1
        assert socket.close_code == aiohttp.WSCloseCode.OK
    return speech


def test_a_session_through_the_balancer_speaks(stack: Stack) -> None:
    assert asyncio.run(spoken(f"http://{stack.browser_address}", stack.key)) == SPEECH_FRAMES


def test_a_rolling_restart_tells_browsers_to_go_elsewhere(stack: Stack) -> None:
    """By the script that operators use. Nobody who comes meanwhile is refused."""
    before = stack.one("gateway").id
    url = f"http://{stack.browser_address}"

    async def watch() -> list[str]:
        async with session(url, stack.key) as socket:
            restart = asyncio.create_task(asyncio.to_thread(restart_gateway))
            told = [next(iter(message.json())) async for message in socket if message.type is aiohttp.WSMsgType.TEXT]
            assert socket.close_code == aiohttp.WSCloseCode.GOING_AWAY
            assert await spoken(url, stack.key) == SPEECH_FRAMES
            await restart
        return told

    def restart_gateway() -> None:
        stack.run(["env", "SERVICE=gateway", "deploy/compose/rolling-restart.sh", *stack.files])

    told = asyncio.run(watch())
    assert "going_away" in told
    assert stack.one("gateway").id != before
    assert asyncio.run(spoken(url, stack.key)) == SPEECH_FRAMES


def test_typed_text_can_be_spoken(stack: Stack) -> None:
    code, output = stack.one("gateway").exec_run(["espeak-ng", "--version"])
    assert code == 0, output
