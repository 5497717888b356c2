"""Puts the parts of the inference service behind a gRPC server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial

from avatar_kit.catalog import AvatarCatalog
from avatar_kit.listing import REFRESH_S, AvatarListing
from inference_service.engines.devices import DeviceError
from inference_service.parts import InferenceParts, inference_parts
from inference_service.servicer import InferenceServicer, described
from inference_service.session_orders import OrderRules
from inference_service.settings import InferenceSettings
from service_kit.callers.caller import Scope
from service_kit.grpc_face import GrpcHost, GrpcService, grpc_service
from service_kit.life import run_service
from service_kit.listening import StartError
from service_kit.service import WarmUp
from service_kit.tasks import beside, every

NAME = "inference"
SERVICE_NAME = "inference.InferenceService"
SCOPES = {
    f"/{SERVICE_NAME}/{method}": scope
    for method, scope in {
        "InferBatch": Scope.INFER,
        "InferStream": Scope.INFER,
        "InferSessions": Scope.INFER,
        "EncodeAudio": Scope.INFER,
        "ListModels": Scope.READ,
        "LoadModel": Scope.ADMIN,
        "UnloadModel": Scope.ADMIN,
        "GetModelStats": Scope.ADMIN,
        "Health": None,
    }.items()
}
"""The scope that a caller needs for each method; None: it is open to all."""


def serve(settings: InferenceSettings) -> int:
    """Runs the service in this process until SIGTERM or SIGINT; returns the exit code."""
    return run_service(inference_service(settings))


def inference_service(settings: InferenceSettings) -> GrpcService:
    """Describes the service, for `service_kit.life`."""
    return grpc_service(NAME, (SERVICE_NAME,), settings, partial(_open, settings), scopes=SCOPES)


@asynccontextmanager
async def _open(settings: InferenceSettings, host: GrpcHost) -> AsyncIterator[WarmUp]:
    async with started_inference(settings, host) as parts:
        yield parts.preload


@asynccontextmanager
async def started_inference(settings: InferenceSettings, host: GrpcHost) -> AsyncIterator[InferenceParts]:
    """Opens the parts during the block, with inference.InferenceService at the host's server. Raises StartError."""
    try:
        async with (
            inference_parts(settings, host.metrics, on_lost=host.liveness.fail, clock=host.clock) as parts,
            _listing(parts.registry.catalog, host) as listing,
        ):
            rules = OrderRules(host.calls, settings.logging.sample_rate, partial(_drained, settings, host), parts.orders)
            InferenceServicer(
                parts.runner, parts.registry, listing, parts.devices, parts.numerics, host.readiness, settings.limits, rules
            ).register(host.server)
            yield parts
    except DeviceError as error:
        raise StartError(str(error)) from error


async def _drained(settings: InferenceSettings, host: GrpcHost) -> None:
    """Returns when the service has drained: it serves all callers for as long as it announces its end."""
    await host.draining.wait()
    await host.clock.sleep(settings.server.drain_seconds)


@asynccontextmanager
async def _listing(catalog: AvatarCatalog, host: GrpcHost) -> AsyncIterator[AvatarListing[bytes]]:
    with closing(AvatarListing(catalog, partial(described, catalog))) as listing:
        async with beside(every(host.clock, REFRESH_S, listing.refresh)):
            yield listing
