"""Hostile and unlucky clients of live sessions: floods, silence, broken resumes, drains at bad moments, readers that stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from shared_proto import compositing_pb2 as pb

from .avatars import slow_network, write_avatar
from .conftest import CALL_S, Duo, serving
from .processes import assert_no_trace, resident_mb, until
from .talking import FAST, Talk, config, noise

MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def strict(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duo]:
    """Services that soon lose patience."""
    limits = [
        "sessions.idle_timeout_seconds=2",
        "sessions.reader_timeout_seconds=2",
        "sessions.inference_timeout_seconds=4",
        "server.grace_seconds=3",
    ]
    with serving(models_root, tmp_path_factory.mktemp("strict"), compositing=limits) as both:
        yield both
    assert_no_trace(both.compositing)
    assert_no_trace(both.inference)


# Before the session begins


def test_a_stream_without_a_configuration_ends(strict: Duo) -> None:
    with Talk(strict.pictures, None) as talk:
        assert talk.failure().code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("field", ["next_number", "segment", "first_frame", "audio_start_frame"])
@pytest.mark.parametrize("value", [2**30 + 1, 2**31 - 1, 2**47, 2**63 - 1])
def test_a_resume_beyond_what_a_session_reaches_is_refused(strict: Duo, field: str, value: int) -> None:
    if field == "segment" and value >= 2**31:
        return
    values = {"first_frame": value} if field == "audio_start_frame" else {}
    with Talk(strict.pictures, config(resume=pb.SessionResume(**{field: value}, **values))) as talk:
        assert talk.failure().code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_session_resumed_as_late_as_may_be_goes_on(strict: Duo) -> None:
    most = 2**30
    resume = pb.SessionResume(next_number=most, segment=most, audio_start_frame=most - 10, first_frame=most)
    with Talk(strict.pictures, config(pacing=FAST, resume=resume)) as talk:
        talk.say(noise(0.8))
        talk.say(noise(0.2))
        talk.end()
    assert [frame.number for frame in talk.frames] == list(range(most, most + 15))
    assert [ended.segment for ended in talk.of("segment_ended")] == [most, most + 1]


def test_a_resumed_session_that_is_interrupted_at_once_speaks_the_next_segment_whole(strict: Duo) -> None:
    resume = pb.SessionResume(next_number=40, segment=2, audio_start_frame=5, first_frame=15)
    with Talk(strict.pictures, config(pacing=FAST, resume=resume)) as talk:
        talk.send(interrupt=pb.Interrupt())
        talk.say(noise(0.2))
        talk.end()
    [answer] = talk.of("interrupted")
    assert (answer.segment, answer.next_number, answer.audio_us) == (2, 40, 600_000)
    assert [(frame.segment, frame.audio_us) for frame in talk.frames] == [(3, 40_000 * k) for k in range(5)]


# Floods


def test_one_message_with_much_sound_is_taken_as_there_is_room(duo: Duo) -> None:
    """60 MB, 31 minutes: the message itself stays in memory while it is heard, and little else."""
    sound = np.random.default_rng(1).integers(-3000, 3000, 30_000_000, np.int16).tobytes()
    with Talk(duo.pictures, config(pacing=FAST, audio_encoding=pb.PCM_INT16)) as small:
        small.say(noise(0.2))
        small.end()
    before = resident_mb(duo.compositing)
    with Talk(duo.pictures, config(audio_encoding=pb.PCM_INT16, idle=pb.IDLE_NONE)) as talk:
        talk.wait(lambda: talk.of("started"))
        talk.send(audio=pb.SessionAudio(data=sound))
        talk.wait(lambda: len(talk.speech) > 60)
        [info] = [each for each in duo.pictures.ListSessions(pb.ListSessionsRequest()).sessions if each.speaking]
        assert info.buffered_ms <= talk.of("started")[0].max_buffered_ms
        grown = resident_mb(duo.compositing) - before
        assert grown < 3.3 * len(sound) / MEBIBYTE, grown
        with Talk(duo.pictures, config(pacing=FAST)) as other:
            other.say(noise(0.4))
            other.end()
        assert len(other.speech) == 10


def test_sound_that_no_wanted_frame_reads_does_not_fill_the_memory(duo: Duo) -> None:
    resume = pb.SessionResume(next_number=7, segment=2, first_frame=10_000_000)
    piece = pb.SessionAudio(data=noise(30.0))
    with Talk(duo.pictures, config(resume=resume)) as talk:
        talk.wait(lambda: len(talk.frames) > 3)
        before = resident_mb(duo.compositing)
        for _ in range(60):
            talk.send(audio=piece)
        talk.send(end_of_segment=pb.EndOfSegment())
        talk.wait(lambda: talk.of("segment_ended"))
        assert resident_mb(duo.compositing) - before < 40
        [ended] = talk.of("segment_ended")
        assert ended.frames == 30 * 25 * 60


def test_many_empty_messages_disturb_no_other_session(strict: Duo) -> None:
    with Talk(strict.pictures, config()) as flood, Talk(strict.pictures, config()) as other:
        other.wait(lambda: other.frames)
        other.say(noise(1.0))
        other.close()  # now nothing more is expected of it, however long the flood takes
        for turn in range(20_000):
            flood.send(audio=pb.SessionAudio()) if turn % 2 else flood.send()
        flood.say(noise(0.2))
        flood.end()
        other.end()
    assert len(other.speech) == 25
    assert len(flood.speech) == 5


# Silence


def test_a_client_that_falls_silent_inside_a_segment_is_let_go(strict: Duo) -> None:
    with Talk(strict.pictures, config()) as talk:
        talk.say(noise(1.0), end=False)
        error = talk.failure()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert talk.speech


# Readers


def a_reader_that_stops(duo: Duo, **more: Any) -> Any:
    """Takes the first events and no more; the windows of a raw picture fill at once."""
    requests = iter([pb.SessionRequest(config=config(output_format=pb.FORMAT_RAW_BGR, **more))])

    def endless() -> Iterator[pb.SessionRequest]:
        yield from requests
        threading.Event().wait(CALL_S)

    call = duo.pictures.StreamComposite(endless(), timeout=CALL_S, metadata=(("x-session-id", "stopped"),))
    next(call)
    return call


def running_ids(duo: Duo) -> list[str]:
    return [info.session_id for info in duo.pictures.ListSessions(pb.ListSessionsRequest()).sessions]


def test_a_reader_that_takes_nothing_is_let_go(strict: Duo) -> None:
    call = a_reader_that_stops(strict, idle=pb.IDLE_REST)
    until(lambda: "stopped" in running_ids(strict))
    until(lambda: "stopped" not in running_ids(strict))
    with pytest.raises(grpc.RpcError):
        for _ in call:
            pass
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(call.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"


def test_an_operator_ends_a_session_whose_reader_has_stopped(duo: Duo) -> None:
    call = a_reader_that_stops(duo)
    until(lambda: "stopped" in running_ids(duo))
    time.sleep(2)  # until the windows are full
    assert duo.pictures.EndSession(pb.EndSessionRequest(session_id="stopped")).ended == 1
    until(lambda: "stopped" not in running_ids(duo))
    call.cancel()


def test_sessions_of_one_id_are_all_listed_and_all_ended(duo: Duo) -> None:
    metadata = (("x-session-id", "twins"),)
    talks = [Talk(duo.pictures, config(), metadata=metadata) for _ in range(3)]
    for talk in talks:
        talk.__enter__()
        talk.wait(lambda talk=talk: talk.frames)
    assert running_ids(duo).count("twins") == 3
    assert duo.pictures.EndSession(pb.EndSessionRequest(session_id="twins")).ended == 3
    for talk in talks:
        assert talk.failure().code() is grpc.StatusCode.CANCELLED
        talk.__exit__(None, None, None)


# Drains


@pytest.fixture
def draining(tmp_path: Path) -> Iterator[Duo]:
    root = tmp_path / "models"
    root.mkdir()
    write_avatar(root, "small")
    write_avatar(root, "slow", network=slow_network(layers=60))
    with serving(root, tmp_path, compositing=["server.grace_seconds=6"]) as both:
        yield both
    assert_no_trace(both.compositing)


def test_a_drain_ends_what_has_not_begun_yet(draining: Duo) -> None:
    with (
        Talk(draining.pictures, None) as silent,
        Talk(draining.pictures, config(model_id="slow")) as loading,
        Talk(draining.pictures, config()) as stalled,
    ):
        stalled.say(noise(1.0), end=False)
        stalled.wait(lambda: stalled.speech)
        draining.compositing.signal(signal.SIGTERM)
        assert silent.failure().code() is grpc.StatusCode.UNAVAILABLE
        assert loading.failure().code() is grpc.StatusCode.UNAVAILABLE
        stalled.wait(lambda: stalled.of("going_away"))
        stalled.say(noise(1.0))
        assert stalled.failure().code() is grpc.StatusCode.UNAVAILABLE
    assert len(stalled.speech) == 50
    assert draining.compositing.process.wait(30) == 0
