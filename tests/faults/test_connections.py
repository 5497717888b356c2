"""Connections that are no good, and too many of them: each ends by itself, and an innocent caller does not notice."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import grpc
import grpc.aio
import pytest

from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from ..end_to_end.callers import SteadyCaller
from ..end_to_end.conftest import CALL_S
from ..end_to_end.processes import Service, assert_no_trace, resident_mb, running, until
from ..programs import program
from .conftest import IDLE, NOWHERE
from .http2 import HEADERS, PING, PREFACE, RawCaller, call_headers, frame, message

BATCH = "/compositing.CompositingService/InferBatchComposite"
HEALTH = "/compositing.CompositingService/Health"


@pytest.fixture(scope="module")
def service(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A compositing service whose idle frames need no other service."""
    limits = ["server.receive_seconds=2", "server.max_request_size_mb=8"]
    log = tmp_path_factory.mktemp("alone") / "log"
    with running("compositing", f"models_root={models_root}", NOWHERE, *limits, log=log) as one:
        yield one
        assert_no_trace(one)


@pytest.fixture
def steady(service: Service) -> Iterator[SteadyCaller]:
    with SteadyCaller(service.address, IDLE) as caller:
        caller.wait_for_a_call()
        yield caller
        caller.wait_for_a_call()


def place(service: Service) -> tuple[str, int]:
    host, port = service.address.rsplit(":", 1)
    return host, int(port)


def descriptors(service: Service) -> int:
    return len(os.listdir(f"/proc/{service.process.pid}/fd"))


def processor_seconds(service: Service) -> float:
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        random.Random(1).randbytes(2000),
        PREFACE[:10],
        b"",
        PREFACE + random.Random(2).randbytes(2000),
    ],
    ids=["HTTP/1", "random bytes", "half a preface", "nothing", "random frames"],
)
def test_what_is_no_grpc_ends_its_own_connection_alone(service: Service, steady: SteadyCaller, words: bytes) -> None:
    before = service.log.read_bytes().count(b"\n")
    with socket.create_connection(place(service), timeout=CALL_S) as connection, suppress(ConnectionError):
        connection.sendall(words)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    steady.wait_for_a_call()
    assert service.log.read_bytes().count(b"\n") - before <= 1


def test_a_greeting_of_tls_ends_its_own_connection_alone(service: Service, steady: SteadyCaller) -> None:
    context = ssl.create_default_context()
    with socket.create_connection(place(service), timeout=CALL_S) as connection, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(connection, server_hostname="localhost")
    steady.wait_for_a_call()


def test_connections_that_say_nothing_cost_no_processor_time(service: Service) -> None:
    with OpenConnections(service, 100):
        before = processor_seconds(service)
        time.sleep(0.5)
        assert processor_seconds(service) - before < 0.4, "a loop that spins takes all of it"


class OpenConnections:
    """So many open connections, for the length of a block."""

    def __init__(self, service: Service, count: int) -> None:
        self._connections = [socket.create_connection(place(service), timeout=CALL_S) for _ in range(count)]

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()


async def test_a_slow_sender_ends_at_its_deadline_and_keeps_no_place(service: Service, steady: SteadyCaller) -> None:
    """10 kB/s: the request would take minutes."""
    async with RawCaller(service.address) as caller:
        await caller.open(1, BATCH, [(b"grpc-timeout", b"1S")])
        sent = asyncio.create_task(drip(caller))
        await asyncio.to_thread(steady.wait_for_a_call)
        assert await caller.wait_for_the_end(1, within_s=CALL_S)
        sent.cancel()
    async with RawCaller(service.address) as caller:  # without a deadline the service has its own
        await caller.open(1, BATCH)
        sent = asyncio.create_task(drip(caller))
        await asyncio.sleep(0.2)
        assert service.metric("lipsync_running_calls") <= 1, "what has not come yet takes no place"
        assert await caller.wait_for_the_end(1, within_s=CALL_S)
        sent.cancel()


