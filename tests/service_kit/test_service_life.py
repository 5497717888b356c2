"""A service from startup to stop, in this process, over real sockets."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service_kit.addresses import BindAddress
from service_kit.grpc_face import GrpcHost, GrpcService, grpc_service, server_options
from service_kit.life import RunningService
from service_kit.listening import METRICS_PORT_OFFSET, StartError
from service_kit.sections import GrpcServerSection, GrpcSettings, MetricsSection
from shared_proto import inference_pb2, inference_pb2_grpc

from ..virtual_clock import VirtualClock

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAME = "inference.InferenceService"


class Echo(inference_pb2_grpc.InferenceServiceServicer):
    """UnloadModel says the name back; the name "wait" waits for `go_on` first, and "drain" for the drain."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()  # of its host, once that has opened it
        self.began, self.go_on, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def UnloadModel(self, request: inference_pb2.UnloadModelRequest, context: Any) -> inference_pb2.UnloadModelResponse:
        if request.model_id == "drain":
            self.began.set()
            await self.draining.wait()
        if request.model_id == "wait":
            self.began.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                self.cancelled.set()
                raise
        return inference_pb2.UnloadModelResponse(success=True, error=request.model_id)


class Parts:
    """A service whose parts a test holds in its hands."""

    def __init__(self) -> None:
        self.servicer = Echo()
        self.warming, self.warm = asyncio.Event(), asyncio.Event()
        self.warm.set()
        self.events: list[str] = []
        self.on_warm_up: Callable[[], None] = lambda: None
        self.on_close: Callable[[], None] = lambda: None
        self.host: GrpcHost | None = None

    @asynccontextmanager
    async def open(self, host: GrpcHost) -> AsyncIterator[Callable[[], Any]]:
        self.host = host
        self.servicer.draining = host.draining
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self.servicer, host.server)
        self.events.append("open")
        try:
            yield self._warm_up
        finally:
            self.events.append("close")
            self.on_close()

    async def _warm_up(self) -> None:
        self.events.append("warm up")
        self.warming.set()
        await self.warm.wait()
        self.on_warm_up()

    def service(self, settings: GrpcSettings) -> GrpcService:
        return grpc_service("test", (NAME,), settings, self.open)


@pytest.fixture
def parts() -> Parts:
    return Parts()


def settings(**server: Any) -> GrpcSettings:
    return GrpcSettings(
        server=GrpcServerSection(port=BindAddress("127.0.0.1", 0), **{"drain_seconds": 0, **server}),
        metrics=MetricsSection(port=BindAddress("127.0.0.1", 0)),
    )


@asynccontextmanager
async def client(server: RunningService[Any], **options: Any) -> AsyncIterator[grpc.aio.Channel]:
    given = [(f"grpc.{key}", value) for key, value in options.items()]
    async with grpc.aio.insecure_channel(server.address.reachable, options=given) as channel:
        yield channel


async def unload(channel: grpc.aio.Channel, model_id: str, timeout: float = 30) -> str:
    stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
    reply = await stub.UnloadModel(inference_pb2.UnloadModelRequest(model_id=model_id), timeout=timeout)
    return str(reply.error)


