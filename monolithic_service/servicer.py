"""Serves the earlier monolithic server's clients over the parts of both halves. Interceptors turn errors into statuses."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import grpc.aio

from avatar_kit.errors import AvatarError
from avatar_kit.ids import check_avatar_id
from compositing_service.parts import CompositingParts
from compositing_service.request import read_model_id
from compositing_service.servicer import LONGEST_CALL_S, CompositingServicer
from inference_service.engines.devices import CPU_DEVICE_ID
from inference_service.engines.gpu_memory import visible_gpus
from inference_service.models.model import LoadedModel
from inference_service.parts import InferenceParts
from service_kit import request_context
from service_kit.callers import caller as callers
from service_kit.callers.caller import Scope, check_avatar
from service_kit.deadline import within_deadline
from service_kit.errors import Problems
from service_kit.leases import Lease
from service_kit.readiness import Readiness
from shared_proto import monolithic_pb2 as pb
from shared_proto.monolithic_pb2_grpc import MonolithicServiceServicer, add_MonolithicServiceServicer_to_server

SERVICE_NAME = "monolithic.MonolithicService"
SCOPES = {
    f"/{SERVICE_NAME}/{method}": scope
    for method, scope in {
        "InferBatchComposite": Scope.INFER,
        "ListModels": Scope.READ,
        "LoadModel": Scope.ADMIN,
        "UnloadModel": Scope.ADMIN,
        "GetModelStats": Scope.ADMIN,
        "Health": None,
    }.items()
}
"""The scope that a caller needs for each method; None: it is open to all."""

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True, eq=False)
class MonolithicServicer(MonolithicServiceServicer):
    """Serves monolithic.MonolithicService."""

    mouths: InferenceParts
    pictures: CompositingParts
    readiness: Readiness
    compositing: CompositingServicer

    def register(self, server: Any) -> None:
        """Adds it to a grpc.aio.Server that has not started."""
        add_MonolithicServiceServicer_to_server(self, server)
        # The messages have the same numbers in both services.
        server.add_registered_method_handlers(SERVICE_NAME, {"InferBatchComposite": self.compositing.batch_handler()})

    async def InferBatchComposite(self, request: Any, context: Context) -> Any:
        return await self.compositing.InferBatchComposite(request, context)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        async with within_deadline(context, limit_s=LONGEST_CALL_S):
            avatar_ids = await self.pictures.admin.listing.entries()
        caller = callers.current.get()
        return pb.ListModelsResponse(models=map(self._info, filter(caller.may_use, avatar_ids)))

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelResponse:
        self._check(request)
        avatar_id, started = request.model_id, perf_counter()
        request_context.avatar_id.set(avatar_id)
        check_avatar(avatar_id)
        await self.pictures.quotas.load(avatar_id)
        gpu_id = request.preferred_gpu if request.preferred_gpu in self._gpu_ids else None
        async with within_deadline(context, limit_s=LONGEST_CALL_S) as deadline:
            lease = await self.mouths.registry.load(avatar_id, gpu_id=gpu_id)
            await self.pictures.admin.load(avatar_id, force_reload=False, deadline=deadline)
        return pb.LoadModelResponse(success=True, gpu_id=_gpu_id(lease), load_time_ms=(perf_counter() - started) * 1000)

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        request_context.avatar_id.set(read_model_id(request.model_id))
        check_avatar(request.model_id)
        async with within_deadline(context, limit_s=LONGEST_CALL_S) as deadline:
            await self.pictures.admin.unload(request.model_id, deadline=deadline)
        return pb.UnloadModelResponse(success=True)

    async def GetModelStats(self, request: pb.GetModelStatsRequest, context: Context) -> pb.GetModelStatsResponse:
        loaded = sorted(self.mouths.registry.loaded, key=lambda lease: lease.key)
        return pb.GetModelStatsResponse(models=map(self._stats, loaded))

    async def Health(self, request: pb.HealthRequest, context: Context) -> pb.HealthResponse:
        healthy = self.readiness.reason is None
        if not callers.current.get().is_known:
            return pb.HealthResponse(healthy=healthy)
        registry, gpu_ids = self.mouths.registry, self._gpu_ids
        gpus = await self.mouths.runner.on_thread(visible_gpus) if gpu_ids else []
        used = {gpu.index: gpu.used_bytes / 2**30 for gpu in gpus}
        return pb.HealthResponse(
            healthy=healthy,
            loaded_models=len(registry.loaded),
            max_models=registry.placement.max_models,
            gpu_ids=gpu_ids,
            gpu_memory_used_gb=[used.get(gpu_id, 0.0) for gpu_id in gpu_ids],
        )

    @property
    def _gpu_ids(self) -> list[int]:
        return [device.gpu_id for device in self.mouths.devices if device.is_gpu]

    def _check(self, request: pb.LoadModelRequest) -> None:
        """Raises InvalidRequest with all problems."""
        problems, gpu_ids = Problems(), self._gpu_ids
        with problems.noting(AvatarError, field="model_id"):
            check_avatar_id(request.model_id)
        if request.preferred_gpu < -1:
            problems.add("preferred_gpu", f"is {request.preferred_gpu}; send the number of a GPU, or -1")
        elif gpu_ids and request.preferred_gpu not in {-1, *gpu_ids}:
            there = ", ".join(map(str, gpu_ids))
            problems.add("preferred_gpu", f"is {request.preferred_gpu}; the service has {there}; send one of them, or -1")
        problems.raise_if_any()

    def _info(self, avatar_id: str) -> pb.ModelInfo:
        lease = self.mouths.registry.find(avatar_id)
        if lease is None:
            return pb.ModelInfo(model_id=avatar_id, gpu_id=CPU_DEVICE_ID)
        stats = self._stats(lease)
        return pb.ModelInfo(
            model_id=avatar_id,
            loaded=True,
            gpu_id=stats.gpu_id,
            memory_mb=stats.memory_mb,
            request_count=stats.request_count,
            avg_inference_ms=stats.avg_inference_ms,
        )

    def _stats(self, lease: Lease[LoadedModel]) -> pb.ModelStats:
        backgrounds = self.pictures.store.find(lease.key)
        memory_bytes = lease.value.memory_bytes + (backgrounds.value.memory_bytes() if backgrounds else 0)
        total_ms = lease.value.total_inference_ms
        return pb.ModelStats(
            model_id=lease.key,
            loaded=True,
            gpu_id=_gpu_id(lease),
            memory_mb=round(memory_bytes / 2**20),
            request_count=lease.usage_count,
            total_inference_ms=round(total_ms),
            avg_inference_ms=total_ms / max(1, lease.usage_count),
            last_used_timestamp=int(lease.last_used_unix_s),
        )


def _gpu_id(lease: Lease[LoadedModel]) -> int:
    return lease.value.engines[0].device.gpu_id
