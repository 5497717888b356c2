"""The gRPC face: checks what is asked, hands it on and keeps to the caller's deadline. Interceptors turn errors into statuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc.aio

from compositing_service.batch import BatchCompositor
from compositing_service.model_admin import ModelAdmin
from compositing_service.request import RequestRules, read_model_id, read_order
from compositing_service.upstream.health import UpstreamHealth
from service_kit import request_context
from service_kit.deadline import within_deadline
from service_kit.readiness import Readiness
from service_kit.version import product_version
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceServicer

# For callers that set no deadline: longer than reading and warming up any avatar in both services takes.
LONGEST_CALL_S = 300.0

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True, eq=False)
class CompositingServicer(CompositingServiceServicer):
    """compositing.CompositingService. Health is about this service; what it says of the other one does not change it."""

    batches: BatchCompositor
    admin: ModelAdmin
    upstream: UpstreamHealth
    readiness: Readiness
    rules: RequestRules
    inference_url: str

    async def InferBatchComposite(self, request: pb.CompositeBatchRequest, context: Context) -> pb.CompositeBatchResponse:
        order = read_order(request, self.rules)
        request_context.avatar_id.set(order.model_id)
        async with within_deadline(context, limit_s=LONGEST_CALL_S) as deadline:
            return await self.batches.run(order, deadline)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        async with within_deadline(context, limit_s=LONGEST_CALL_S):
            return pb.ListModelsResponse(models=await self.admin.list_models())

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelResponse:
        request_context.avatar_id.set(read_model_id(request.model_id))
        async with within_deadline(context, limit_s=LONGEST_CALL_S) as deadline:
            return await self.admin.load(request.model_id, force_reload=request.force_reload, deadline=deadline)

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        request_context.avatar_id.set(read_model_id(request.model_id))
        async with within_deadline(context, limit_s=LONGEST_CALL_S) as deadline:
            return await self.admin.unload(request.model_id, deadline=deadline)

    async def GetModelStats(self, request: pb.GetModelStatsRequest, context: Context) -> pb.GetModelStatsResponse:
        if request.model_id:
            read_model_id(request.model_id)
        async with within_deadline(context, limit_s=LONGEST_CALL_S):
            return await self.admin.stats(request.model_id)

    async def Health(self, request: pb.HealthRequest, context: Context) -> pb.HealthResponse:
        figures = self.admin.store.stats()
        return pb.HealthResponse(
            healthy=self.readiness.reason is None,
            inference_server_healthy=await self.upstream.healthy(),
            loaded_models=figures.loaded_avatars,
            max_models=figures.max_avatars,
            version=product_version(),
            inference_server_url=self.inference_url,
        )
