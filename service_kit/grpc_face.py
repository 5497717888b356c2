"""Makes a service callable by gRPC: interceptors, health, reflection, keepalive, TLS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import partial
from typing import Any, TypeAlias

import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection

from service_kit.addresses import BindAddress
from service_kit.admission import RunningCalls
from service_kit.callers.authority import authority_of
from service_kit.callers.door import Door, Scopes
from service_kit.clock import Clock
from service_kit.grpc_server import grpc_server
from service_kit.interceptors import CallInterceptor
from service_kit.listening import Port, StartError, check_free
from service_kit.metrics import Metrics
from service_kit.readiness import Readiness
from service_kit.receiving import Receiving
from service_kit.replying import Replying
from service_kit.sections import GrpcServerSection
from service_kit.service import Host, Service, WarmUp
from service_kit.service_settings import GrpcSettings
from service_kit.tasks import beside
from service_kit.tls import ServerTls

# The time for telling all watchers of health.
TELL_SECONDS = 1.0
# The time for handlers that are cut off to clean up, before the service closes the parts that they use.
CUT_SECONDS = 1.0
# `life` decides when calls are cut off; gRPC wants a limit.
NO_LIMIT_SECONDS = 1e6
# A payload of exactly the configured size travels with some other fields.
MESSAGE_SLACK_BYTES = 8 << 10
# gRPC takes ints of C: as milliseconds, 24 days.
MAX_OPTION = 2**31 - 1
# A bit for each algorithm.
IDENTITY_ALONE = 1
# Closes connections without a complete handshake. gRPC's own default is two minutes.
HANDSHAKE_SECONDS = 10.0

GrpcHost: TypeAlias = Host[grpc.aio.Server]
GrpcService: TypeAlias = Service[grpc.aio.Server]

log = logging.getLogger(__name__)


def grpc_service(
    name: str,
    grpc_services: Sequence[str],
    settings: GrpcSettings,
    open: Callable[[GrpcHost], AbstractAsyncContextManager[WarmUp]],  # noqa: A002 - the name of the field
    *,
    scopes: Scopes | None = None,
    ports: Sequence[Port] = (),
    problems: Callable[[], Sequence[str]] = lambda: (),
    own_key: str | None = None,
) -> GrpcService:
    """Describes a service that is called over gRPC. `grpc_services`: full names, for health and reflection.

    `scopes`: the scope that a caller needs for each method. `ports`: each serves all of it; none: `server.port` alone.
    `own_key`: a credential for calls from this process.
    """
    ports = ports or (Port(name, "server.port", settings.server.port),)
    return Service(name, settings, partial(GrpcFace, grpc_services, settings, ports, scopes or {}, own_key), open, problems)


class GrpcFace:
    """A gRPC server. Servicers register at `server`."""

    server: grpc.aio.Server

    def __init__(
        self,
        grpc_services: Sequence[str],
        settings: GrpcSettings,
        ports: Sequence[Port],
        scopes: Scopes,
        own_key: str | None,
        metrics: Metrics,
        readiness: Readiness,
        clock: Clock,
    ) -> None:
        self.addresses: dict[str, BindAddress] = {}
        self._settings = settings
        self._ports = ports
        self._scopes = scopes
        self._own_key = own_key
        self._metrics = metrics
        self._clock = clock
        self.calls = RunningCalls(settings.server.max_running_calls)
        metrics.watch_calls(lambda: self.calls.running, limit=self.calls.limit)
        self.receiving = Receiving(
            seconds=settings.server.receive_seconds,
            most_calls=settings.server.max_running_calls,
            most_bytes=max(settings.server.max_requests_in_memory_mb << 20, request_limit_bytes(settings.server)),
        )
        reply_bytes = message_limit_bytes(settings.server.max_message_size_mb)
        self._replying = Replying(most_bytes=max(settings.server.max_replies_in_memory_mb << 20, reply_bytes))
        self._readiness = readiness
        self._grpc_services = grpc_services
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]  # missing in the stubs
        self._resources = AsyncExitStack()

    async def open(self) -> None:
        """Takes the ports, with TLS and known callers if the settings say so. Raises StartError."""
        settings = self._settings
        authority = await self._resources.enter_async_context(
            authority_of(settings.auth, clock=self._clock, own_key=self._own_key)
        )
        interceptor = CallInterceptor(
            self._metrics,
            self.calls,
            self.receiving,
            self._replying,
            max_reply_bytes=message_limit_bytes(settings.server.max_message_size_mb),
            sample_rate=settings.logging.sample_rate,
            client_names=settings.tls.allowed_client_names if settings.tls.is_on else (),
            door=Door(authority, self._scopes) if authority else None,
        )
        self.server = grpc_server(interceptors=[interceptor], options=server_options(settings.server))
        self._resources.push_async_callback(self.server.stop, None)
        tls = ServerTls(settings.tls, self._metrics, clock=self._clock) if settings.tls.is_on else None
        for port in self._ports:
            self.addresses[port.name] = _listen(self.server, port, tls.credentials() if tls else None)
        if tls:
            await self._resources.enter_async_context(beside(tls.follow()))

    async def start(self) -> None:
        """Begins to serve the registered services, health and reflection."""
        await self._tell_health()  # so that the first answer is true
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        reflection.enable_server_reflection((*self._grpc_services, health.SERVICE_NAME, reflection.SERVICE_NAME), self.server)
        await self._resources.enter_async_context(beside(self._follow_readiness()))
        await self.server.start()

    async def _follow_readiness(self) -> None:
        """Tells every change to the watchers of health, without end."""
        while True:
            await self._readiness.changed.wait()
            self._readiness.changed.clear()
            await self._tell_health()

    async def _tell_health(self) -> None:
        """Says SERVING, for "" and for each service, while the service is ready."""
        status = HealthCheckResponse.SERVING if self._readiness.reason is None else HealthCheckResponse.NOT_SERVING
        for name in ("", *self._grpc_services):
            await self._health.set(name, status)

    async def announce_drain(self) -> None:
        """Says NOT_SERVING to all watchers of health from now on, also when the service is ready."""
        try:
            async with asyncio.timeout(TELL_SECONDS):
                await self._health.enter_graceful_shutdown()
        except TimeoutError:
            log.warning("a health watcher does not read: it was not told of the shutdown")

    async def finish(self) -> None:
        """Takes no new calls, ends the open-ended ones of health and reflection, and waits for the end of the others."""
        self.calls.end_open_ended()
        await self.server.stop(NO_LIMIT_SECONDS)

    async def close(self) -> None:
        """Cuts off the calls that still run, closes the port, and gives the handlers time to end."""
        await self._resources.aclose()
        with suppress(TimeoutError):
            async with asyncio.timeout(CUT_SECONDS):
                await self.calls.none_runs.wait()


def request_limit_bytes(section: GrpcServerSection) -> int:
    """Returns the largest message from a caller that gRPC lets through."""
    return message_limit_bytes(min(section.max_request_size_mb, section.max_message_size_mb))


def message_limit_bytes(megabytes: int) -> int:
    """Returns gRPC's limit for messages of so many MiB."""
    return min((megabytes << 20) + MESSAGE_SLACK_BYTES, MAX_OPTION)


