"""Ends of sessions: by an operator, a deadline, a drain, silence or length; and what does not end one."""

from __future__ import annotations

import queue
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from shared_proto import compositing_pb2 as pb

from .avatars import write_avatar
from .conftest import CALL_S, Duo, connected, serving
from .processes import running, until
from .talking import Talk, config, noise


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


@pytest.fixture
def own_models(tmp_path: Path) -> Path:
    write_avatar(tmp_path, "small")
    write_avatar(tmp_path, "other", seed=50, frames=3)
    return tmp_path


IMPATIENT = pytest.mark.parametrize("pair", [("sessions.inference_timeout_seconds=3",)], indirect=True, ids=["impatient"])


@pytest.fixture(params=[()], ids=["as it is"])
def pair(request: pytest.FixtureRequest, own_models: Path, tmp_path: Path) -> Iterator[Duo]:
    """Services of this test's own, with settings of the compositing service."""
    with (
        running("inference", f"models_root={own_models}", log=tmp_path / "i") as inference,
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


@pytest.mark.parametrize("pair", [("sessions.idle_timeout_seconds=1",)], indirect=True, ids=["brief"])
def test_a_session_that_is_silent_for_long_ends(pair: Duo) -> None:
    """Counted from the end of what was shown: these two seconds take longer than the limit."""
    with Talk(pair.pictures, config()) as talk:
        talk.say(noise(2.0))
        error = talk.failure()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(talk.speech) == 50
    assert "no message" in error.details()  # type: ignore[attr-defined]


@pytest.mark.parametrize("pair", [("sessions.max_seconds=4", "server.grace_seconds=3")], indirect=True, ids=["short"])
def test_a_session_is_told_before_its_length_is_reached(pair: Duo) -> None:
    with Talk(pair.pictures, config()) as talk:
        talk.say(noise(0.3))
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


@IMPATIENT
def test_frames_are_late_and_none_is_lost_while_inference_is_away(pair: Duo) -> None:
    with Talk(pair.pictures, config()) as talk:
        talk.say(noise(2.0))
        talk.wait(lambda: len(talk.speech) > 5)
        pair.inference.signal(signal.SIGSTOP)
        threading.Timer(1.5, lambda: pair.inference.signal(signal.SIGCONT)).start()
        talk.end()
    assert [frame.audio_us for frame in talk.speech] == [40_000 * k for k in range(50)]
    assert [frame.number for frame in talk.frames] == list(range(len(talk.frames)))


@IMPATIENT
def test_a_session_whose_inference_stays_away_ends_unavailable(pair: Duo) -> None:
    with Talk(pair.pictures, config()) as talk:
        talk.wait(lambda: talk.frames)
        pair.inference.process.kill()
        talk.say(noise(2.0))
        assert talk.failure().code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("pair", [("server.max_connection_age_seconds=1",)], indirect=True, ids=["ageing"])
def test_a_session_outlives_the_age_of_its_connection(pair: Duo) -> None:
    """The client is asked to connect anew after a second, and does so for other calls."""
    with Talk(pair.pictures, config()) as talk:
        talk.wait(lambda: len(talk.frames) > 75)
        pair.pictures.ListSessions(pb.ListSessionsRequest(), timeout=CALL_S)
        talk.say(noise(0.4))
        talk.end()
    assert [frame.number for frame in talk.frames] == list(range(len(talk.frames)))
    assert len(talk.speech) == 10


@pytest.mark.parametrize("how", ["drain", "length"])
def test_a_session_whose_reader_has_stopped_ends_when_it_was_told_to(own_models: Path, tmp_path: Path, how: str) -> None:
    """A write that is held up holds up no end: the client finds the status once it reads on, and no call is cut off."""
    limit = ["sessions.max_seconds=6", "server.grace_seconds=2"] if how == "length" else ["server.grace_seconds=4"]
    with serving(own_models, tmp_path, compositing=["sessions.reader_timeout_seconds=600", *limit]) as both:
        requests: queue.SimpleQueue[pb.SessionRequest] = queue.SimpleQueue()
        requests.put(pb.SessionRequest(config=config(output_format=pb.FORMAT_RAW_BGR)))
        call = both.pictures.StreamComposite(iter(requests.get, None), timeout=3 * CALL_S)
        next(call)
        time.sleep(2)  # until the windows are full
        if how == "drain":
            both.compositing.signal(signal.SIGTERM)
            assert both.compositing.process.wait(30) == 0
        else:
            until(lambda: not both.pictures.ListSessions(pb.ListSessionsRequest(), timeout=CALL_S).sessions)
        with pytest.raises(grpc.RpcError):
            for _ in call:
                pass
        assert call.code() is (grpc.StatusCode.UNAVAILABLE if how == "drain" else grpc.StatusCode.DEADLINE_EXCEEDED)
        assert how == "drain" or "lasted for as long as one may" in call.details()
        assert "cut off" not in both.compositing.log.read_text()
