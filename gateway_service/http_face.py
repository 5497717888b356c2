"""Makes a service callable by HTTP and WebSocket: ports, TLS, a drain."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

from aiohttp import web

from gateway_service.guard.connections import Connections
from gateway_service.settings import GatewaySettings
from service_kit.addresses import BindAddress
from service_kit.admission import RunningCalls
from service_kit.clock import Clock
from service_kit.listening import Port, check_free, places
from service_kit.metrics import Metrics
from service_kit.readiness import Readiness
from service_kit.tasks import beside
from service_kit.tls import HttpTls

# Connections that wait to be accepted: many browsers come back at once when a gateway was replaced.
BACKLOG = 1024
# Phones at the edge of a network take a second or two.
HANDSHAKE_SECONDS = 10.0
# The time for handlers that are cut off to clean up, before the service closes the parts that they use.
CUT_SECONDS = 1.0


class HttpServer:
    """Holds the applications that are served, and the running calls. Register between `open` and `start` of the face."""

    def __init__(self, calls: RunningCalls) -> None:
        self.calls = calls
        self.ending = asyncio.Event()
        """Set after the drain: calls should come to their end."""
        self.applications: dict[str, web.Application] = {}

    def serve(self, port: str, application: web.Application) -> None:
        """Serves an application at the port with this name."""
        self.applications[port] = application


class HttpFace:
    """An HTTP server on one or more ports."""

    def __init__(
        self, settings: GatewaySettings, ports: Sequence[Port], metrics: Metrics, readiness: Readiness, clock: Clock
    ) -> None:
        calls = RunningCalls(settings.server.max_running_calls)
        metrics.watch_calls(lambda: calls.running, limit=calls.limit)
        self.server = HttpServer(calls)
        self.addresses: dict[str, BindAddress] = {}
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._ports = ports
        self._sockets: dict[str, list[socket.socket]] = {}
        self._listening: list[asyncio.Server] = []
        self._resources = AsyncExitStack()

    @property
    def calls(self) -> RunningCalls:
        """The sockets and requests that run now."""
        return self.server.calls

    async def open(self) -> None:
        """Takes the ports. Raises StartError."""
        for port in self._ports:
            check_free(port.address, key=port.key)
            opened = _bound(port.address)
            self._sockets[port.name] = opened
            for each in opened:
                self._resources.callback(each.close)
            self.addresses[port.name] = BindAddress(port.address.host, opened[0].getsockname()[1])
        section = self._settings.tls
        self._tls = HttpTls(section, self._metrics, clock=self._clock) if section.is_on else None
        if self._tls:
            await self._resources.enter_async_context(beside(self._tls.follow()))

    async def start(self) -> None:
        """Listens, and serves the registered applications."""
        for name, application in self.server.applications.items():
            runner = web.AppRunner(application, shutdown_timeout=CUT_SECONDS)
            await runner.setup()
            assert runner.server
            self._resources.push_async_callback(runner.cleanup)
            connections = Connections(runner.server, self._settings.guard)
            loop = asyncio.get_running_loop()
            for each in self._sockets[name]:
                server = await loop.create_server(connections, sock=each, backlog=BACKLOG, **self._tls_options())
                self._listening.append(server)

    def _tls_options(self) -> dict[str, Any]:
        """Returns what asyncio is told of TLS. The guard counts a connection from the end of its handshake on."""
        if not self._tls:
            return {}
        seconds = min(HANDSHAKE_SECONDS, self._settings.guard.keepalive_seconds)
        return {"ssl": self._tls.context, "ssl_handshake_timeout": seconds}

    async def announce_drain(self) -> None:
        """Does nothing: sessions follow the service's drain, balancers its readiness."""

    async def finish(self) -> None:
        """Listens no more, asks running calls to end, and waits until they have."""
        for each in self._listening:
            each.close()
        self.server.ending.set()
        await self.server.calls.none_runs.wait()

    async def close(self) -> None:
        """Cuts off the calls that still run, and closes the ports."""
        await self._resources.aclose()
        with suppress(TimeoutError):
            async with asyncio.timeout(CUT_SECONDS):
                await self.server.calls.none_runs.wait()


def _bound(address: BindAddress) -> list[socket.socket]:
    """Binds a socket for each address of a host, all at the same port."""
    opened: list[socket.socket] = []
    for family, place in places(address):
        each = socket.socket(family, socket.SOCK_STREAM)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address.is_wildcard else 1)
        port = opened[0].getsockname()[1] if opened else place[1]
        each.bind((place[0], port, *place[2:]))
        opened.append(each)
    return opened
