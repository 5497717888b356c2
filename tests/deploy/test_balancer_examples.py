"""The documented alternatives to HAProxy: accepted by the programs themselves, and running before real services."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from lipsync_client import Client
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from tests.end_to_end.avatars import write_avatar
from tests.end_to_end.processes import until

from .balancers import Balancer, balancing, compositors

CALLS_BY_EACH = 40
CALLERS = 4
FRAMES = 3


@pytest.fixture(params=["nginx", "envoy"])
def balancer(request: pytest.FixtureRequest) -> Balancer:
    return Balancer(request.param)


def test_the_program_accepts_its_example(balancer: Balancer, repository: Path, tmp_path: Path) -> None:
    config = balancer.configure(repository, tmp_path, {"compositing": ["127.0.0.1:1", "127.0.0.1:2"]}, {"compositing": 1})
    done = subprocess.run(balancer.command(config, check=True), capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("balanced")
    write_avatar(root, "small")
    return root


@contextmanager
def asking_once(address: str) -> Iterator[Callable[[], Sequence[bytes]]]:
    """Asks for frames over one connection, without any retry."""
    request = pb.CompositeBatchRequest(model_id="small", batch_size=FRAMES, raw_audio=bytes(4 * 640 * FRAMES))
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
    with grpc.insecure_channel(address, options) as channel:
        call = CompositingServiceStub(channel).InferBatchComposite
        yield lambda: list(call(request, timeout=20, wait_for_ready=True).composited_frames)


@contextmanager
def asking_again(address: str) -> Iterator[Callable[[], Sequence[bytes]]]:
    """Asks for frames by the client, which sends again what a server that stops has refused."""
    with Client(address) as client:
        yield lambda: client.composite("small", np.zeros(640 * FRAMES, np.float32), batch_size=FRAMES, timeout=20).frames


@pytest.mark.slow
def test_replicas_share_the_calls_and_one_that_stops_loses_none(
    balancer: Balancer, repository: Path, models_root: Path, tmp_path: Path
) -> None:
    """Does so for callers that ask once; with nginx, which asks nobody about health, for those that send calls again."""
    asking = asking_again if balancer.name == "nginx" else asking_once
    with compositors(models_root, tmp_path, 2) as services, balancing(balancer, repository, tmp_path, services) as address:
        with asking_once(services[0].address) as ask:
            wanted = ask()
        with asking_once(address) as ask:
            assert ask() == wanted
        failures: list[BaseException] = []
        done = threading.Semaphore(0)
        stopped = threading.Event()

        def call_on() -> None:
            with asking(address) as ask:
                while not stopped.is_set():
                    try:
                        assert ask() == wanted
                    except BaseException as error:
                        failures.append(error)
                        return
                    finally:
                        done.release()

        callers = [threading.Thread(target=call_on) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        try:
            until(
                lambda: (
                    all(service.metric("lipsync_compositing_frames_total") >= FRAMES * CALLS_BY_EACH for service in services)
                    or failures
                )
            )
            services[0].signal(signal.SIGTERM)
            assert services[0].process.wait(30) == 0
            for _ in range(CALLS_BY_EACH):
                done.acquire()
        finally:
            stopped.set()
            for caller in callers:
                caller.join()
        assert not failures, (failures[0], (tmp_path / "log").read_text(errors="replace")[-2000:])
