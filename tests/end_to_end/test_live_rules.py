"""The rules of live sessions over the wire: order of messages, refusals, clock, interrupts, switches, bounds, ends."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shared_proto import compositing_pb2 as pb

from .avatars import write_avatar
from .conftest import CALL_S, Duo, connected
from .processes import running, until
from .talking import Talk, pcm

FAST = pb.AS_FAST_AS_POSSIBLE
CONFIG = pb.SessionConfig(model_id="small")


def noise(seconds: float, seed: int = 0) -> bytes:
    return pcm(np.random.default_rng(seed).standard_normal(int(16_000 * seconds)) * 0.1, pb.PCM_FLOAT32)


def violations(error: grpc.RpcError) -> set[str]:
    status = rpc_status.from_call(error)
    details = error_details_pb2.BadRequest()
    status.details[0].Unpack(details)
    return {violation.field for violation in details.field_violations}


def config(**more: Any) -> pb.SessionConfig:
    return pb.SessionConfig(**{"model_id": "small", **more})


# Refusals


@pytest.mark.parametrize(
    ("bad", "fields"),
    [
        ({"model_id": "../x"}, {"model_id"}),
        ({"start_frame_idx": -1, "sample_rate": 7999, "jpeg_quality": 101}, {"start_frame_idx", "sample_rate", "jpeg_quality"}),
        ({"jpeg_quality": 50, "quality_preset": 1}, {"jpeg_quality"}),
        (
            {"audio_encoding": 9, "pacing": 7, "idle": 8, "output_format": 6},
            {"audio_encoding", "pacing", "idle", "output_format"},
        ),
        ({"look_ahead_frames": 5, "cushion_ms": 2001}, {"look_ahead_frames", "cushion_ms"}),
        ({"look_ahead_frames": 13, "cushion_ms": -1}, {"look_ahead_frames", "cushion_ms"}),
        ({"resume": pb.SessionResume(next_number=-1, segment=-1)}, {"resume.next_number", "resume.segment"}),
        ({"resume": pb.SessionResume(first_frame=20, audio_start_frame=11)}, {"resume.audio_start_frame"}),
        ({"sample_rate": 48_000, "resume": pb.SessionResume(first_frame=20, audio_start_frame=9)}, {"resume.audio_start_frame"}),
    ],
)
def test_a_wrong_configuration_is_refused_with_every_problem(duo: Duo, bad: dict[str, Any], fields: set[str]) -> None:
    with Talk(duo.pictures, config(**bad)) as talk:
        error = talk.failure()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(error) == fields


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ({"audio": pb.SessionAudio(data=bytes(4))}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"interrupt": pb.Interrupt()}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"config": config(model_id="nobody")}, grpc.StatusCode.NOT_FOUND),
        ({"config": config(model_id="missing-frame")}, grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
def test_what_may_not_come_first_is_refused(duo: Duo, first: dict[str, Any], code: grpc.StatusCode) -> None:
    with Talk(duo.pictures, None) as talk:
        talk.send(**first)
        error = talk.failure()
    assert error.code() is code, error
    assert not talk.events


def test_no_configuration_is_refused(duo: Duo) -> None:
    with Talk(duo.pictures, None) as talk:
        talk.close()
        assert talk.failure().code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_without_content_is_only_a_sign_of_life(duo: Duo) -> None:
    with Talk(duo.pictures, None) as talk:
        talk.send()
        talk.send(config=config(pacing=FAST))
        talk.send()
        talk.send(audio=pb.SessionAudio())
        talk.send(end_of_segment=pb.EndOfSegment())
        talk.end()
    assert [event.WhichOneof("event") for event in talk.events] == ["started"]


@pytest.mark.parametrize(
    "bad",
    [
        {"config": CONFIG},
        {"audio": pb.SessionAudio(data=b"abc")},
        {"audio": pb.SessionAudio(data=np.array([0, np.nan], "<f4").tobytes())},
        {"audio": pb.SessionAudio(data=np.array([np.inf], "<f4").tobytes())},
    ],
)
def test_what_may_not_come_later_ends_the_session_and_no_other(duo: Duo, bad: dict[str, Any]) -> None:
    with Talk(duo.pictures, config()) as other, Talk(duo.pictures, config()) as talk:
        talk.wait(lambda: talk.of("started"))
        talk.say(noise(1.0))
        talk.send(**bad)
        error = talk.failure()
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert violations(error)
        other.say(noise(0.2))
        other.end()
    assert len(other.speech) == 5


def test_bytes_that_are_no_message_are_refused(duo: Duo) -> None:
    method = duo.to_compositing.stream_stream("/compositing.CompositingService/StreamComposite")
    with pytest.raises(grpc.RpcError) as raised:
        list(method(iter([b"\xff\xff\xff"]), timeout=CALL_S))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


# Order and clock


def test_started_comes_first_and_says_what_holds(duo: Duo) -> None:
    metadata = (("x-session-id", "my-session"),)
    with Talk(duo.pictures, config(pacing=FAST, look_ahead_frames=7), metadata=metadata) as talk:
        talk.end()
    [started] = talk.of("started")
    assert started.session_id == "my-session"
    assert (started.fps, started.look_ahead_ms, started.output_format) == (25, 280, pb.FORMAT_JPEG)
    assert started.width > 0 < started.height
    assert started.max_buffered_ms >= 3000
    assert started.server_version


def test_a_session_without_an_id_gets_one(duo: Duo) -> None:
    with Talk(duo.pictures, config(pacing=FAST)) as talk:
        talk.end()
    assert talk.of("started")[0].session_id


def test_in_real_time_frames_leave_one_for_each_40_ms(duo: Duo) -> None:
    with Talk(duo.pictures, config()) as talk:
        talk.wait(lambda: len(talk.frames) >= 10)
        talk.say(noise(1.0))
        talk.wait(lambda: talk.of("segment_ended") and len(talk.frames) >= 60)
        seconds = talk.times[59] - talk.times[9]
        talk.end()
    assert [frame.number for frame in talk.frames] == list(range(len(talk.frames)))
    assert [frame.pts_us for frame in talk.frames] == [40_000 * frame.number for frame in talk.frames]
    assert seconds > 1.5, "frames came faster than the clock"
    spoken = [frame.number for frame in talk.speech]
    assert spoken == list(range(spoken[0], spoken[0] + 25))
    following = {frame.number + 1: frame.next_position for frame in talk.frames}
    assert all(frame.position == following[frame.number] for frame in talk.frames[1:])


def test_silence_inside_a_segment_is_no_speech(duo: Duo) -> None:
    with Talk(duo.pictures, config(pacing=FAST)) as talk:
        talk.say(noise(0.4) + bytes(4 * 16_000 * 2) + noise(0.4))
        talk.end()
    flags = [frame.speech for frame in talk.frames]
    assert flags[0]
    assert flags[-1]
    silent = [k for k, speaks in enumerate(flags) if not speaks]
    assert silent
    # Zeros from 395 ms before a frame to 452.5 ms after its start.
    assert all(0.04 * k - 0.385 >= 0.4 and 0.04 * k + 0.4425 <= 2.4 for k in silent)
    assert set(silent) >= {k for k in range(70) if 0.04 * k - 0.395 >= 0.4 and 0.04 * k + 0.4525 <= 2.4}


def test_with_stored_pictures_silent_and_idle_frames_are_as_stored(duo: Duo) -> None:
    stored = duo.pictures.InferBatchComposite(
        pb.CompositeBatchRequest(model_id="small", stored_features=False, idle=True, batch_size=5), timeout=CALL_S
    )
    assert stored.composited_frames
    with Talk(duo.pictures, config(idle=pb.IDLE_STORED)) as talk:
        talk.wait(lambda: len(talk.frames) >= 4)
        talk.say(bytes(4 * 16_000))
        talk.end()
    by_index: dict[int, set[bytes]] = {}
    for frame in talk.frames:
        assert not frame.speech
        by_index.setdefault(frame.frame_index, set()).add(frame.picture)
    assert all(len(pictures) == 1 for pictures in by_index.values())


def test_without_idle_frames_nothing_comes_and_numbers_grow(duo: Duo) -> None:
    with Talk(duo.pictures, config(idle=pb.IDLE_NONE)) as talk:
        talk.wait(lambda: talk.of("started"))
        time.sleep(0.5)
        assert not talk.frames
        talk.say(noise(0.2))
        talk.end()
    assert talk.frames[0].number >= 12
    assert [frame.position for frame in talk.frames] == list(range(5))


# Interrupts and switches


def test_ten_thousand_interrupts_are_answered_each(duo: Duo) -> None:
    with Talk(duo.pictures, config(idle=pb.IDLE_NONE)) as talk:
        for _ in range(10_000):
            talk.send(interrupt=pb.Interrupt())
        talk.say(noise(0.2))
        talk.end()
    answers = talk.of("interrupted")
    assert len(answers) == 10_000
    assert {answer.segment for answer in answers} == {-1}
    assert len(talk.speech) == 5


@pytest.mark.parametrize(
    ("switch", "code"),
    [
        (pb.SwitchAvatar(model_id="nobody"), grpc.StatusCode.NOT_FOUND),
        (pb.SwitchAvatar(model_id=""), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.SwitchAvatar(model_id="other", start_frame_idx=-1), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_switch_that_fails_leaves_the_session_as_it_is(duo: Duo, switch: pb.SwitchAvatar, code: grpc.StatusCode) -> None:
    with Talk(duo.pictures, config()) as talk:
        talk.send(switch_avatar=switch)
        talk.wait(lambda: talk.of("switch_failed"))
        talk.say(noise(0.2))
        talk.end()
    [failed] = talk.of("switch_failed")
    assert (failed.model_id, failed.code) == (switch.model_id, code.value[0])
    assert failed.message
    assert len(talk.speech) == 5


def test_each_of_many_switches_has_one_answer(duo: Duo) -> None:
    names = ["other", "forward", "nobody", "feather", "small", "other"] * 5
    with Talk(duo.pictures, config()) as talk:
        for name in names:
            talk.send(switch_avatar=pb.SwitchAvatar(model_id=name))
        talk.wait(lambda: len(talk.of("avatar_switched")) + len(talk.of("switch_failed")) == len(names))
        assert talk.of("avatar_switched")[-1].model_id == "other"
        talk.end()
    aborted = [failed for failed in talk.of("switch_failed") if failed.code == grpc.StatusCode.ABORTED.value[0]]
    assert aborted


# Bounds and ends


def test_sound_beyond_the_bound_waits_and_nothing_is_lost(duo: Duo) -> None:
    with Talk(duo.pictures, config(idle=pb.IDLE_NONE)) as talk:
        talk.wait(lambda: talk.of("started"))
        talk.say(noise(9.0), piece=64_000)
        talk.wait(lambda: len(talk.speech) > 10)
        [info] = [each for each in duo.pictures.ListSessions(pb.ListSessionsRequest()).sessions if each.model_id == "small"]
        assert 0 < info.buffered_ms <= 5000 + 1000
        assert info.speaking
        talk.end()
    assert len(talk.speech) == 225


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


def test_sessions_are_listed_and_ended(duo: Duo) -> None:
    metadata = (("x-session-id", "to-be-ended"),)
    with Talk(duo.pictures, config(), metadata=metadata) as talk:
        talk.wait(lambda: len(talk.frames) > 5)
        infos = duo.pictures.ListSessions(pb.ListSessionsRequest()).sessions
        [info] = [info for info in infos if info.session_id == "to-be-ended"]
        assert (info.model_id, info.speaking, info.speech_ms) == ("small", False, 0)
        assert info.frames >= 5
        assert duo.pictures.EndSession(pb.EndSessionRequest(session_id="to-be-ended")).ended == 1
        assert talk.failure().code() is grpc.StatusCode.CANCELLED
    assert duo.pictures.EndSession(pb.EndSessionRequest(session_id="to-be-ended")).ended == 0


def test_a_caller_s_own_deadline_ends_it(duo: Duo) -> None:
    with Talk(duo.pictures, config(), timeout_s=0.8) as talk:
        assert talk.failure().code() is grpc.StatusCode.DEADLINE_EXCEEDED


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


@pytest.fixture
def own_models(tmp_path: Path) -> Path:
    write_avatar(tmp_path, "small")
    write_avatar(tmp_path, "other", seed=50, frames=3)
    return tmp_path


BRIEF = ("sessions.max_seconds=9", "sessions.idle_timeout_seconds=1.5", "server.grace_seconds=4")
IMPATIENT = ("sessions.inference_timeout_seconds=3",)
AGEING = ("server.max_connection_age_seconds=1",)


@pytest.fixture(params=[BRIEF])
def pair(request: pytest.FixtureRequest, own_models: Path, tmp_path: Path) -> Iterator[Duo]:
    """Services of this test's own."""
    with (
        running("inference", f"models_root={own_models}", "limits.admit_sessions=all", log=tmp_path / "i") as inference,
        running(
            "compositing",
            f"models_root={own_models}",
            f"inference_server.url={inference.address}",
            *request.param,
            log=tmp_path / "c",
        ) as compositing,
        connected(inference, compositing) as both,
    ):
        yield both


