"""An inference service that is down, hangs or dies in the middle: an honest status in time, and recovery without a restart."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from .avatars import slow_network, write_avatar
from .conftest import CALL_S, CHANNEL_OPTIONS
from .processes import Service, free_port, running, until

Code = grpc.StatusCode
DEADLINE_S = 1.5
SLACK_S = 25  # of cores that other work shares; it leaves CALL_S far away


class Pair:
    """A compositing service, and an inference service on one port that comes and goes."""

    def __init__(self, models_root: Path, logs: Path, stack: ExitStack) -> None:
        self._root, self._logs, self._stack = models_root, logs, stack
        self._starts = 0
        self.port = free_port()
        self.compositing = stack.enter_context(
            running(
                "compositing",
                f"models_root={models_root}",
                f"inference_server.url=127.0.0.1:{self.port}",
                "inference_server.timeout_seconds=8",
                log=logs / "compositing",
            )
        )
        channel = stack.enter_context(grpc.insecure_channel(self.compositing.address, CHANNEL_OPTIONS))
        self.pictures = CompositingServiceStub(channel)

    def start_inference(self) -> Service:
        self._starts += 1
        log = self._logs / f"inference{self._starts}"
        options = f"server.port=127.0.0.1:{self.port}", f"models_root={self._root}"
        return self._stack.enter_context(running("inference", *options, log=log))

    def ask(self, model_id: str = "quick", *, batch_size: int = 2, timeout: float = CALL_S) -> list[bytes]:
        sound = bytes(4 * 640 * batch_size)
        request = pb.CompositeBatchRequest(model_id=model_id, batch_size=batch_size, raw_audio=sound)
        return list(self.pictures.InferBatchComposite(request, timeout=timeout).composited_frames)

    def refusal(self, **options: float) -> tuple[grpc.RpcError, float]:
        """Makes a call that cannot succeed; returns its error, and after how many seconds it came."""
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(**options)
        return caught.value, time.monotonic() - started

    def recovers(self) -> None:
        """Serves again, without a restart of the compositing service."""
        until(self._serves_again)
        assert self.compositing.process.poll() is None

    def _serves_again(self) -> bool:
        code, frames = Code.OK, 0
        try:
            frames = len(self.ask(timeout=10))
        except grpc.RpcError as error:
            code = error.code()
        assert (code, frames) == (Code.OK, 2) or code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
        return code is Code.OK

    def says_inference_is_healthy(self) -> bool:
        health = self.pictures.Health(pb.HealthRequest(), timeout=CALL_S)
        assert health.healthy
        return bool(health.inference_server_healthy)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    root = tmp_path / "models"
    root.mkdir()
    write_avatar(root, "quick")
    write_avatar(root, "slow", network=slow_network(layers=4))
    with ExitStack() as stack:
        yield Pair(root, tmp_path, stack)


def assert_helpful(error: grpc.RpcError) -> None:
    assert error.details()
    assert "127.0.0.1" not in error.details()
    assert "inference" in error.details().lower()


def test_down_at_the_start(pair: Pair) -> None:
    error, seconds = pair.refusal(timeout=DEADLINE_S)
    assert error.code() in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
    assert seconds < DEADLINE_S + SLACK_S
    patient, seconds = pair.refusal(timeout=CALL_S)
    assert patient.code() is Code.UNAVAILABLE
    assert seconds < 8 + SLACK_S
    assert_helpful(patient)
    assert not pair.says_inference_is_healthy()
    pair.start_inference()
    pair.recovers()
    until(pair.says_inference_is_healthy)


def test_hangs(pair: Pair) -> None:
    inference = pair.start_inference()
    pair.recovers()
    wanted = pair.ask()
    inference.signal(signal.SIGSTOP)
    try:
        error, seconds = pair.refusal(timeout=DEADLINE_S)
        assert error.code() in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
        assert seconds < DEADLINE_S + SLACK_S
        until(lambda: not pair.says_inference_is_healthy())
    finally:
        inference.signal(signal.SIGCONT)
    pair.recovers()
    assert pair.ask() == wanted


@pytest.mark.slow
def test_hangs_and_the_caller_has_time(pair: Pair) -> None:
    """The service's own limit, 8 s here, ends the call in words of ours."""
    inference = pair.start_inference()
    pair.recovers()
    inference.signal(signal.SIGSTOP)
    try:
        error, seconds = pair.refusal(timeout=CALL_S)
    finally:
        inference.signal(signal.SIGCONT)
    assert error.code() in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
    assert 6 < seconds < 8 + SLACK_S
    assert_helpful(error)
    pair.recovers()


def killed_in_mid_batch(pair: Pair, inference: Service, outcome: dict[str, object]) -> threading.Thread:
    """A long batch, and the death of the inference service once it has made some of its frames."""

    def ask() -> None:
        try:
            outcome["frames"] = pair.ask("slow", batch_size=40, timeout=CALL_S)
        except grpc.RpcError as error:
            outcome["error"] = error

    pair.recovers()
    assert len(pair.ask("slow", batch_size=1)) == 1
    before = inference.metric("lipsync_inference_frames_total")
    assert before > 0
    caller = threading.Thread(target=ask)
    caller.start()
    until(lambda: inference.metric("lipsync_inference_frames_total") > before)
    assert not outcome
    os.kill(inference.process.pid, signal.SIGKILL)
    return caller


def test_dies_in_mid_batch(pair: Pair) -> None:
    outcome: dict[str, object] = {}
    caller = killed_in_mid_batch(pair, pair.start_inference(), outcome)
    caller.join(CALL_S)
    error = outcome["error"]
    assert isinstance(error, grpc.RpcError)
    assert error.code() is Code.UNAVAILABLE
    assert_helpful(error)
    pair.start_inference()
    pair.recovers()
