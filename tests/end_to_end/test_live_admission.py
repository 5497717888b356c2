"""Admission of live sessions through both services: slow networks, late frames, and processors that others keep busy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from shared_proto import compositing_pb2 as pb

from .avatars import slow_network, write_avatar
from .conftest import CALL_S, Duo, serving
from .processes import until
from .talking import Talk, config, noise

SOUND = bytes(4 * 640 * 2)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duo]:
    root: Path = tmp_path_factory.mktemp("slow")
    write_avatar(root / "models", "slow", network=slow_network(layers=24), idle_mouth="stored")
    with serving(root / "models", root, inference=["limits.admit_sessions=measured"]) as both:
        yield both


@pytest.mark.parametrize("resume", [None, pb.SessionResume(next_number=5, segment=1)], ids=["new", "resumed"])
def test_a_session_that_could_not_be_kept_in_real_time_is_refused_before_it_starts(
    slow: Duo, resume: pb.SessionResume | None
) -> None:
    refused = slow.inference.metric("lipsync_inference_refused_sessions_total")
    with Talk(slow.pictures, pb.SessionConfig(model_id="slow", resume=resume)) as talk:
        error = talk.failure()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error.details()
    assert "real time" in error.details()
    assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) >= 0
    assert talk.events == []
    assert slow.inference.metric("lipsync_inference_refused_sessions_total") == refused + 1


def test_work_without_a_clock_is_done_however_slowly(slow: Duo) -> None:
    with Talk(slow.pictures, pb.SessionConfig(model_id="slow", pacing=pb.AS_FAST_AS_POSSIBLE)) as talk:
        talk.say(SOUND)
        talk.end()
    assert len(talk.speech) == 2
    request = pb.CompositeBatchRequest(model_id="slow", raw_audio=SOUND, batch_size=2)
    assert len(slow.pictures.InferBatchComposite(request, timeout=CALL_S).composited_frames) == 2
    until(lambda: slow.inference.metric("lipsync_inference_capacity_frames_per_second") > 0)
    assert slow.inference.metric("lipsync_inference_sessions") == 0


def test_while_frames_come_late_no_session_is_added(tmp_path: Path) -> None:
    """The network could make many more, but the service was held up. Once they come in time, there is room again."""
    write_avatar(tmp_path / "models", "small")
    with (
        serving(tmp_path / "models", tmp_path, inference=["limits.admit_sessions=measured"]) as duo,
        Talk(duo.pictures, config()) as talk,
    ):
        talk.say(noise(60))
        talk.wait(lambda: len(talk.speech) > 20)
        refusals: list[str] = []
        for _ in range(20):  # a refusal is over two seconds later, before which a busy machine may not come to ask
            duo.inference.signal(signal.SIGSTOP)
            time.sleep(0.7)
            duo.inference.signal(signal.SIGCONT)
            shown = len(talk.speech)
            talk.wait(lambda shown=shown: len(talk.speech) > shown + 4)
            with Talk(duo.pictures, config()) as another:
                another.wait(lambda another=another: another.error or another.of("started"))
                if another.error:
                    refusals.append(another.error.details())
                    break
        assert ["too late" in each for each in refusals] == [True]
        with Talk(duo.pictures, config(resume=pb.SessionResume(next_number=5, segment=1))) as resumed:
            resumed.wait(lambda: resumed.of("started"))


@contextmanager
def other_work() -> Iterator[None]:
    """Keeps all cores busy that the tests may use."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def test_while_others_keep_the_processors_busy_no_session_is_added_and_one_that_runs_goes_on(tmp_path: Path) -> None:
    """Every frame of it comes, once and in order, and its status tells why others are refused."""
    write_avatar(tmp_path / "models", "small")
    with (
        serving(tmp_path / "models", tmp_path, inference=["limits.admit_sessions=measured"]) as duo,
        Talk(duo.pictures, config()) as talk,
    ):
        talk.say(noise(1500))
        talk.wait(lambda: len(talk.speech) > 60)
        until(lambda: duo.inference.metric("lipsync_inference_processor_load") > 0)
        with other_work():
            until(lambda: duo.inference.metric("lipsync_inference_processor_load") > 0.9)
            with Talk(duo.pictures, config()) as another:
                error = another.failure()
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error.details()
        talk.wait(lambda: any(status.overload == pb.OVERLOAD_REFUSING for status in talk.of("status")))
        shown = len(talk.speech)
        talk.wait(lambda: len(talk.speech) > shown + 25)
        assert [frame.number for frame in talk.frames] == list(range(len(talk.frames)))
        assert [frame.audio_us for frame in talk.speech] == [40_000 * place for place in range(len(talk.speech))]
