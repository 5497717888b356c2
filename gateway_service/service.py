"""Puts the gateway behind HTTP.

Ready means: a compositing service answers. A gateway alone may start before any; it is not ready until then.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias

from gateway_service.application import build_application
from gateway_service.compositors import CAUSE, Compositors
from gateway_service.earlier.routes import earlier_routes
from gateway_service.guard.guard import Guard
from gateway_service.holders import Holders
from gateway_service.http_face import HttpFace, HttpServer
from gateway_service.identity.opening import callers_of
from gateway_service.metrics import GatewayMetrics
from gateway_service.parts import GatewayParts
from gateway_service.running_sessions import RunningSessions
from gateway_service.settings import CompositingServerSection, GatewaySettings
from gateway_service.speaking import Speaker
from service_kit.addresses import BindAddress
from service_kit.callers.outgoing import OutgoingKey
from service_kit.life import run_service
from service_kit.listening import Port
from service_kit.service import Host, Service, WarmUp
from service_kit.tasks import beside
from service_kit.tls import ClientTls, tls_problems

NAME = "gateway"
TLS_KEY = "compositing_server.tls"

log = logging.getLogger(__name__)

GatewayHost: TypeAlias = Host[HttpServer]
GatewayService: TypeAlias = Service[HttpServer]


def serve(settings: GatewaySettings) -> int:
    """Runs the gateway in this process until a signal stops it. Returns the exit code."""
    return run_service(gateway_service(settings))


def gateway_service(
    settings: GatewaySettings,
    *,
    reach: Callable[[], CompositingServerSection] | None = None,
    api_key: str | None = None,
    port_key: str = "server.port",
    earlier_key: str = "earlier.ports",
) -> GatewayService:
    """Describes the gateway, for `service_kit.life`.

    `reach` says how to reach the compositing services when the gateway opens, in place of the settings; `api_key` is the key for
    them, in place of the one in a file. `port_key` and `earlier_key` are the settings that chose the ports, for messages.
    """
    earlier = (Port(name, earlier_key, address) for name, address in _earlier_ports(settings))
    ports = (Port(NAME, port_key, settings.server.port), *earlier)
    return Service(
        NAME,
        settings,
        partial(HttpFace, settings, ports),
        partial(_open, settings, reach or (lambda: settings.compositing_server), api_key),
        problems=partial(tls_problems, settings.compositing_server.tls, key=TLS_KEY),
    )


@asynccontextmanager
async def _open(
    settings: GatewaySettings, reach: Callable[[], CompositingServerSection], api_key: str | None, host: GatewayHost
) -> AsyncIterator[WarmUp]:
    section = reach()
    key = OutgoingKey(section.api_key_file, key="compositing_server.api_key_file", clock=host.clock)
    compositors = Compositors(section, lambda: api_key or key.text)
    host.readiness.block(CAUSE, "no compositing service has answered yet")
    metrics = GatewayMetrics(host.metrics)
    try:
        async with (
            beside(compositors.follow(host.readiness, host.clock)),
            beside(key.follow()),
            callers_of(settings, host.clock) as callers,
            earlier_routes(settings, compositors, host.server, host.readiness, metrics, callers) as earlier,
            _followed(section, (compositors.renew, earlier.answers.upstream.renew), host),
        ):
            parts = GatewayParts(
                settings=settings,
                metrics=metrics,
                readiness=host.readiness,
                liveness=host.liveness,
                compositors=compositors,
                sessions=RunningSessions(),
                earlier=earlier,
                speech=Speaker(settings.speech),
                server=host.server,
                holders=Holders(settings),
                guard=Guard(
                    settings.guard,
                    metrics.refused,
                    host.clock,
                    client_names=settings.tls.allowed_client_names if settings.tls.is_on else (),
                ),
                callers=callers,
                draining=host.draining,
                clock=host.clock,
            )
            metrics.sessions.set_function(lambda: len(parts.sessions))
            metrics.connections.set_function(lambda: compositors.connections)
            host.server.serve(NAME, build_application(parts))
            for name, _ in _earlier_ports(settings):
                application = earlier.application()
                parts.guard.install(application)
                application.middlewares.append(callers.middleware)
                host.server.serve(name, application)
            yield partial(_tell_page, settings, host.addresses[NAME])
    finally:
        await compositors.close()


@asynccontextmanager
async def _followed(
    section: CompositingServerSection, renewals: Iterable[Callable[[], Awaitable[None]]], host: GatewayHost
) -> AsyncIterator[None]:
    """Renews the connections during the block when the certificates are renewed."""

    async def renew() -> None:
        for each in renewals:
            await each()

    if not section.tls.is_on:
        yield
        return
    tls = ClientTls(section.tls, host.metrics, key=TLS_KEY, clock=host.clock)
    async with beside(tls.follow(renew)):
        yield


def _earlier_ports(settings: GatewaySettings) -> Iterator[tuple[str, BindAddress]]:
    """Yields the further ports of the earlier servers with their names in the ready lines."""
    for number, address in enumerate(settings.earlier.ports, 1):
        yield f"{NAME}-earlier-{number}", address


async def _tell_page(settings: GatewaySettings, address: BindAddress) -> None:
    """Tells people at a terminal where the page is. There is nothing to warm up."""
    scheme, place = "https" if settings.tls.is_on else "http", BindAddress(address.host or "localhost", address.port)
    log.info("the page is at %s://%s", scheme, place)
