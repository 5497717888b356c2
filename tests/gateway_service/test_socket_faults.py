"""Sockets while something breaks: the compositing service, the client, its reading, and the gateway's own end."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import resource
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import grpc
import numpy as np
import pytest

from gateway_service.http_face import HttpServer
from service_kit.life import RunningService
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from ..end_to_end.processes import free_port, running
from ..end_to_end.talking import Talk
from .conftest import Stack, gateway, url_of
from .sockets import FRAME, eventually, page

FAST = {"model_id": "small", "pacing": "AS_FAST_AS_POSSIBLE", "audio_encoding": "PCM_INT16"}
LIVE = FAST | {"pacing": "REALTIME"}
SOUND = np.random.default_rng(2).integers(-9000, 9000, 4 * 16_000, np.int16).tobytes()
FRAMES = 100


def metric(of: RunningService[HttpServer], name: str, **labels: str) -> float:
    return of.metrics.registry.get_sample_value(name, labels) or 0.0


async def test_a_compositing_service_that_is_killed_costs_no_frame(models_root: Path, tmp_path: Path) -> None:
    roots = f"models_root={models_root}", f"audio_encoder_path={models_root / 'none.onnx'}"
    port = free_port()
    with running("inference", *roots, "limits.admit_sessions=all", log=tmp_path / "inference") as inference:
        place = f"server.port=127.0.0.1:{port}", f"models_root={models_root}", f"inference_server.url={inference.address}"
        with running("compositing", *place, log=tmp_path / "first") as compositing:
            async with gateway(f"127.0.0.1:{port}") as own, page(url_of(own), LIVE) as opened:
                await opened.say(SOUND[:96_000], itertools.repeat(6400))
                await opened.wait(lambda: len(opened.spoken) > 20)
                compositing.process.kill()
                compositing.process.wait()
                await opened.say(SOUND[96_000:], itertools.repeat(6400))
                with running("compositing", *place, log=tmp_path / "second") as second:
                    await opened.send(close={})
                    assert await opened.closed() == 1000
                    assert second.process.poll() is None
                    assert metric(own, "lipsync_gateway_resumes_total") >= 1
                    wanted = called_at(port, opened.spoken[0].position)
    (resumed, *_) = opened.of("resumed")
    assert (resumed["next_number"] > 20, resumed["seconds"] > 0) == (True, True)
    assert [frame.number for frame in opened.frames] == list(range(len(opened.frames)))
    assert [frame.audio_us for frame in opened.spoken] == [40_000 * k for k in range(FRAMES)]
    assert opened.of("segment_ended") == [{"segment": 0, "frames": FRAMES, "audio_us": 4_000_000}]
    stalled = any(after.position - before.position != 1 for before, after in itertools.pairwise(opened.spoken))
    if not stalled:
        assert [frame.picture for frame in opened.spoken] == wanted


def called_at(port: int, position: int) -> list[bytes]:
    """The frames of the same sound, without a break."""
    config = pb.SessionConfig(
        model_id="small", pacing=pb.AS_FAST_AS_POSSIBLE, audio_encoding=pb.PCM_INT16, start_frame_idx=position
    )
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, Talk(CompositingServiceStub(channel), config) as talk:
        talk.say(SOUND)
        return [frame.picture for frame in talk.end().frames]


async def test_a_reader_that_pauses_loses_nothing(stack: Stack) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{stack.url}/ws", max_msg_size=0) as socket:
        await socket.send_json({"config": FAST})
        saying = asyncio.create_task(say_for(socket, seconds=40))
        numbers: list[int] = []
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                numbers.append(FRAME.unpack_from(message.data)[4])
            if len(numbers) == 100:
                await asyncio.sleep(1.5)
        await saying
    assert socket.close_code == 1000
    assert numbers == list(range(1000))


async def say_for(socket: aiohttp.ClientWebSocketResponse, *, seconds: int) -> None:
    for _ in range(seconds):
        await socket.send_bytes(SOUND[:32_000])
    await socket.send_json({"close": {}})


async def test_a_reader_that_stops_ends_its_session_alone(stack: Stack) -> None:
    async with gateway(stack.compositing.address, "sockets.reader_timeout_seconds=1") as own:
        async with aiohttp.ClientSession() as http, http.ws_connect(f"{url_of(own)}/ws", max_msg_size=0) as socket:
            await socket.send_json({"config": FAST})
            saying = asyncio.create_task(say_for(socket, seconds=600))
            async with page(url_of(own), FAST) as beside:
                await eventually(lambda: metric(own, "lipsync_gateway_ended_total", code="RESOURCE_EXHAUSTED"))
                await beside.say(SOUND, itertools.repeat(6400))
                await beside.send(close={})
                assert await beside.closed() == 1000
            assert len(beside.frames) == FRAMES
            saying.cancel()
            await asyncio.gather(saying, return_exceptions=True)
        await eventually(lambda: own.face.calls.running == 0)
        assert metric(own, "lipsync_gateway_sessions") == 0


async def test_sessions_are_told_of_the_end_and_finish_their_segment(stack: Stack) -> None:
    async with AsyncExitStack() as opened:
        own = await opened.enter_async_context(gateway(stack.compositing.address, "server.drain_seconds=600"))
        idle = await opened.enter_async_context(page(url_of(own), LIVE))
        speaking = await opened.enter_async_context(page(url_of(own), LIVE))
        await speaking.say(SOUND, itertools.repeat(6400))
        await speaking.send(end_of_segment={})
        await speaking.say(SOUND[:6400], itertools.repeat(6400))
        await speaking.wait(lambda: len(speaking.spoken) > 5)
        await idle.wait(lambda: idle.frames)
        draining = asyncio.create_task(own.drain())
        for each in (idle, speaking):
            await each.wait(lambda each=each: each.of("going_away"))
            assert each.of("going_away") == [{"reason": "draining", "ends_in_ms": 630_000}]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await opened.enter_async_context(page(url_of(own)))
        assert refusal.value.status == 503
        assert not idle.over
        assert not speaking.over
        own.stop_request.ask()
        own.stop_request.ask()  # cuts the drain short
        await draining
        own.stop_request.hurry.clear()
        finishing = asyncio.create_task(own.finish())
        assert [await idle.closed(), await speaking.closed()] == [1001, 1001]
        await finishing
        own.stop_request.hurry.set()
    assert speaking.of("segment_ended") == [{"segment": 0, "frames": FRAMES, "audio_us": 4_000_000}]
    assert [frame.audio_us for frame in speaking.spoken if frame.segment == 0] == [40_000 * k for k in range(FRAMES)]


async def test_connections_are_pooled(stack: Stack) -> None:
    async with gateway(stack.compositing.address, "compositing_server.sessions_per_connection=2") as own:
        async with AsyncExitStack() as opened:
            pages = [await opened.enter_async_context(page(url_of(own), LIVE)) for _ in range(5)]
            for each in pages:
                await each.wait(lambda each=each: each.frames)
            assert metric(own, "lipsync_gateway_connections") == 3
            assert metric(own, "lipsync_gateway_sessions") == 5
        await eventually(lambda: metric(own, "lipsync_gateway_connections") == 1)


async def test_sixty_sockets_at_once(stack: Stack) -> None:
    async def talk() -> list[int]:
        async with page(stack.url, FAST) as opened:
            await opened.say(SOUND[:32_000], itertools.repeat(6400))
            await opened.send(close={})
            assert await opened.closed() == 1000
        return [frame.audio_us for frame in opened.frames]

    assert await asyncio.gather(*(talk() for _ in range(60))) == [[40_000 * k for k in range(25)]] * 60


async def test_those_who_vanish_leave_nothing_behind(stack: Stack) -> None:
    async def vanish(http: aiohttp.ClientSession, url: str, step: int) -> None:
        socket = await http.ws_connect(f"{url}/ws", max_msg_size=0)
        if step % 4:
            await socket.send_json({"config": LIVE})
        if step % 4 > 1:
            await socket.send_bytes(SOUND)
        if step % 4 > 2:
            await socket.receive()
        transport = socket.get_extra_info("socket")
        assert transport is not None
        assert socket._response.connection is not None
        assert socket._response.connection.transport is not None
        socket._response.connection.transport.abort()

    def in_use() -> tuple[int, int, float, int]:
        gc.collect()
        descriptors = len(os.listdir("/proc/self/fd"))
        return len(asyncio.all_tasks()), descriptors, metric(own, "lipsync_gateway_sessions"), own.face.calls.running

    async with gateway(stack.compositing.address) as own, aiohttp.ClientSession() as http:
        for step in range(4):
            await vanish(http, url_of(own), step)
        await eventually(lambda: own.face.calls.running == 0)
        await asyncio.sleep(1)
        before = in_use()
        for step in range(40):
            await vanish(http, url_of(own), step)
        await eventually(lambda: own.face.calls.running == 0)
        await eventually(lambda: all(now <= then for now, then in zip(in_use(), before, strict=True)))
        listed = stack.stub.ListSessions
        await eventually(lambda: len(listed(pb.ListSessionsRequest(), timeout=60).sessions) == 0)


async def idle_sockets(stack: Stack, count: int) -> None:
    """Opens so many sockets that say nothing, and talks beside them."""
    request = (
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    writers = []
    async with gateway(
        stack.compositing.address, "sockets.first_message_seconds=600", "sockets.ping_seconds=3600", *UNLIMITED
    ) as own:
        try:
            for _ in range(count):
                reader, writer = await asyncio.open_connection(own.address.host, own.address.port)
                writers.append(writer)
                writer.write(request)
                assert b"101" in await reader.readline()
            async with page(url_of(own), FAST) as opened:
                await opened.say(SOUND, itertools.repeat(6400))
                await opened.send(close={})
                assert await opened.closed() == 1000
            assert len(opened.frames) == FRAMES
            assert metric(own, "lipsync_gateway_sockets") == count
        finally:
            for writer in writers:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        await eventually(lambda: own.face.calls.running == 0)


UNLIMITED = [
    f"guard.{key}=1000000"
    for key in (
        "requests_per_second",
        "request_burst",
        "max_sockets_per_address",
        "max_connections",
        "max_connections_per_address",
    )
]


async def test_idle_sockets_leave_the_others_untouched(stack: Stack) -> None:
    await idle_sockets(stack, 300)


@pytest.mark.slow
async def test_ten_thousand_idle_sockets_leave_the_others_untouched(stack: Stack) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        await idle_sockets(stack, min(9_900, (hard - 1000) // 2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
