"""`lipsync bench stream` sees what a server does wrong: this one is late, falls silent, stalls, ends or refuses sessions."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceServicer, add_CompositingServiceServicer_to_server

from ..grpc_servers import serving

LATE_BY_S = 0.3
ROOM = 2
TROUBLE_AT = 5
FIRST_FRAME_BYTES = 4 * 7200
REMEMBERED_S = 2.0


class OnTheClock(CompositingServiceServicer):
    """Sends a frame every 40 ms but for the one thing that the avatar is named after."""

    def __init__(self) -> None:
        self.running = threading.Semaphore(ROOM)

    def LoadModel(self, request, context):
        return pb.LoadModelResponse(success=True)

    def StreamComposite(self, requests, context):
        trouble = next(requests).config.model_id
        if trouble in {"full", "remembering"}:
            self.take_a_place(context, kept_s=REMEMBERED_S if trouble == "remembering" else 0.0)
        yield pb.SessionEvent(started=pb.SessionStarted(width=2, height=2, look_ahead_ms=480, max_buffered_ms=5000))
        if trouble == "stalling":
            heard = 0
            while heard < FIRST_FRAME_BYTES:
                heard += len(next(requests).audio.data)
        yield from self.frames(trouble, context)

    def take_a_place(self, context: grpc.ServicerContext, *, kept_s: float) -> None:
        if not self.running.acquire(blocking=False):
            context.set_trailing_metadata([("grpc-retry-pushback-ms", "1000")])
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")
        context.add_callback(lambda: threading.Timer(kept_s, self.running.release).start())

    def frames(self, trouble: str, context: grpc.ServicerContext) -> Iterator[pb.SessionEvent]:
        started_s, spoken = time.monotonic(), itertools.count()
        for number in itertools.count():
            late_s = LATE_BY_S if (trouble, number) == ("late", TROUBLE_AT) else 0.0
            time.sleep(max(0.0, started_s + number / 25 + late_s - time.monotonic()))
            if number == TROUBLE_AT and trouble == "failing":
                context.abort(grpc.StatusCode.INTERNAL, "a bug")
            if number == TROUBLE_AT and trouble == "silent":
                left = threading.Event()
                assert not context.add_callback(left.set) or left.wait(60)
            if not context.is_active():
                return
            speaks = trouble == "stalling" and not TROUBLE_AT <= number < TROUBLE_AT + 3
            audio_us = 40_000 * next(spoken) if speaks else -1
            frame = pb.SessionFrame(picture=b"jpeg", number=number, pts_us=40_000 * number, audio_us=audio_us)
            yield pb.SessionEvent(frames=pb.SessionFrames(frames=[frame]))


@pytest.fixture
def target() -> Iterator[str]:
    with serving(add_CompositingServiceServicer_to_server, OnTheClock()) as address:
        yield address


@pytest.fixture
def measure(run, target: str, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs the command against the server above, and returns what it wrote."""

    def measured(avatar: str, *options: object) -> dict[str, Any]:
        files = ["--json", tmp_path / "found.json", "--plot", tmp_path / "found.svg"]
        result = run("bench", "stream", "--server", target, "--avatar", avatar, *files, *options)
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
        return found

    return measured


def test_a_frame_that_comes_late(measure) -> None:
    found = measure("late", "--idle", "--sessions", 1, "--seconds", 1)
    assert found["kept"] == 0
    assert found["each"][0]["late"] >= 1
    assert found["behind_ms"]["most"] >= 1000 * LATE_BY_S / 2  # on a busy machine the others are late too


def test_frames_that_do_not_come(measure) -> None:
    found = measure("silent", "--idle", "--sessions", 1, "--seconds", 2)
    assert found["frames"] == TROUBLE_AT
    assert found["kept"] == 0
    assert found["each"][0]["late"] >= 25


def test_a_stall(measure) -> None:
    found = measure("stalling", "--sessions", 1, "--seconds", 3)
    assert found["kept"] == 0
    assert found["each"][0]["stalls"] == 1
    assert found["first_frame_ms"]["count"] == 1


def test_a_session_that_fails(measure) -> None:
    found = measure("failing", "--idle", "--sessions", 2, "--seconds", 3600)  # it ends when none is left
    assert found["kept"] == 0
    assert all("a bug" in each["error"] and each["frames"] == TROUBLE_AT for each in found["each"])


def test_a_ramp_ends_where_sessions_are_refused(measure) -> None:
    found = measure("full", "--idle", "--ramp", "--sessions", 3, "--seconds", 2)
    assert found["fits"] <= ROOM
    first = found["runs"][0]
    assert (first["sessions"], first["kept"] <= ROOM) == (3, True)
    (refused,) = [each for each in first["each"] if not each["started"]]
    assert "no room" in refused["error"]


def test_the_runs_of_a_ramp_do_not_count_the_sessions_of_the_run_before(measure) -> None:
    found = measure("remembering", "--idle", "--ramp", "--sessions", 1, "--most", ROOM, "--seconds", 1)
    assert not any(each["error"] for run in found["runs"] for each in run["each"])
