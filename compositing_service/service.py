"""Puts the compositing service behind gRPC.

Ready means: the avatars to preload are loaded. It does not depend on the inference service: no replica would be better than
another, and all would leave the balancer at once. The Health RPC and the metrics show its state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from compositing_service.earlier import servicer as earlier
from compositing_service.mouth_source import MouthSource
from compositing_service.parts import UPSTREAM_TLS_KEY, CompositingParts, compositing_parts
from compositing_service.servicer import CompositingServicer
from compositing_service.settings import CompositingSettings
from service_kit.callers.caller import Scope
from service_kit.grpc_face import GrpcHost, GrpcService, grpc_service
from service_kit.life import run_service
from service_kit.service import WarmUp
from service_kit.tasks import beside
from service_kit.tls import tls_problems

NAME = "compositing"
SERVICE_NAME = "compositing.CompositingService"
SCOPES = {
    f"/{SERVICE_NAME}/{method}": scope
    for method, scope in {
        "InferBatchComposite": Scope.INFER,
        "StreamComposite": Scope.INFER,
        "ListModels": Scope.READ,
        "ListSessions": Scope.READ,
        "EndSession": Scope.ADMIN,
        "LoadModel": Scope.ADMIN,
        "UnloadModel": Scope.ADMIN,
        "GetModelStats": Scope.ADMIN,
        "Health": None,
    }.items()
}
"""The scope that a caller needs for each method; None: it is open to all."""


def serve(settings: CompositingSettings) -> int:
    """Runs the service in this process until a signal stops it. Returns the exit code."""
    return run_service(compositing_service(settings))


def compositing_service(settings: CompositingSettings) -> GrpcService:
    """Describes the service, for `service_kit.life`."""
    return grpc_service(
        NAME,
        (SERVICE_NAME, earlier.SERVICE_NAME),
        settings,
        partial(_open, settings),
        scopes=SCOPES | earlier.CLIP_SCOPES,
        problems=partial(tls_problems, settings.inference_server.tls, key=UPSTREAM_TLS_KEY),
    )


@asynccontextmanager
async def _open(settings: CompositingSettings, host: GrpcHost) -> AsyncIterator[WarmUp]:
    async with started_compositing(settings, host, inference_url=settings.inference_server.url) as parts:
        limits = settings.limits
        heard_frames = earlier.most_heard_frames(limits.max_audio_seconds)
        earlier.ClipServicer(parts, host.draining, limits.max_batch_size, heard_frames).register(host.server)
        yield parts.preload


@asynccontextmanager
async def started_compositing(
    settings: CompositingSettings, host: GrpcHost, *, inference_url: str, source: MouthSource | None = None
) -> AsyncIterator[CompositingParts]:
    """Opens the parts during the block, with compositing.CompositingService at the host's server.

    `source` makes mouths in place of the inference service. `inference_url` is what Health says of either.
    """
    async with compositing_parts(settings, host.metrics, clock=host.clock, source=source) as parts:
        CompositingServicer(parts, host.readiness, inference_url=inference_url).register(host.server)
        async with beside(parts.sessions.drain(host.draining)):
            yield parts
