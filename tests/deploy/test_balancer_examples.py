"""The documented alternatives to HAProxy: accepted by the programs themselves, and running before real services."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from tests.end_to_end.avatars import write_avatar
from tests.end_to_end.processes import Service, free_port, running, until

from .conftest import program

CALLS_BY_EACH = 40
CALLERS = 4


@dataclass(frozen=True)
class Balancer:
    """A balancer under test: how it is told of servers, checked and started."""

    name: str

    def configure(self, repository: Path, folder: Path, servers: list[str], port: int) -> Path:
        """Its example, with other addresses."""
        example = repository / "deploy/balancers" / {"nginx": "nginx.conf", "envoy": "envoy.yaml"}[self.name]
        target, text = folder / example.name, example.read_text()
        if self.name == "nginx":
            lines = "\n".join(f"server {server} max_fails=1 fail_timeout=1s;" for server in servers)
            text, count = re.subn(r"server compositing:50052[^;]*;", lines, text)
            assert count == 1
            text = text.replace("listen 50052", f"listen 127.0.0.1:{port}").replace("/tmp/", f"{folder}/")
        else:
            endpoint = "              - endpoint: {{address: {{socket_address: {{address: {0}, port_value: {1}}}}}}}"
            lines = "\n".join(endpoint.format(*server.rsplit(":", 1)) for server in servers)
            text = text.replace(endpoint.format("compositing", 50052), lines)
            text = text.replace("0.0.0.0, port_value: 50052", f"127.0.0.1, port_value: {port}")
            text = re.sub(r"(?:0\.0\.0\.0|127\.0\.0\.1), port_value: (50051|9901)", "127.0.0.1, port_value: 0", text)
        assert all(server.rsplit(":", 1)[1] in text for server in servers)
        target.write_text(text)
        return target

    def command(self, config: Path, *, check: bool) -> list[str]:
        if self.name == "nginx":
            nginx = program("nginx", "nginx-light")
            return [nginx, "-c", str(config), *(["-t"] if check else ["-g", "daemon off;"])]
        envoy = Path(sys.executable).with_name("envoy")
        return [str(envoy), "-c", str(config), *(["--mode", "validate"] if check else ["--use-dynamic-base-id", "-l", "warn"])]


@pytest.fixture(params=["nginx", "envoy"])
def balancer(request: pytest.FixtureRequest) -> Balancer:
    return Balancer(request.param)


def test_the_program_accepts_its_example(balancer: Balancer, repository: Path, tmp_path: Path) -> None:
    config = balancer.configure(repository, tmp_path, ["127.0.0.1:1", "127.0.0.1:2"], 1)
    done = subprocess.run(balancer.command(config, check=True), capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("balanced")
    write_avatar(root, "small")
    return root


@contextmanager
def compositors(models_root: Path, logs: Path, count: int) -> Iterator[list[Service]]:
    """One inference service, and so many before it."""
    with ExitStack() as stack:
        root = f"models_root={models_root}"
        inference = stack.enter_context(running("inference", root, log=logs / "inference"))
        upstream = f"inference_server.url={inference.address}"
        names = [f"compositing-{place}" for place in range(count)]
        yield [
            stack.enter_context(running("compositing", root, upstream, "server.drain_seconds=3", log=logs / name))
            for name in names
        ]


@contextmanager
def balancing(balancer: Balancer, repository: Path, folder: Path, servers: list[Service]) -> Iterator[str]:
    """The balancer before these services; its address."""
    port = free_port()
    config = balancer.configure(repository, folder, [server.address for server in servers], port)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(balancer.command(config, check=False), cwd=folder, stdout=log, stderr=log)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def ask(address: str, **fields: object) -> list[bytes]:
    """Frames, without any retry."""
    request = pb.CompositeBatchRequest(model_id="small", batch_size=3, raw_audio=bytes(4 * 640 * 3), **fields)
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
    with grpc.insecure_channel(address, options) as channel:
        return list(
            CompositingServiceStub(channel).InferBatchComposite(request, timeout=20, wait_for_ready=True).composited_frames
        )


@pytest.mark.slow
def test_replicas_share_the_calls_and_one_that_stops_loses_none(
    balancer: Balancer, repository: Path, models_root: Path, tmp_path: Path
) -> None:
    with compositors(models_root, tmp_path, 2) as services, balancing(balancer, repository, tmp_path, services) as address:
        wanted = ask(services[0].address)
        assert ask(address) == wanted
        failures: list[BaseException] = []
        done = threading.Semaphore(0)
        stopped = threading.Event()

        def call_on() -> None:
            request = pb.CompositeBatchRequest(model_id="small", batch_size=3, raw_audio=bytes(4 * 640 * 3))
            with grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))) as channel:
                call = CompositingServiceStub(channel).InferBatchComposite
                while not stopped.is_set():
                    try:
                        assert list(call(request, timeout=20).composited_frames) == wanted
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
                    all(service.metric("lipsync_compositing_frames_total") >= 3 * CALLS_BY_EACH for service in services)
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
