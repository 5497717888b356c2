"""Compositors come, go and die under load."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from lipsync_client import Client, Frame, Resumed, Session

from .callers import advised_caller, load, plain_caller
from .stack import MARKS, Stack, kill, until

pytestmark = MARKS

CALLS = 60
SEGMENT_FRAMES = 30


def test_calls_are_spread_over_all_replicas(three: Stack) -> None:
    compositors = three.containers("compositing")
    assert len(compositors) == 3

    def handled() -> list[float]:
        return [
            three.metric(each, "grpc_server_handled_total", grpc_method="InferBatchComposite", grpc_code="OK")
            for each in compositors
        ]

    before = handled()
    with load(plain_caller, three) as calls:
        calls.wait_for(CALLS)
    took = [after - earlier for after, earlier in zip(handled(), before, strict=True)]
    assert calls.lost == []
    assert sum(took) == calls.done
    assert min(took) >= calls.done / 6  # half of an even share


def test_replicas_that_come_and_go_are_not_noticed(one_of_each: Stack) -> None:
    """Callers without any retry."""
    with load(plain_caller, one_of_each) as calls:
        one_of_each.up(compositing=3)
        calls.wait_for(CALLS)
        one_of_each.up(compositing=1)
        until(lambda: len(one_of_each.containers("compositing")) == 1, within_s=60)
        calls.wait_for(CALLS)
    assert calls.lost == []


def test_one_that_is_stopped_loses_no_call(three: Stack) -> None:
    """Callers without any retry; and it ends in its own time, with exit code 0."""
    stopped = three.containers("compositing")[0]
    with load(plain_caller, three) as calls:
        stopped.stop(timeout=60)
        calls.wait_for(CALLS)
        state = stopped.attrs["State"] if stopped.reload() is None else {}
        stopped.start()
        three.wait_healthy()
        calls.wait_for(CALLS)
    assert calls.lost == []
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)


def test_a_rolling_restart_of_all_loses_no_call(three: Stack) -> None:
    """Callers without any retry, and the script that operators use."""
    before = {container.id for container in three.containers("compositing")}
    with load(plain_caller, three) as calls:
        three.run(["deploy/compose/rolling-restart.sh", *three.files])
        calls.wait_for(CALLS)
    after = {container.id for container in three.containers("compositing")}
    assert calls.lost == []
    assert len(after) == 3
    assert not after & before


def test_sessions_go_on_elsewhere_during_a_rolling_restart(three: Stack) -> None:
    """Each frame once and in order, with its own sound, though every replica that a session was on has gone."""
    over = threading.Event()

    def talk(session: Session) -> np.ndarray:
        spoken = []
        while not over.is_set():
            spoken.append(np.random.default_rng(len(spoken)).uniform(-0.3, 0.3, SEGMENT_FRAMES * 640).astype(np.float32))
            session.push(spoken[-1])
            session.end_segment()
        session.close()
        return np.concatenate(spoken)

    def listen(session: Session) -> tuple[list[Frame], int]:
        events = list(session)
        return [each for each in events if isinstance(each, Frame)], sum(isinstance(each, Resumed) for each in events)

    with Client(three.address, api_key=three.key) as client, client.session("demo") as session, ThreadPoolExecutor(2) as pool:
        talking: Future[np.ndarray] = pool.submit(talk, session)
        listening = pool.submit(listen, session)
        try:
            three.run(["deploy/compose/rolling-restart.sh", *three.files])
        finally:
            over.set()
        spoken = talking.result()
        frames, resumed = listening.result()
    assert resumed >= 1
    assert [frame.number for frame in frames] == list(range(len(frames)))
    heard = [frame.audio for frame in frames if frame.audio is not None]
    assert np.array_equal(np.concatenate(heard), spoken)


def test_one_that_is_killed_costs_callers_with_retries_nothing(three: Stack) -> None:
    killed = three.containers("compositing")[0]
    with load(advised_caller, three) as calls:
        calls.wait_for(CALLS)
        kill(killed)
        calls.wait_for(CALLS)
        three.wait_healthy()
        calls.wait_for(CALLS)
    assert calls.lost == []