async def drip(caller: RawCaller) -> None:
    data = message(bytes(4 << 20))
    for begin in range(0, len(data), 1000):
        await caller.send(1, data[begin : begin + 1000])
        await asyncio.sleep(0.1)


async def test_a_client_that_pings_too_often_is_disconnected_and_ours_is_not(service: Service, steady: SteadyCaller) -> None:
    async with RawCaller(service.address) as caller:
        for number in range(200):
            await caller.write(frame(PING, 0, 0, number.to_bytes(8)))
            if caller.left:
                break
            await asyncio.sleep(0.01)
        assert await caller.wait_for_the_end(1, within_s=CALL_S)
        assert caller.left
    steady.wait_for_a_call()


async def test_three_hundred_connections_with_a_call_each(service: Service) -> None:
    before = resident_mb(service)
    async with AsyncExitStack() as stack:
        options = (("grpc.use_local_subchannel_pool", 1),)
        stubs = [
            CompositingServiceStub(await stack.enter_async_context(grpc.aio.insecure_channel(service.address, options)))
            for _ in range(300)
        ]
        answers = await asyncio.gather(*(stub.InferBatchComposite(IDLE, timeout=CALL_S) for stub in stubs))
        assert {len(answer.composited_frames) for answer in answers} == {IDLE.batch_size}
        assert descriptors(service) > 300
        grown = resident_mb(service) - before
        assert grown < 60, "20 kB a connection, and what 300 calls at once take"
    until(lambda: descriptors(service) < 100)


async def test_two_thousand_connections_that_come_and_go(service: Service) -> None:
    options = (("grpc.use_local_subchannel_pool", 1),)

    async def visit() -> None:
        async with grpc.aio.insecure_channel(service.address, options) as channel:
            await CompositingServiceStub(channel).Health(pb.HealthRequest(), timeout=CALL_S)

    await asyncio.gather(*(visit() for _ in range(50)))
    until(lambda: descriptors(service) < 100)
    before, memory = descriptors(service), resident_mb(service)
    for _ in range(40):
        await asyncio.gather(*(visit() for _ in range(50)))
    until(lambda: descriptors(service) <= before + 2)
    assert resident_mb(service) - memory < 20


async def test_metadata_beyond_what_is_allowed_is_refused(service: Service, steady: SteadyCaller) -> None:
    async with grpc.aio.insecure_channel(service.address) as channel:
        call = CompositingServiceStub(channel).Health(pb.HealthRequest(), metadata=(("x-a", "y" * 20_000),), timeout=CALL_S)
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_without_descriptors_new_connections_wait_and_later_ones_are_served(models_root: Path, tmp_path: Path) -> None:
    limited = [program("prlimit", "util-linux"), "--nofile=64:64"]
    with running("compositing", f"models_root={models_root}", NOWHERE, log=tmp_path / "log", before=limited) as service:
        with SteadyCaller(service.address, IDLE) as steady:
            steady.wait_for_a_call()
            with OpenConnections(service, 80):
                steady.wait_for_a_call()
                before = processor_seconds(service)
                time.sleep(0.5)
                assert processor_seconds(service) - before < 0.45
                steady.wait_for_a_call()
            until(lambda: descriptors(service) < 50)
        with SteadyCaller(service.address, IDLE) as later:
            later.wait_for_a_call()


async def test_a_method_whose_name_is_no_text_is_unknown_and_ends_nothing(service: Service, steady: SteadyCaller) -> None:
    """gRPC's own loop ends with the first one."""
    async with RawCaller(service.address) as caller:
        for stream in range(1, 21, 2):
            await caller.write(frame(HEADERS, 5, stream, call_headers("/x").replace(b"/x", b"/\xd8")))
            assert await caller.wait_for_the_end(stream, within_s=CALL_S)
    async with grpc.aio.insecure_channel(service.address) as channel:
        assert await channel.unary_unary("/compositing.CompositingService/Nothing")(b"").code() is grpc.StatusCode.UNIMPLEMENTED