async def health(channel: grpc.aio.Channel, name: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
    return int(reply.status)


async def told(channel: grpc.aio.Channel, name: str, status: int) -> None:
    """Watches until health says so."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=30)
    while (await watch.read()).status != status:
        pass
    watch.cancel()


def get(server: RunningService[Any], path: str) -> tuple[int, str]:
    assert server.metrics_address is not None
    connection = http.client.HTTPConnection(server.metrics_address.host, server.metrics_address.port, timeout=30)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


async def test_live_from_the_start_ready_after_the_warm_up_and_serving_meanwhile(parts: Parts) -> None:
    parts.warm.clear()
    server = RunningService(parts.service(settings()))
    starting = asyncio.create_task(server.startup())
    await parts.warming.wait()
    async with client(server) as channel:
        assert await asyncio.to_thread(get, server, "/health/live") == (200, "ok\n")
        assert await asyncio.to_thread(get, server, "/health/ready") == (503, "the service is starting\n")
        assert [await health(channel), await health(channel, NAME)] == [NOT_SERVING, NOT_SERVING]
        assert await unload(channel, "early") == "early"
        parts.warm.set()
        await starting
        assert await asyncio.to_thread(get, server, "/health/ready") == (200, "ok\n")
        await told(channel, "", SERVING)
        await told(channel, NAME, SERVING)
    await server.drain()
    await server.stop()
    assert parts.events == ["open", "warm up", "close"]


async def test_health_follows_what_the_service_says_later(parts: Parts) -> None:
    async with RunningService(parts.service(settings())) as server, client(server) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=NAME), timeout=30)
        states = [(await watch.read()).status]
        if states == [NOT_SERVING]:
            states = [(await watch.read()).status]
        server.readiness.block("inference", "the inference service cannot be reached")
        states.append((await watch.read()).status)
        assert await asyncio.to_thread(get, server, "/health/ready") == (503, "the inference service cannot be reached\n")
        server.readiness.clear("inference")
        states.append((await watch.read()).status)
        assert states == [SERVING, NOT_SERVING, SERVING]
        watch.cancel()


async def test_an_unknown_service_is_not_found(parts: Parts) -> None:
    async with RunningService(parts.service(settings())) as server, client(server) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health(channel, "other.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_and_describes_the_services(parts: Parts) -> None:
    async with RunningService(parts.service(settings())) as server, client(server) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAME),
        ]
        listed, described = [reply async for reply in stub.ServerReflectionInfo(iter(asked), timeout=30)]
        names = {service.name for service in listed.list_services_response.service}
        assert names == {NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        assert b"InferBatch" in described.file_descriptor_response.file_descriptor_proto[0]


@asynccontextmanager
async def started(parts: Parts, **server_settings: Any) -> AsyncIterator[tuple[RunningService[Any], grpc.aio.Channel]]:
    """For tests that stop the server themselves."""
    server = RunningService(parts.service(settings(**server_settings)))
    await server.startup()
    async with client(server) as channel:
        yield server, channel


async def refusal(channel: grpc.aio.Channel) -> grpc.StatusCode:
    """The status of the first call that is not served any more."""
    try:
        while True:
            await unload(channel, "late")
    except grpc.aio.AioRpcError as error:
        return error.code()


async def test_stop_lets_running_calls_finish_and_closes_resources_after_them(parts: Parts) -> None:
    async with started(parts) as (server, channel):
        call = asyncio.create_task(unload(channel, "wait"))
        await parts.servicer.began.wait()
        await server.drain()
        stopping = asyncio.create_task(server.stop())
        # gRPC cancels what arrives before the client has read that the server goes: whoever does not watch health must know.
        assert await refusal(channel) in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert parts.events[-1] == "warm up"
        parts.servicer.go_on.set()
        assert await call == "wait"
        await stopping
        assert parts.events[-1] == "close"


async def test_a_handler_learns_that_the_service_drains_before_the_drain_is_over(parts: Parts) -> None:
    clock = VirtualClock()
    server = RunningService(parts.service(settings(drain_seconds=600)), clock=clock)
    await server.startup()
    async with client(server) as channel:
        call = asyncio.create_task(unload(channel, "drain"))
        await parts.servicer.began.wait()
        assert not parts.servicer.draining.is_set()
        draining = asyncio.create_task(server.drain())
        assert await call == "drain"
        await clock.asleep()
        assert not draining.done()
        await clock.advance(600)
        await draining
        await server.stop()


async def test_a_service_that_reports_itself_stuck_is_not_alive_over_http(parts: Parts) -> None:
    async with RunningService(parts.service(settings())) as server:
        assert parts.host is not None
        assert await asyncio.to_thread(get, server, "/health/live") == (200, "ok\n")
        parts.host.liveness.fail("a run of the network does not end")
        assert await asyncio.to_thread(get, server, "/health/live") == (503, "a run of the network does not end\n")


WATCHING_HEALTH = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [{}],
            "waitForReady": True,
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}


async def test_callers_that_watch_health_lose_nothing_when_one_of_two_servers_goes() -> None:
    parts = [Parts(), Parts()]
    async with started(parts[0]) as (going, _), RunningService(parts[1].service(settings())) as staying:
        target = f"ipv4:{going.address.reachable},{staying.address.reachable}"
        options = [("grpc.service_config", json.dumps(WATCHING_HEALTH))]
        async with grpc.aio.insecure_channel(target, options=options) as channel, asyncio.TaskGroup() as callers:
            enough = asyncio.Event()

            async def call_on() -> None:
                while not enough.is_set():
                    await unload(channel, "x")

            for _ in range(8):
                callers.create_task(call_on())
            await served(going, 100)
            await served(staying, 100)
            await going.drain()
            await quiet(going, staying)
            await going.stop()
            await served(staying, 100)
            enough.set()


def count(server: RunningService[Any]) -> float:
    labels = {"grpc_type": "unary", "grpc_service": NAME, "grpc_method": "UnloadModel"}
    return server.metrics.registry.get_sample_value("grpc_server_started_total", labels) or 0


async def served(server: RunningService[Any], calls: int) -> None:
    """Waits until the server has begun so many more calls."""
    goal = count(server) + calls
    while count(server) < goal:  # noqa: ASYNC110 - nothing tells when a metric changes
        await asyncio.sleep(0.001)


async def quiet(server: RunningService[Any], other: RunningService[Any]) -> None:
    """Waits until `server` gets none while `other` gets a hundred calls."""
    before = -1.0
    while before != (before := count(server)):
        await served(other, 100)


async def test_calls_that_take_longer_than_the_grace_are_cut_off_before_resources_close(parts: Parts) -> None:
    parts.on_close = lambda: parts.events.append(f"handler ended: {parts.servicer.cancelled.is_set()}")
    async with started(parts, grace_seconds=0.05) as (server, channel):
        call = asyncio.create_task(unload(channel, "wait"))
        await parts.servicer.began.wait()
        await server.drain()
        await server.stop()
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await call
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE
        assert parts.events[-2:] == ["close", "handler ended: True"]


async def test_metrics_say_how_many_calls_run_and_may_run(parts: Parts) -> None:
    async with started(parts, max_running_calls=7) as (server, channel):
        running = partial(server.metrics.registry.get_sample_value, "lipsync_running_calls")
        assert running() == 0
        calls = [asyncio.create_task(unload(channel, "wait")) for _ in range(3)]
        await parts.servicer.began.wait()
        while running() != 3:  # noqa: ASYNC110 - nothing tells when a metric changes
            await asyncio.sleep(0.001)
        assert server.metrics.registry.get_sample_value("lipsync_max_running_calls") == 7
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        while running():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_open_watches_and_reflection_streams_do_not_hold_up_the_stop(parts: Parts) -> None:
    async with started(parts, grace_seconds=3600) as (server, channel):
        health_stub: Any = health_pb2_grpc.HealthStub(channel)
        reflection_stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        watch = health_stub.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        reflection = reflection_stub.ServerReflectionInfo()
        await reflection.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await reflection.read()
        await server.drain()
        while (await watch.read()).status != NOT_SERVING:
            pass
        async with asyncio.timeout(60):
            await server.stop()
        assert await watch.code() is grpc.StatusCode.UNAVAILABLE
        assert await reflection.code() is grpc.StatusCode.UNAVAILABLE


async def test_calls_are_served_while_draining_and_a_second_request_ends_it_at_once(parts: Parts) -> None:
    async with started(parts, drain_seconds=600, grace_seconds=3600) as (server, channel):
        server.stop_request.ask()
        draining = asyncio.create_task(server.drain())
        await told(channel, "", NOT_SERVING)
        assert await asyncio.to_thread(get, server, "/health/ready") == (503, "the service is shutting down\n")
        call = asyncio.create_task(unload(channel, "wait"))
        await parts.servicer.began.wait()
        assert not draining.done()
        server.stop_request.ask()
        async with asyncio.timeout(60):
            await draining
            await server.stop()
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await call
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_warm_up_that_fails_ends_the_start_and_leaves_nothing_open(parts: Parts) -> None:
    def fail() -> None:
        raise FileNotFoundError("no models")

    parts.on_warm_up = fail
    server = RunningService(parts.service(settings()))
    with pytest.raises(FileNotFoundError):
        await server.startup()
    assert parts.events == ["open", "warm up", "close"]
    for address in (server.address, server.metrics_address):
        assert address is not None
        with socket.socket() as probe:
            assert probe.connect_ex((address.host, address.port)) == errno.ECONNREFUSED


async def test_an_error_while_closing_is_not_swallowed(parts: Parts) -> None:
    def fail() -> None:
        raise OSError("disk full")

    parts.on_close = fail
    async with started(parts) as (server, _):
        with pytest.raises(OSError, match="disk full"):
            await server.stop()


@pytest.mark.parametrize("key", ["server", "metrics"])
@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("127.0.0.1", "in use by another program"),
        ("192.0.2.1", "no address of this machine"),
        ("no.such.host.invalid", "not known here"),
    ],
    ids=["taken", "foreign", "unknown"],
)
async def test_a_port_that_cannot_be_had_is_one_clear_sentence(parts: Parts, key: str, host: str, says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = BindAddress(host, taken.getsockname()[1])
        own = settings()
        section = getattr(own, key).model_copy(update={"port": wanted})
        server = RunningService(parts.service(own.model_copy(update={key: section})))
        with pytest.raises(StartError) as caught:
            await server.startup()
    assert str(caught.value).startswith(f"{key}.port: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "close" not in parts.events or parts.events == ["open", "close"]


async def test_two_services_cannot_share_a_port(parts: Parts) -> None:
    async with RunningService(parts.service(settings())) as server:
        second = RunningService(Parts().service(GrpcSettings(server=GrpcServerSection(port=server.address))))
        with pytest.raises(StartError, match="in use"):
            await second.startup()


def free_port_with_free_neighbour() -> int:
    for port in range(20000, 30000):
        with socket.socket() as first, socket.socket() as second:
            if not first.connect_ex(("127.0.0.1", port)) or not second.connect_ex(("127.0.0.1", port + METRICS_PORT_OFFSET)):
                continue
            return port
    raise AssertionError("no free ports")


async def test_metrics_listen_beside_grpc_unless_that_port_is_taken(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port_with_free_neighbour()
    own = GrpcSettings(server=GrpcServerSection(port=BindAddress("127.0.0.1", port)))
    async with RunningService(parts.service(own)) as server:
        assert server.metrics_address == BindAddress("127.0.0.1", port + METRICS_PORT_OFFSET)
    with socket.create_server(("127.0.0.1", port + METRICS_PORT_OFFSET)):
        async with RunningService(Parts().service(own)) as server:
            assert server.metrics_address is not None
            assert server.metrics_address.port not in {0, port + METRICS_PORT_OFFSET}
            assert (await asyncio.to_thread(get, server, "/health/ready"))[0] == 200
    assert "take any free port instead" in caplog.text


async def test_metrics_can_be_switched_off(parts: Parts) -> None:
    own = settings().model_copy(update={"metrics": MetricsSection(enabled=False)})
    async with RunningService(parts.service(own)) as server, client(server) as channel:
        assert server.metrics_address is None
        assert await unload(channel, "a") == "a"


async def test_calls_show_in_the_metrics_of_their_service_alone(parts: Parts) -> None:
    async with RunningService(parts.service(settings())) as one, RunningService(Parts().service(settings())) as other:
        async with client(one) as channel:
            await unload(channel, "a")
        line = (
            f'grpc_server_handled_total{{grpc_code="OK",grpc_method="UnloadModel",grpc_service="{NAME}",grpc_type="unary"}} 1.0'
        )
        assert line in (await asyncio.to_thread(get, one, "/metrics"))[1]
        assert "UnloadModel" not in (await asyncio.to_thread(get, other, "/metrics"))[1]


@pytest.mark.parametrize(("over_bytes", "code"), [(0, "OK"), (64 << 10, "RESOURCE_EXHAUSTED")])
async def test_messages_up_to_the_limit_pass_both_ways(parts: Parts, over_bytes: int, code: str) -> None:
    name = "x" * ((1 << 20) + over_bytes)
    async with (
        RunningService(parts.service(settings(max_message_size_mb=1))) as server,
        client(server, max_receive_message_length=-1) as channel,
    ):
        stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
        call = stub.UnloadModel(inference_pb2.UnloadModelRequest(model_id=name), timeout=30)
        assert await call.code() is grpc.StatusCode[code]
        assert await unload(channel, "still there") == "still there"


def test_options_are_numbers_that_grpc_takes() -> None:
    largest = GrpcServerSection(max_message_size_mb=2047, max_connection_age_seconds=31_536_000, keepalive_seconds=86_400)
    for section in (GrpcServerSection(), largest):
        options = dict(server_options(section))
        assert all(isinstance(value, int) for value in options.values())
        assert options["grpc.max_receive_message_length"] == options["grpc.max_send_message_length"] <= 2**31 - 1
    assert "grpc.max_connection_age_ms" not in dict(server_options(GrpcServerSection()))
    assert dict(server_options(largest))["grpc.max_connection_age_ms"] == 2**31 - 1