def test_a_draining_service_lets_the_running_segment_end(pair: Duo) -> None:
    with Talk(pair.pictures, config()) as idle, Talk(pair.pictures, config()) as talk:
        idle.wait(lambda: idle.frames)
        talk.say(noise(1.5))
        talk.say(noise(0.4))
        talk.wait(lambda: talk.speech)
        pair.compositing.signal(signal.SIGTERM)
        for each in (idle, talk):
            error = each.failure()
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            [away] = each.of("going_away")
            assert away.reason == pb.GOING_AWAY_DRAINING
            assert away.ends_in_ms > 0
    assert [ended.segment for ended in talk.of("segment_ended")] == [0]
    assert len(talk.speech) == 38
    assert pair.compositing.process.wait(30) == 0


def test_a_session_that_is_silent_for_long_ends(pair: Duo) -> None:
    """Counted from the end of what was shown: these two seconds take longer than the limit."""
    with Talk(pair.pictures, config()) as talk:
        talk.say(noise(2.0))
        error = talk.failure()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(talk.speech) == 50
    assert "no message" in error.details()  # type: ignore[attr-defined]


def test_a_session_is_told_before_its_length_is_reached(pair: Duo) -> None:
    with Talk(pair.pictures, config()) as talk:
        for turn in range(20):
            if talk.of("going_away"):
                break
            talk.say(noise(0.3, turn))
            time.sleep(0.5)
        error = talk.failure()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    [away] = talk.of("going_away")
    assert away.reason == pb.GOING_AWAY_SESSION_LENGTH


