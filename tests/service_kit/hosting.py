"""A service whose parts a test holds in its hands, and calls to it over real sockets."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service_kit.addresses import BindAddress
from service_kit.grpc_face import GrpcHost, GrpcService, grpc_service
from service_kit.life import RunningService
from service_kit.sections import GrpcServerSection, MetricsSection
from service_kit.service_settings import GrpcSettings
from shared_proto import inference_pb2, inference_pb2_grpc

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
    """Asks the HTTP endpoint of a service in this process."""
    assert server.metrics_address is not None
    return fetched(str(server.metrics_address), path)


def fetched(address: str, path: str) -> tuple[int, str]:
    """Status and text of an answer over HTTP."""
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


@asynccontextmanager
async def started(parts: Parts, **server_settings: Any) -> AsyncIterator[tuple[RunningService[Any], grpc.aio.Channel]]:
    """For tests that stop the server themselves."""
    server = RunningService(parts.service(settings(**server_settings)))
    await server.startup()
    async with client(server) as channel:
        yield server, channel
