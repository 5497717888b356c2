"""The bounds of sessions: sound that waits, readers that stop, many sessions, clients that vanish."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from .conftest import CALL_S, Duo, connected
from .processes import resident_mb, threads_of, until
from .talking import FAST, Talk, at_once, config, noise


def test_sound_beyond_the_bound_waits_and_nothing_is_lost(duo: Duo) -> None:
    with Talk(duo.pictures, config(idle=pb.IDLE_NONE), metadata=(("x-session-id", "full"),)) as talk:
        talk.wait(lambda: talk.of("started"))
        talk.say(noise(7.0), piece=64_000)
        talk.wait(lambda: len(talk.speech) > 10)
        infos = duo.pictures.ListSessions(pb.ListSessionsRequest()).sessions
        [info] = [each for each in infos if each.session_id == "full"]
        assert 0 < info.buffered_ms <= 5000 + 1000
        assert info.speaking
        talk.end()
    assert len(talk.speech) == 175


def test_a_reader_that_stops_makes_the_session_wait_and_loses_nothing(duo: Duo) -> None:
    with Talk(duo.pictures, config(output_format=pb.FORMAT_RAW_BGR)) as talk:
        talk.wait(lambda: talk.of("started"))
        talk.pause_reading()
        talk.say(noise(2.0))
        time.sleep(3)
        talk.go_on_reading()
        talk.end()
    assert [frame.audio_us for frame in talk.speech] == [40_000 * k for k in range(50)]
    assert [frame.number for frame in talk.frames] == list(range(len(talk.frames)))


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
async def test_many_sessions_that_say_nothing_are_kept(duo: Duo, count: int) -> None:
    """Beside them another one speaks. They take no threads, and a tenth of a megabyte each at the most."""
    opening = asyncio.Semaphore(20)

    async def begun(channel: grpc.aio.Channel) -> Any:
        async with opening:
            call: Any = CompositingServiceStub(channel).StreamComposite(timeout=3 * CALL_S)
            await call.write(pb.SessionRequest(config=config(idle=pb.IDLE_NONE)))
            assert (await call.read()).HasField("started")
            return call

    def speak() -> Talk:
        with Talk(duo.pictures, config(pacing=FAST)) as talk:
            talk.say(noise(0.4))
            return talk.end()

    await asyncio.to_thread(speak)
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(duo.compositing.address)) for _ in range(10)]
        warm = [await begun(channel) for channel in channels]
        before = resident_mb(duo.compositing), threads_of(duo.compositing)
        calls = warm + await asyncio.gather(*(begun(channels[number % 10]) for number in range(count)))
        assert duo.compositing.metric("lipsync_sessions") >= count
        assert resident_mb(duo.compositing) - before[0] < 0.1 * count
        assert threads_of(duo.compositing) - before[1] < 10
        assert len((await asyncio.to_thread(speak)).speech) == 10
        for call in calls:
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass  # so many sessions are overload, which each of them is told
        assert [await call.code() for call in calls] == [grpc.StatusCode.OK] * len(calls)
    until(lambda: not duo.pictures.ListSessions(pb.ListSessionsRequest()).sessions)


def test_two_hundred_clients_that_vanish_leave_nothing_behind(duo: Duo) -> None:
    """Eight at a time come on connections of their own, and vanish as they begin or while they are shown."""
    services = duo.compositing, duo.inference

    def figures() -> list[float]:
        until(
            lambda: duo.compositing.metric("lipsync_sessions") == duo.compositing.metric("lipsync_session_buffered_seconds") == 0
        )
        until(lambda: duo.inference.metric("lipsync_inference_queued_frames") == 0)
        return [count for each in services for count in (each.metric("process_open_fds"), threads_of(each))]

    def vanish(turn: int) -> None:
        with connected(*reversed(services)) as own:
            talk = Talk(own.pictures, config())
            talk.__enter__()
            talk.say(sound, end=False)
            if turn % 2:
                talk.wait(lambda: talk.speech)
        talk.__exit__(None, None, None)

    def come_and_go(rounds: int) -> None:
        for _ in range(rounds):
            at_once(vanish, [(turn,) for turn in range(8)])

    sound = noise(3.0)
    come_and_go(10)  # until the memory of threads and arenas is there
    before, before_mb = figures(), [resident_mb(each) for each in services]
    come_and_go(25)
    until(lambda: all(now <= then + 3 for now, then in zip(figures(), before, strict=True)))
    for each, then_mb in zip(services, before_mb, strict=True):
        assert resident_mb(each) - then_mb < 15, each.name  # the sound alone of 200 sessions is 37
