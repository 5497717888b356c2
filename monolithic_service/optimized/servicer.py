"""Serves the earlier direct server's clients over the parts of both halves. Interceptors turn errors into statuses."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from avatar_kit.errors import AvatarError
from compositing_service.earlier import requests
from compositing_service.earlier.pictures import VIDEO_TYPES
from compositing_service.earlier.servicer import (
    CLIP_SCOPES,
    SERVICE_NAME,
    ClipServicer,
    Context,
    Use,
    most_heard_frames,
    optimizations,
)
from compositing_service.frame_stream import ms_since
from compositing_service.servicer import LONGEST_CALL_S
from inference_service.parts import InferenceParts
from inference_service.settings import LimitsSection
from service_kit import request_context
from service_kit.callers import caller as callers
from service_kit.callers.caller import Scope, check_avatar
from service_kit.clock import Clock
from service_kit.deadline import within_deadline
from service_kit.errors import as_service_errors
from service_kit.readiness import Readiness
from shared_proto import optimized_lipsyncsrv_pb2 as pb
from shared_proto.optimized_lipsyncsrv_pb2_grpc import (
    OptimizedLipSyncServiceServicer,
    add_OptimizedLipSyncServiceServicer_to_server,
)

SCOPES = CLIP_SCOPES | {
    f"/{SERVICE_NAME}/{method}": scope
    for method, scope in {
        "ListModels": Scope.READ,
        "LoadPackage": Scope.ADMIN,
        "GetStats": Scope.ADMIN,
        "HealthCheck": None,
    }.items()
}
"""The scope that a caller needs for each method; None: it is open to all."""


@dataclass(slots=True, eq=False, kw_only=True)
class OptimizedServicer(ClipServicer, OptimizedLipSyncServiceServicer):  # type: ignore[misc]  # its own decoding of streams
    """Serves optimized_lipsyncsrv.OptimizedLipSyncService."""

    mouths: InferenceParts
    readiness: Readiness
    clock: Clock
    started_s: float

    def register(self, server: Any) -> None:
        """Adds it to a grpc.aio.Server that has not started."""
        add_OptimizedLipSyncServiceServicer_to_server(self, server)
        server.add_registered_method_handlers(SERVICE_NAME, {"StreamInference": self.stream_handler()})

    async def LoadPackage(self, request: pb.LoadPackageRequest, context: Context) -> pb.LoadPackageResponse:
        avatar_id, named_by = _package(request)
        requests.check_name(avatar_id, field=named_by)
        request_context.avatar_id.set(avatar_id)
        check_avatar(avatar_id)
        await self.pictures.quotas.load(avatar_id)
        started = perf_counter()
        async with within_deadline(context, limit_s=LONGEST_CALL_S) as deadline:
            await self.pictures.admin.load(avatar_id, force_reload=False, deadline=deadline)
            model = (await self.mouths.registry.load(avatar_id)).value
        shape = model.stored_features.shape
        return pb.LoadPackageResponse(
            success=True,
            package_name=avatar_id,
            message=f"loaded; its model_name is {avatar_id}",
            initialization_time_ms=round(ms_since(started)),
            frame_count=model.avatar.frame_count,
            device=model.engines[0].device.name,
            videos_loaded=VIDEO_TYPES,
            audio_features_shape=shape,
            memory_mapped_audio=bool(shape),
        )

    async def GetStats(self, request: pb.StatsRequest, context: Context) -> pb.StatsResponse:
        requests.check_name(request.model_name)
        check_avatar(request.model_name)
        with as_service_errors(AvatarError, field="model_name"):
            avatar = await asyncio.to_thread(self._catalog.get, request.model_name)
        use = self.uses.get(request.model_name, Use())
        model, pictures = self.mouths.registry.find(avatar.id), self.pictures.store.find(avatar.id)
        return pb.StatsResponse(
            model_name=avatar.id,
            total_requests=use.count,
            avg_inference_time_ms=use.total_ms / max(1, use.count),
            min_inference_time_ms=use.least_ms,
            max_inference_time_ms=use.most_ms,
            frame_count=avatar.frame_count,
            device=model.value.engines[0].device.name if model else "",
            optimizations_active=optimizations(
                pictures.value if pictures else None, maps_features=bool(model and model.value.stored_features.shape)
            ),
        )

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        caller = callers.current.get()
        loaded = sorted(lease.key for lease in self.mouths.registry.loaded if caller.may_use(lease.key))
        return pb.ListModelsResponse(loaded_models=loaded, count=len(loaded))

    async def HealthCheck(self, request: pb.HealthRequest, context: Context) -> pb.HealthResponse:
        reason = self.readiness.reason
        if not callers.current.get().is_known:
            return pb.HealthResponse(healthy=reason is None)
        return pb.HealthResponse(
            healthy=reason is None,
            status=reason or "ready",
            loaded_models=len(self.mouths.registry.loaded),
            uptime_seconds=int(self.clock.now() - self.started_s),
        )


def heard_frames(limits: LimitsSection) -> int:
    """Returns how many frames a request with sound can have: as many as the limits of EncodeAudio allow."""
    around = requests.PIECES_BEFORE + requests.PIECES_AFTER
    return min(most_heard_frames(limits.max_audio_seconds), limits.max_feature_rows - around)


def _package(request: pb.LoadPackageRequest) -> tuple[str, str]:
    """Returns the id of the avatar, and the field that names it. Paths may be of any system."""
    parts = re.split(r"[/\\]+", request.package_dir.rstrip("/\\"))
    return (parts[-1], "package_dir") if parts[-1] else (request.package_name, "package_name")
