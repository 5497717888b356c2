"""Makes the worker callable by HTTP."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import web

from lipsync_adapters.livekit.settings import LivekitSettings
from service_kit.addresses import BindAddress
from service_kit.admission import RunningCalls
from service_kit.clock import Clock
from service_kit.listening import check_free, places
from service_kit.metrics import Metrics
from service_kit.readiness import Readiness
from service_kit.tasks import beside
from service_kit.tls import HttpTls

NAME = "livekit"
# The rest of a body that was refused is read for so long, so that the caller sees the answer.
LINGERING_SECONDS = 1.0


class WorkerServer:
    """Holds the application that is served, once the service has opened."""

    application: web.Application


class WorkerFace:
    """An HTTP server on one port. A room counts as a running call."""

    def __init__(self, settings: LivekitSettings, metrics: Metrics, readiness: Readiness, clock: Clock) -> None:
        self.server = WorkerServer()
        self.calls = RunningCalls(settings.server.max_running_calls)
        metrics.watch_calls(lambda: self.calls.running, limit=self.calls.limit)
        self.addresses: dict[str, BindAddress] = {}
        self._settings, self._metrics, self._clock = settings, metrics, clock
        self._resources = AsyncExitStack()
        self._sockets: list[socket.socket] = []

    async def open(self) -> None:
        """Takes the port. Raises StartError."""
        address = self._settings.server.port
        check_free(address, key="server.port")
        family, place = places(address)[0]
        listener = socket.create_server(
            place[:2], family=family, dualstack_ipv6=family == socket.AF_INET6 and address.is_wildcard, reuse_port=False
        )
        self._resources.callback(listener.close)
        self._sockets = [listener]
        self.addresses[NAME] = BindAddress(address.host, listener.getsockname()[1])
        section = self._settings.tls
        self._tls: Any = None
        if section.is_on:
            tls = HttpTls(section, self._metrics, clock=self._clock)
            await self._resources.enter_async_context(beside(tls.follow()))
            self._tls = tls.context

    async def start(self) -> None:
        """Listens."""
        runner = web.AppRunner(
            self.server.application,
            shutdown_timeout=1,
            keepalive_timeout=self._settings.server.receive_seconds,
            lingering_time=LINGERING_SECONDS,
            auto_decompress=False,  # nobody packs so little, and what is packed could be of any size
        )
        await runner.setup()
        self._resources.push_async_callback(runner.cleanup)
        for each in self._sockets:
            await web.SockSite(runner, each, ssl_context=self._tls).start()

    async def announce_drain(self) -> None:
        """Does nothing: new rooms are refused while the service drains."""

    async def finish(self) -> None:
        """Waits until all avatars have left their rooms."""
        await self.calls.none_runs.wait()

    async def close(self) -> None:
        """Closes the port."""
        await self._resources.aclose()
        await asyncio.sleep(0)
