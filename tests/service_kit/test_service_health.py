"""Health of a service, as its watchers see it over gRPC and HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service_kit.life import RunningService

from .hosting import NAME, NOT_SERVING, SERVING, Parts, client, get, health, settings, started, told, unload


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
