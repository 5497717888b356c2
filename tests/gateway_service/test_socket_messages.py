"""Messages that a socket refuses: with every problem at once, the right code, and no harm to the sessions beside it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import numpy as np
import pytest

from .conftest import Stack, gateway, url_of
from .sockets import Page, eventually, page

FAST = {"model_id": "small", "pacing": "AS_FAST_AS_POSSIBLE"}
INT16 = FAST | {"audio_encoding": "PCM_INT16"}
NAN = np.array([0.0, np.nan], "<f4").tobytes()


async def refused(url: str, *messages: str | bytes, config: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """The code and the error of a socket that sends this."""
    async with page(url, config) as opened:
        for message in messages:
            if isinstance(message, bytes):
                await opened.socket.send_bytes(message)
            else:
                await opened.socket.send_str(message)
        code = await opened.closed()
    (error,) = opened.of("error")
    assert opened.came[-1] == {"error": error}
    return code, error


@pytest.mark.parametrize(
    ("first", "named"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "object"),
        ('"config"', "object"),
        ("{}", "exactly one of config"),
        ('{"config": null}', "exactly one of config"),
        ('{"config": {"model_id": "small"}, "close": {}}', "exactly one of config"),
        ('{"interrupt": {}}', "config: send it first"),
        ('{"config": {}}', "config.model_id"),
        ('{"config": {"model_id": "small", "modelid": "x"}}', "config.modelid: is not known"),
        ('{"config": {"model_id": "small", "sample_rate": 1e400}}', "config.sample_rate"),
        ('{"config": {"model_id": "small", "sample_rate": true}}', "config.sample_rate"),
        ('{"config": {"model_id": "small", "sample_rate": 4000}}', "config.sample_rate"),
        ('{"config": {"model_id": "small", "start_frame_idx": 99999999999999999999}}', "config.start_frame_idx"),
        ('{"config": {"model_id": "small", "look_ahead_frames": 3}}', "config.look_ahead_frames"),
        ('{"config": {"model_id": "small", "jpeg_quality": 5, "quality_preset": "QUALITY_LOW"}}', "config.jpeg_quality"),
        ('{"config": {"model_id": "small", "session_id": "line\\nbreak"}}', "config.session_id"),
        ('{"config": {"model_id": "../etc"}}', "model_id"),
        (f'{{"config": {"[" * 50_000}', "JSON"),
        ('{"config": {"model_id": "small", "resume": {"next_number": 5, "segment": 0, "audio_start_frame": 9, '
         '"first_frame": 12}}}', "needs the sound from frame 2"),
    ],
)  # fmt: skip
async def test_a_first_message_that_is_wrong(stack: Stack, first: str, named: str) -> None:
    code, error = await refused(stack.url, first)
    assert (code, error["code"]) == (4003, "INVALID_ARGUMENT")
    assert named in error["message"]
    assert len(error["message"]) < 8000


async def test_all_problems_are_named_at_once(stack: Stack) -> None:
    config = {"sample_rate": -1, "pacing": "SOMETIMES", "cushion_ms": 3000, "idle": 3, "resume": {"segment": -1}}
    _, error = await refused(stack.url, json.dumps({"config": config}))
    named = ("model_id", "sample_rate", "pacing", "cushion_ms", "idle", "resume.segment", "resume.next_number")
    assert all(f"config.{name}: " in error["message"] for name in named)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (b"\0" * 3, "sound: 3 bytes"),
        ('{"config": {"model_id": "small"}}', "config: may be sent only once"),
        ('{"speak": {}}', "speak.text"),
        ('{"speak": {"text": "a", "voice": "--path=/etc"}}', "speak.voice"),
        ('{"type": "list_models"}', "type"),
    ],
)
async def test_a_later_message_that_is_wrong(stack: Stack, message: str | bytes, named: str) -> None:
    code, error = await refused(stack.url, b"\0\0", message, config=INT16)
    assert (code, error["code"]) == (4003, "INVALID_ARGUMENT")
    assert named in error["message"]


async def test_sound_that_is_not_finite(stack: Stack) -> None:
    code, error = await refused(stack.url, NAN, config=FAST)
    assert (code, error["message"]) == (4003, "sound: it holds numbers that are not finite")


@pytest.mark.parametrize("message", [b"\0\0", '{"interrupt": {}}', '{"close": {}}'])
async def test_nothing_comes_after_close(stack: Stack, message: str | bytes) -> None:
    code, error = await refused(stack.url, b"\0" * 64_000, '{"close": {}}', message, config=INT16 | {"pacing": "REALTIME"})
    assert (code, error["message"].partition(": ")[2]) == (4003, "comes after close")


async def test_an_avatar_that_does_not_exist(stack: Stack) -> None:
    code, error = await refused(stack.url, config={"model_id": "nobody"})
    assert (code, error["code"]) == (4005, "NOT_FOUND")


async def test_a_message_that_is_too_large(stack: Stack) -> None:
    async with gateway(stack.compositing.address) as running, page(url_of(running), INT16) as opened:
        await opened.socket.send_bytes(b"\0" * (1 << 20))
        await opened.wait(lambda: opened.frames)
        await opened.socket.send_bytes(b"\0" * ((1 << 20) + 2))
        # A reset because of what was not read may overtake the close.
        assert await opened.closed() in {1009, 1006}
        ended = running.metrics.registry.get_sample_value
        await eventually(lambda: ended("lipsync_gateway_ended_total", {"code": "TOO_LARGE"}) == 1)


async def test_a_first_message_that_does_not_come(stack: Stack) -> None:
    settings = "sockets.first_message_seconds=0.2"
    async with gateway(stack.compositing.address, settings) as running, page(url_of(running)) as opened:
        assert await opened.closed() == 1008


async def test_more_sockets_than_allowed_are_refused(stack: Stack) -> None:
    async with gateway(stack.compositing.address, "server.max_running_calls=2") as running, AsyncExitStack() as opened:
        for _ in range(2):
            await opened.enter_async_context(page(url_of(running)))
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await opened.enter_async_context(page(url_of(running)))
        assert refusal.value.status == 503
        async with aiohttp.ClientSession() as http, http.get(f"{url_of(running)}/healthz") as answer:
            assert answer.status == 200


GARBAGE: tuple[Callable[[Page, np.random.Generator], Any], ...] = (
    lambda opened, chance: opened.socket.send_bytes(chance.bytes(int(chance.integers(1, 60_000)))),
    lambda opened, chance: opened.socket.send_str(chance.bytes(200).hex()),
    lambda opened, chance: opened.socket.send_str(json.dumps({"switch_avatar": {"model_id": chance.bytes(20).hex()}})),
    lambda opened, chance: opened.send(interrupt={}),
    lambda opened, chance: opened.send(end_of_segment={}),
    lambda opened, chance: opened.send(speak={"text": chance.bytes(30).decode("latin-1")}),
)


async def test_garbage_leaves_the_others_untouched(stack: Stack, speech: np.ndarray) -> None:
    sound = (speech * 32767).astype("<i2").tobytes()

    async def alone() -> list[bytes]:
        async with page(stack.url, INT16) as opened:
            await opened.say(sound, itertools.repeat(6400))
            await opened.send(close={})
            assert await opened.closed() == 1000
        return [frame.picture for frame in opened.frames]

    async def attack(seed: int) -> None:
        chance = np.random.default_rng(seed)
        async with page(stack.url, FAST if seed % 2 else INT16) as opened:
            for _ in range(20):
                try:
                    await GARBAGE[chance.integers(len(GARBAGE))](opened, chance)
                except ConnectionError:
                    break
            if seed % 3:
                await opened.closed()

    async def half_messages() -> None:
        """A handshake, and the beginning of a message that never ends."""
        reader, writer = await asyncio.open_connection(*stack.gateway.address.split(":"))
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\xfe\x40\x00abcd" + b"x" * 100
        )
        assert b"101" in await reader.readline()
        writer.close()
        await writer.wait_closed()

    wanted = await alone()
    before = len(asyncio.all_tasks())
    async with asyncio.TaskGroup() as tasks:
        unharmed = [tasks.create_task(alone()) for _ in range(2)]
        for seed in range(12):
            tasks.create_task(attack(seed))
            tasks.create_task(half_messages())
    assert [task.result() for task in unharmed] == [wanted, wanted]
    assert len(asyncio.all_tasks()) == before
