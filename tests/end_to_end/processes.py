"""Services as processes of their own, each ended by its id."""

from __future__ import annotations

import os
import random
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..secret_shapes import secrets_in

START_S = 90
END_S = 60
UNTIL_S = 60
TREE = Path(__file__).resolve().parents[2]
# Tests of adapters run in an environment without the services.
PYTHON = os.environ.get("SERVICES_PYTHON", sys.executable)


@dataclass
class Service:
    """A running service."""

    name: str
    process: subprocess.Popen[bytes]
    address: str
    metrics_address: str
    log: Path

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def get(self, path: str) -> str:
        """Answer of its HTTP endpoint."""
        with urllib.request.urlopen(f"http://{self.metrics_address}{path}", timeout=60) as answer:
            return answer.read().decode()

    def metric(self, name: str) -> float:
        """The sum over all labels."""
        lines = [line for line in self.get("/metrics").splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@contextmanager
def running(name: str, *overrides: str, log: Path, before: Sequence[str] = ()) -> Iterator[Service]:
    """`lipsync serve NAME`, with a command in front, until the block is left; one that a test has already ended is fine."""
    with _running(name, [name], "server.port=127.0.0.1:0", *overrides, log=log, before=before) as (service,):
        yield service


@contextmanager
def running_all(*overrides: str, log: Path, config: Path | None = None) -> Iterator[list[Service]]:
    """`lipsync serve all` as its compositing, its inference and its monolithic service, which are one process."""
    names = ["compositing", "inference", "monolithic"]
    ports = [f"server.{port}=127.0.0.1:0" for port in ("port", "compositing_port", "inference_port")]
    with _running("all", names, *ports, "gateway.enabled=false", *overrides, log=log, config=config) as services:
        yield services


@contextmanager
def running_with_gateway(*overrides: str, log: Path, earlier: int = 0) -> Iterator[list[Service]]:
    """`lipsync serve all` as its gateway, its compositing service, and so many further ports for earlier clients."""
    ports = [f"server.{port}=127.0.0.1:0" for port in ("port", "compositing_port", "inference_port")]
    ports += ["gateway.port=127.0.0.1:0", "gateway.metrics.port=127.0.0.1:0"]
    ports += [f"gateway.earlier.ports={['127.0.0.1:0'] * earlier}"]
    names = ["gateway", "compositing", *(f"gateway-earlier-{number + 1}" for number in range(earlier)), "inference", "monolithic"]
    with _running("all", names, *ports, *overrides, log=log) as services:
        yield services[:-2]


@contextmanager
def _running(
    name: str, ports: Sequence[str], *overrides: str, log: Path, before: Sequence[str] = (), config: Path | None = None
) -> Iterator[list[Service]]:
    first = ["metrics.port=127.0.0.1:0"]
    if name in {"inference", "all"}:  # a busy machine must not refuse the sessions of tests that are about something else
        first.append("limits.admit_sessions=all")
    options = [part for override in (*first, *overrides) for part in ("--set", override)]
    if config:
        options += ["--config", str(config)]
    command = [*before, PYTHON, "-m", "lipsync_cli", "serve", name, "--until-stdin-closes", *options]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, cwd=TREE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        )
    try:
        lines = {words[1]: words for line in _first_lines(process, log, len(ports)) if (words := line.split())}
        assert set(lines) == set(ports)
        assert {(words[0], words[3]) for words in lines.values()} == {("ready", "metrics")}
        yield [Service(port, process, lines[port][2], lines[port][4], log) for port in ports]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe
            pipe.close()
    assert not (found := secrets_in(log.read_text(errors="replace"))), f"{log} holds {found}"


def until(true: Callable[[], bool], *, within_s: float = UNTIL_S) -> None:
    """Looks again and again: what is watched is another process, so there is no event to wait for."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def resident_mb(service: Service | None = None) -> float:
    """The resident memory in MiB, of a service or of this process."""
    pid = service.process.pid if service else os.getpid()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def threads_of(service: Service) -> int:
    """The number of its threads."""
    return len(list(Path(f"/proc/{service.process.pid}/task").iterdir()))


def assert_no_trace(service: Service, *, of: str = "") -> None:
    """No call failed by a mistake of ours: of those whose lines have the words `of`, as a session's id.

    gRPC logs a trace itself when a client goes while its answer is sent.
    """
    records = re.split(r"^(?=\d{4}-\d\d-\d\dT)", service.log.read_text(errors="replace"), flags=re.MULTILINE)
    for record in records:
        if of in record and "ExecuteBatchError raised in core" not in record.partition("\n")[0]:
            assert "Traceback" not in record
            assert "never retrieved" not in record


def free_port() -> int:
    """One that nobody listens on now, and that the system gives to nobody who asks for any: it is free when it is used."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [port for port in range(10_000, 1 << 16) if not first <= port <= last]
    while True:
        port = random.SystemRandom().choice(ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _first_lines(process: subprocess.Popen[bytes], log: Path, count: int) -> list[str]:
    assert process.stdout
    output, deadline = b"", time.monotonic() + START_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while output.count(b"\n") < count:
            there = selector.select(max(0.0, deadline - time.monotonic()))
            received = os.read(process.stdout.fileno(), 4096) if there else b""
            assert received, f"did not start: {log.read_text(errors='replace')[-2000:]}"
            output += received
    return output.decode().splitlines()[:count]
