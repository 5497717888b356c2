"""The bounds of sessions: sound that waits, readers that stop, many sessions, clients that vanish."""

from __future__ import annotations

import time
from pathlib import Path

import grpc

from shared_proto import compositing_pb2 as pb

from .conftest import Duo, connected
from .processes import until
from .talking import FAST, Talk, config, noise


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


def test_a_hundred_sessions_that_say_nothing_are_kept(duo: Duo) -> None:
    """Beside them another one speaks."""
    talks = [Talk(duo.pictures, config(idle=pb.IDLE_NONE)) for _ in range(100)]
    try:
        for talk in talks:
            talk.__enter__()
        for talk in talks:
            talk.wait(lambda talk=talk: talk.of("started"))
        with Talk(duo.pictures, config(pacing=FAST)) as speaking:
            speaking.say(noise(0.4))
            speaking.end()
        assert len(speaking.speech) == 10
    finally:
        for talk in talks:
            talk.__exit__(None, None, None)
    until(lambda: not duo.pictures.ListSessions(pb.ListSessionsRequest()).sessions)


def test_clients_that_vanish_leave_nothing_behind(duo: Duo) -> None:
    def figures() -> tuple[float, int]:
        return duo.compositing.metric("process_open_fds"), len(list(Path(f"/proc/{duo.compositing.process.pid}/task").iterdir()))

    before: tuple[float, int] | None = None
    for turn in range(40):
        channel = grpc.insecure_channel(duo.compositing.address)
        with connected(duo.inference, duo.compositing) as own:
            talk = Talk(own.pictures, config())
            talk.__enter__()
            talk.say(noise(1.0), end=False)
            if turn % 2:
                talk.wait(lambda talk=talk: talk.speech)
        channel.close()
        talk.__exit__(None, None, None)
        if turn == 9:
            until(lambda: duo.compositing.metric("lipsync_sessions") == 0)
            before = figures()
    until(lambda: duo.compositing.metric("lipsync_sessions") == 0)
    until(lambda: duo.compositing.metric("lipsync_session_buffered_seconds") == 0)
    assert before
    until(lambda: figures()[0] <= before[0] + 3 and figures()[1] <= before[1] + 3)