def test_new_files_are_shown_from_the_next_segment_on(pair: Duo, own_models: Path) -> None:
    with Talk(pair.pictures, config()) as talk:
        talk.wait(lambda: talk.frames)
        write_avatar(own_models / "new", "small", seed=90)
        shutil.move(own_models / "small", own_models / ".old")
        shutil.move(own_models / "new" / "small", own_models / "small")
        pair.pictures.LoadModel(pb.LoadModelRequest(model_id="small", force_reload=True), timeout=CALL_S)
        talk.wait(lambda: talk.of("avatar_switched"))
        talk.say(noise(0.2))
        talk.end()
    [switched] = talk.of("avatar_switched")
    assert switched.model_id == "small"
    fresh = pair.pictures.InferBatchComposite(
        pb.CompositeBatchRequest(model_id="small", raw_audio=noise(0.2), batch_size=1, start_frame_idx=talk.speech[0].position),
        timeout=CALL_S,
    )
    assert talk.speech[0].picture == fresh.composited_frames[0]


@pytest.mark.parametrize("pair", [IMPATIENT], indirect=True, ids=["impatient"])
def test_frames_are_late_and_none_is_lost_while_inference_is_away(pair: Duo) -> None:
    with Talk(pair.pictures, config()) as talk:
        talk.say(noise(2.0))
        talk.wait(lambda: len(talk.speech) > 5)
        pair.inference.signal(signal.SIGSTOP)
        threading.Timer(1.5, lambda: pair.inference.signal(signal.SIGCONT)).start()
        talk.end()
    assert [frame.audio_us for frame in talk.speech] == [40_000 * k for k in range(50)]
    assert [frame.number for frame in talk.frames] == list(range(len(talk.frames)))


@pytest.mark.parametrize("pair", [IMPATIENT], indirect=True, ids=["impatient"])
def test_a_session_whose_inference_stays_away_ends_unavailable(pair: Duo) -> None:
    with Talk(pair.pictures, config()) as talk:
        talk.wait(lambda: talk.frames)
        pair.inference.process.kill()
        talk.say(noise(2.0))
        assert talk.failure().code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("pair", [AGEING], indirect=True, ids=["ageing"])
def test_a_session_outlives_the_age_of_its_connection(pair: Duo) -> None:
    """The client is asked to connect anew after a second, and does so for other calls."""
    with Talk(pair.pictures, config()) as talk:
        talk.wait(lambda: len(talk.frames) > 75)
        pair.pictures.ListSessions(pb.ListSessionsRequest(), timeout=CALL_S)
        talk.say(noise(0.4))
        talk.end()
    assert [frame.number for frame in talk.frames] == list(range(len(talk.frames)))
    assert len(talk.speech) == 10
