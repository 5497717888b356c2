"""Sockets of people who have gone away: they end, and those in use do not."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np

from .conftest import Stack, gateway, url_of
from .sockets import page

LIVE = {"model_id": "small", "audio_encoding": "PCM_INT16"}
IDLE = "sockets.idle_seconds=1"
SOUND = np.random.default_rng(4).integers(-9000, 9000, 5 * 16_000, np.int16).tobytes()


async def test_a_session_that_nobody_uses_ends(stack: Stack) -> None:
    async with gateway(stack.compositing.address, IDLE) as running, page(url_of(running), LIVE) as opened:
        assert await opened.closed() == 4004
        (error,) = opened.of("error")
        assert error == {"code": "DEADLINE_EXCEEDED", "message": "nothing was said for 1 s, so the session ended"}
        assert 0 < len(opened.frames) < 60  # a busy machine makes fewer than 25
        assert opened.of("started")[0]["idle_timeout_ms"] == 1000


async def test_silence_keeps_no_session(stack: Stack) -> None:
    async with gateway(stack.compositing.address, IDLE) as running, page(url_of(running), LIVE) as opened:
        while not opened.over:
            await opened.socket.send_bytes(b"\0" * 1280)
            await asyncio.sleep(0.04)
        assert opened.socket.close_code == 4004


async def test_whoever_speaks_keeps_the_session_until_all_is_shown(stack: Stack) -> None:
    async with gateway(stack.compositing.address, IDLE) as running, page(url_of(running), LIVE) as opened:
        await opened.say(SOUND, itertools.repeat(6400))  # five seconds, at once
        await opened.send(end_of_segment={})
        await opened.wait(lambda: opened.of("segment_ended"))
        assert await opened.closed() == 4004
    assert [frame.audio_us for frame in opened.spoken] == [40_000 * k for k in range(125)]


async def test_a_word_of_the_page_keeps_the_session(stack: Stack) -> None:
    async with gateway(stack.compositing.address, IDLE) as running, page(url_of(running), LIVE) as opened:
        for _ in range(8):
            await opened.send(end_of_segment={})
            await asyncio.sleep(0.25)
        assert not opened.over


async def test_without_a_limit_a_session_lasts(stack: Stack) -> None:
    async with (
        gateway(stack.compositing.address, "sockets.idle_seconds=0") as running,
        page(url_of(running), LIVE) as opened,
    ):
        await opened.wait(lambda: len(opened.frames) > 50)
        assert opened.of("started")[0]["idle_timeout_ms"] == 0
