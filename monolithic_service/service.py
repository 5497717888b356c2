"""Both halves in one process, and the gateway beside them: `lipsync serve all`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from compositing_service import service as compositing
from compositing_service.earlier import servicer as earlier
from compositing_service.parts import CompositingParts
from compositing_service.service import started_compositing
from compositing_service.servicer import CompositingServicer
from gateway_service.settings import CompositingServerSection
from inference_service import service as inference
from inference_service.parts import InferenceParts
from inference_service.service import started_inference
from monolithic_service import servicer as monolithic
from monolithic_service.mouth_source import LocalMouthSource
from monolithic_service.optimized import servicer as optimized
from monolithic_service.settings import MonolithicSettings
from service_kit.addresses import BindAddress
from service_kit.callers.keys import new_key
from service_kit.grpc_face import GrpcHost, GrpcService, grpc_service
from service_kit.life import run_services
from service_kit.listening import Port
from service_kit.sections import ClientTlsSection
from service_kit.service import Service, WarmUp

NAME = "all"
SERVICE_NAMES = (compositing.SERVICE_NAME, inference.SERVICE_NAME, monolithic.SERVICE_NAME)
# What the compositing service's Health says in place of an address.
HERE = "in this process"


def serve(settings: MonolithicSettings) -> int:
    """Runs everything in this process until SIGTERM or SIGINT; returns the exit code."""
    return run_services(all_services(settings), name=NAME, section=settings.logging, traces=settings.tracing)


def all_services(settings: MonolithicSettings) -> Sequence[Service[Any]]:
    """Describes both halves, and the gateway unless it is switched off. It calls the compositing port over loopback."""
    opened: dict[str, BindAddress] = {}
    own_key = new_key().text if settings.auth.is_on else None  # of the gateway, to the compositing port beside it
    both = monolithic_service(settings, opened, own_key=own_key)
    if not settings.gateway.enabled:
        return [both]
    from gateway_service.service import gateway_service

    gateway = gateway_service(
        settings.of_gateway,
        reach=lambda: _own_compositing(settings, opened[compositing.NAME]),
        api_key=own_key,
        port_key="gateway.port",
        earlier_key="gateway.earlier.ports",
    )
    return [both, gateway]


def _own_compositing(settings: MonolithicSettings, address: BindAddress) -> CompositingServerSection:
    """Says how the gateway reaches the compositing port: with TLS, it trusts this process's own certificate, and shows it."""
    given = settings.of_gateway.compositing_server
    section = settings.tls
    if section.is_on and section.certificate_file and not given.tls.is_on:
        from service_kit.certificates import name_in

        tls = ClientTlsSection(
            enabled=True,
            certificate_file=section.certificate_file,
            key_file=section.key_file,
            ca_file=section.certificate_file,
            reload_seconds=section.reload_seconds,
            server_name=name_in(section.certificate_file),
        )
        given = given.model_copy(update={"tls": tls})
    return given.model_copy(update={"url": address.reachable})


def monolithic_service(
    settings: MonolithicSettings, opened: dict[str, BindAddress] | None = None, *, own_key: str | None = None
) -> GrpcService:
    """Describes both halves as one service, for `service_kit.life`: one server with a port for the clients of each.

    `opened` receives the addresses of the ports, by the names of their services. `own_key`: a credential for the gateway.
    """
    server = settings.server
    ports = (
        Port(compositing.NAME, "server.compositing_port", server.compositing_port),
        Port(inference.NAME, "server.inference_port", server.inference_port),
        Port("monolithic", "server.port", server.port),
    )
    names = (*SERVICE_NAMES, earlier.SERVICE_NAME) if server.optimized_lipsyncsrv else SERVICE_NAMES
    return grpc_service(
        NAME,
        names,
        settings,
        partial(_open, settings, {} if opened is None else opened),
        scopes=compositing.SCOPES | inference.SCOPES | monolithic.SCOPES | optimized.SCOPES,
        ports=ports,
        own_key=own_key,
    )


@asynccontextmanager
async def _open(settings: MonolithicSettings, opened: dict[str, BindAddress], host: GrpcHost) -> AsyncIterator[WarmUp]:
    opened.update(host.addresses)
    async with started_inference(settings.of_inference, host) as mouths:
        source = LocalMouthSource(mouths.runner, settings.limits, host.readiness)
        async with started_compositing(settings.of_compositing, host, inference_url=HERE, source=source) as pictures:
            _register_older(settings, host, mouths, pictures)

            async def warm_up() -> None:
                await asyncio.gather(mouths.preload(), pictures.preload())

            yield warm_up


def _register_older(settings: MonolithicSettings, host: GrpcHost, mouths: InferenceParts, pictures: CompositingParts) -> None:
    """Adds the faces of the earlier servers."""
    batches = CompositingServicer(pictures, host.readiness, inference_url=HERE)
    monolithic.MonolithicServicer(mouths, pictures, host.readiness, batches).register(host.server)
    if settings.server.optimized_lipsyncsrv:
        frames = optimized.OptimizedServicer(
            pictures=pictures,
            mouths=mouths,
            max_batch_size=settings.limits.max_batch_size,
            max_heard_frames=optimized.heard_frames(settings.limits),
            readiness=host.readiness,
            clock=host.clock,
            draining=host.draining,
            started_s=host.clock.now(),
        )
        frames.register(host.server)
