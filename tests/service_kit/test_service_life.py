"""A service from startup to stop, in this process, over real sockets."""

from __future__ import annotations

import asyncio
import errno
import socket
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest

from service_kit.addresses import BindAddress
from service_kit.grpc_face import server_options
from service_kit.life import RunningService
from service_kit.listening import METRICS_PORT_OFFSET, StartError, open_metrics_port
from service_kit.sections import GrpcServerSection, MetricsSection
from service_kit.service_settings import GrpcSettings
from shared_proto import inference_pb2, inference_pb2_grpc

from ..virtual_clock import VirtualClock
from .hosting import NAME, NOT_SERVING, Parts, client, get, settings, started, told, unload


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


@pytest.mark.parametrize(("own", "host"), [("", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("10.1.2.3",) * 2])
def test_metrics_of_a_service_on_all_interfaces_are_on_loopback(own: str, host: str) -> None:
    tried: list[BindAddress] = []
    open_metrics_port(None, BindAddress(own, 50051), tried.append)
    open_metrics_port(BindAddress("", 53051), BindAddress(own, 50051), tried.append)
    assert tried == [BindAddress(host, 50051 + METRICS_PORT_OFFSET), BindAddress("", 53051)]


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
    sizes = {"max_message_size_mb": 2047, "max_request_size_mb": 2047}
    largest = GrpcServerSection(**sizes, max_connection_age_seconds=31_536_000, keepalive_seconds=86_400)
    for section in (GrpcServerSection(), largest):
        options = dict(server_options(section))
        assert all(isinstance(value, int) for value in options.values())
        assert options["grpc.max_receive_message_length"] <= options["grpc.max_send_message_length"] <= 2**31 - 1
    small = dict(server_options(GrpcServerSection(max_message_size_mb=1)))
    assert small["grpc.max_receive_message_length"] == small["grpc.max_send_message_length"], "requests have no larger limit"
    assert "grpc.max_connection_age_ms" not in dict(server_options(GrpcServerSection()))
    assert dict(server_options(largest))["grpc.max_connection_age_ms"] == 2**31 - 1
