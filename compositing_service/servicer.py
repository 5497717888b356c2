"""Serves gRPC: checks requests, passes them on and keeps the caller's deadline. Interceptors turn errors into statuses."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import grpc.aio

from compositing_service.parts import CompositingParts
from compositing_service.request import read_model_id, read_order
from compositing_service.unary import BatchReply
from service_kit import receiving, request_context
from service_kit.callers import caller as callers
from service_kit.callers.caller import Scope, check_avatar
from service_kit.callers.certificate_names import caller_of
from service_kit.deadline import within_deadline
from service_kit.readiness import Readiness
from service_kit.version import product_version
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceServicer, add_CompositingServiceServicer_to_server

# For callers that set no deadline: longer than reading and warming up any avatar in both services takes.
LONGEST_CALL_S = 300.0

# Older clients send pictures of up to 59 MB with a request. Reading and checking them on the event loop would delay all calls;
# passing a smaller request to a thread would cost more than reading it.
LARGE_REQUEST_BYTES = 256 << 10

_END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the stubs
Context = grpc.aio.ServicerContext[Any, Any]


class _Sized(NamedTuple):
    """A request for frames, and its size on the wire, which protobuf knows only by writing it again."""

    message: pb.CompositeBatchRequest
    nbytes: int

    @classmethod
    def decode(cls, data: bytes) -> _Sized:
        return cls(pb.CompositeBatchRequest.FromString(data), len(data))


class _Messages(ExitStack):
    """The messages of a call. gRPC's own iterator keeps each until the next one comes, and a long sound is heard for minutes.

    A large one counts as a request under way until the next one is wanted. Raises ResourceExhausted where there is no room.
    """

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._receiving = receiving.current.get()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Returns the next message, encoded."""
        self.close()
        message = await self._context.read()
        if message is _END:
            raise StopAsyncIteration
        encoded: bytes = message
        self.enter_context(self._receiving.held(len(encoded)))
        return encoded


@dataclass(slots=True, eq=False)
class CompositingServicer(CompositingServiceServicer):
    """Serves compositing.CompositingService. The state of the inference service does not change this service's own health."""

    parts: CompositingParts
    readiness: Readiness
    inference_url: str

    def register(self, server: Any) -> None:
        """Adds it to a grpc.aio.Server that has not started."""
        add_CompositingServiceServicer_to_server(self, server)
        # A session decodes and encodes its messages itself: gRPC would answer what it cannot decode with UNKNOWN.
        stream: Any = grpc.stream_stream_rpc_method_handler(self.StreamComposite)
        handlers = {"InferBatchComposite": self.batch_handler(), "StreamComposite": stream}
        server.add_registered_method_handlers("compositing.CompositingService", handlers)

    def batch_handler(self) -> Any:
        """Returns gRPC's handler of InferBatchComposite."""
        handler: Any = grpc.unary_unary_rpc_method_handler(
            self.InferBatchComposite,
            request_deserializer=_Sized.decode,
            response_serializer=BatchReply.encode,
        )
        return handler

    async def InferBatchComposite(self, request: _Sized, context: Context) -> BatchReply:  # type: ignore[override]  # its own reply, encoded later
        read = partial(read_order, request.message, self.parts.rules)
        order = await asyncio.to_thread(read) if request.nbytes > LARGE_REQUEST_BYTES else read()
        request_context.avatar_id.set(order.avatar_id)
        check_avatar(order.avatar_id)
        await self.parts.quotas.batch(order.avatar_id, order.frame_count)
        async with within_deadline(context, limit_s=LONGEST_CALL_S) as deadline:
            return await self.parts.batches.run(order, deadline)

    # Writes instead of yielding: a session knows from the time of a write that its reader is slow.
    async def StreamComposite(self, request_iterator: Any, context: Context) -> None:  # type: ignore[override]  # it writes
        with _Messages(context) as messages:
            await self.parts.sessions.serve(messages, context.write, caller_of(context))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        caller = callers.current.get()
        return pb.ListSessionsResponse(sessions=self.parts.sessions.infos(None if caller.may(Scope.ADMIN) else caller))

    async def EndSession(self, request: pb.EndSessionRequest, context: Context) -> pb.EndSessionResponse:
        return pb.EndSessionResponse(ended=self.parts.sessions.end(request.session_id))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> bytes:  # type: ignore[override]  # the reply, encoded
        async with within_deadline(context, limit_s=LONGEST_CALL_S):
            return await self.parts.admin.list_models(callers.current.get().may_use)

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelResponse:
        request_context.avatar_id.set(read_model_id(request.model_id))
        check_avatar(request.model_id)
        await self.parts.quotas.load(request.model_id)
        async with within_deadline(context, limit_s=LONGEST_CALL_S) as deadline:
            return await self.parts.admin.load(request.model_id, force_reload=request.force_reload, deadline=deadline)

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        request_context.avatar_id.set(read_model_id(request.model_id))
        check_avatar(request.model_id)
        async with within_deadline(context, limit_s=LONGEST_CALL_S) as deadline:
            return await self.parts.admin.unload(request.model_id, deadline=deadline)

    async def GetModelStats(self, request: pb.GetModelStatsRequest, context: Context) -> pb.GetModelStatsResponse:
        if request.model_id:
            check_avatar(read_model_id(request.model_id))
        async with within_deadline(context, limit_s=LONGEST_CALL_S):
            return await self.parts.admin.stats(request.model_id)

    async def Health(self, request: pb.HealthRequest, context: Context) -> pb.HealthResponse:
        serving = pb.HealthResponse(
            healthy=self.readiness.reason is None, inference_server_healthy=await self.parts.source.healthy()
        )
        if callers.current.get().is_known:
            store = self.parts.store
            serving.loaded_models = len(store.loaded)
            serving.max_models = store.max_avatars
            serving.version = product_version()
            serving.inference_server_url = self.inference_url
        return serving