def server_options(section: GrpcServerSection) -> list[tuple[str, int]]:
    """Returns gRPC's options for a server."""
    timeout_ms = _ms(section.keepalive_timeout_seconds)
    options = [
        # On by default: a second server on the same port would start silently and take half of the connections.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", request_limit_bytes(section)),
        ("grpc.max_send_message_length", message_limit_bytes(section.max_message_size_mb)),
        ("grpc.max_concurrent_streams", section.max_streams_per_connection),
        # A few kilobytes could unpack to a message of the largest size, and sound and pictures hardly shrink.
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY_ALONE),
        ("grpc.keepalive_time_ms", _ms(section.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        # Without it a dead peer is noticed a minute later than the timeout says.
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(section.min_ping_interval_seconds)),
        ("grpc.server_handshake_timeout_ms", _ms(HANDSHAKE_SECONDS)),
    ]
    if section.max_connection_age_seconds is not None:
        options.append(("grpc.max_connection_age_ms", _ms(section.max_connection_age_seconds)))
        options.append(("grpc.max_connection_age_grace_ms", _ms(section.max_connection_age_grace_seconds)))
    return options


def _listen(server: grpc.aio.Server, port: Port, credentials: grpc.ServerCredentials | None = None) -> BindAddress:
    """Binds the server, with TLS if there are credentials. Returns the address with the actual port."""
    address = port.address
    check_free(address, key=port.key)
    place = str(BindAddress(address.host or "::", address.port))
    try:
        number = server.add_secure_port(place, credentials) if credentials else server.add_insecure_port(place)
    except RuntimeError:
        raise StartError(f"{port.key}: cannot listen on {address}; choose another address") from None
    return BindAddress(address.host, number)


def _ms(seconds: float) -> int:
    return min(round(seconds * 1000), MAX_OPTION)
