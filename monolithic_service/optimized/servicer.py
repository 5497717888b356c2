"""Serves the earlier direct server's clients over the parts of both halves. Interceptors turn errors into statuses."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import grpc.aio

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError
from avatar_kit.geometry import Rect
from compositing_service.backgrounds.composer import AvatarComposer
from compositing_service.frame_stream import Frame, ms_since
from compositing_service.mouth_source import Rows, StoredFeatures
from compositing_service.parts import CompositingParts
from compositing_service.servicer import LONGEST_CALL_S
from inference_service.parts import InferenceParts
from inference_service.settings import LimitsSection
from monolithic_service.optimized import requests
from monolithic_service.optimized.frames import FrameRequests, MadeFrames, Speech, check_within_clip
from monolithic_service.optimized.pictures import VIDEO_TYPES, video_frame
from service_kit import request_context
from service_kit.callers import caller as callers
from service_kit.callers.caller import Scope, check_avatar
from service_kit.clock import Clock
from service_kit.deadline import Deadline, within_deadline
from service_kit.errors import InvalidRequest, Unavailable, Violation, as_service_errors
from service_kit.readiness import Readiness
from shared_proto import optimized_lipsyncsrv_pb2 as pb
from shared_proto.optimized_lipsyncsrv_pb2_grpc import (
    OptimizedLipSyncServiceServicer,
    add_OptimizedLipSyncServiceServicer_to_server,
)
from shared_proto.timing import FRAME_RATE

SERVICE_NAME = "optimized_lipsyncsrv.OptimizedLipSyncService"
PREDICTION_SHAPE = "320x320x3"
# Requests of one stream that are under way at the same time, so that their runs of the network can be shared.
STREAM_AHEAD = 8

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True)
class Use:
    """The frames that were made of an avatar, and the network's time for each."""

    count: int = 0
    total_ms: float = 0.0
    least_ms: float = 0.0
    most_ms: float = 0.0

    def add(self, milliseconds: float) -> None:
        """Counts one frame."""
        self.least_ms = min(self.least_ms, milliseconds) if self.count else milliseconds
        self.most_ms = max(self.most_ms, milliseconds)
        self.total_ms += milliseconds
        self.count += 1


SCOPES = {
    f"/{SERVICE_NAME}/{method}": scope
    for method, scope in {
        "GenerateInference": Scope.INFER,
        "GenerateBatchInference": Scope.INFER,
        "GenerateBatchWithAudio": Scope.INFER,
        "StreamInference": Scope.INFER,
        "GetVideoFrame": Scope.INFER,
        "ListModels": Scope.READ,
        "GetModelMetadata": Scope.READ,
        "LoadPackage": Scope.ADMIN,
        "GetStats": Scope.ADMIN,
        "HealthCheck": None,
    }.items()
}
"""The scope that a caller needs for each method; None: it is open to all."""


@dataclass(slots=True, eq=False)
class OptimizedServicer(OptimizedLipSyncServiceServicer):
    """Serves optimized_lipsyncsrv.OptimizedLipSyncService."""

    mouths: InferenceParts
    pictures: CompositingParts
    limits: LimitsSection
    readiness: Readiness
    clock: Clock
    draining: asyncio.Event
    started_s: float
    uses: dict[str, Use] = field(default_factory=dict)
    """By avatar: only of those that frames were made of, so bounded."""

    def register(self, server: Any) -> None:
        """Adds it to a grpc.aio.Server that has not started."""
        add_OptimizedLipSyncServiceServicer_to_server(self, server)
        # Decodes its messages itself: gRPC would answer what it cannot decode with UNKNOWN.
        stream: Any = grpc.stream_stream_rpc_method_handler(
            self.StreamInference, response_serializer=pb.OptimizedInferenceResponse.SerializeToString
        )
        server.add_registered_method_handlers(SERVICE_NAME, {"StreamInference": stream})

    async def GenerateInference(self, request: pb.OptimizedInferenceRequest, context: Context) -> pb.OptimizedInferenceResponse:
        requests.check_frame_ids(request.model_name, [request.frame_id], field="frame_id")
        request_context.avatar_id.set(request.model_name)
        check_avatar(request.model_name)
        reply = await self._of_clip(request.model_name, [request.frame_id], context, field="frame_id")
        return reply.responses[0]

    async def GenerateBatchInference(self, request: pb.BatchInferenceRequest, context: Context) -> pb.BatchInferenceResponse:
        requests.check_frame_ids(request.model_name, request.frame_ids, field="frame_ids")
        request_context.avatar_id.set(request.model_name)
        check_avatar(request.model_name)
        return await self._of_clip(request.model_name, request.frame_ids, context, field="frame_ids")

    async def GenerateBatchWithAudio(
        self, request: pb.BatchInferenceWithAudioRequest, context: Context
    ) -> pb.BatchInferenceResponse:
        heard = await asyncio.to_thread(requests.read_heard_frames, request, max_frames=self._max_heard_frames)
        request_context.avatar_id.set(heard.avatar_id)
        check_avatar(heard.avatar_id)
        positions = range(heard.start_position, heard.start_position + heard.frame_count)
        started = perf_counter()
        async with within_deadline(context, limit_s=LONGEST_CALL_S) as deadline:
            made = await self._frames.make(heard.avatar_id, positions, partial(self._rows, heard, deadline), deadline)
        return self._reply(heard.avatar_id, positions, made, started)

    async def StreamInference(  # type: ignore[override]  # its own decoding
        self, request_iterator: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[pb.OptimizedInferenceResponse]:
        begun: asyncio.Queue[asyncio.Task[pb.OptimizedInferenceResponse] | None] = asyncio.Queue()
        room = asyncio.Semaphore(STREAM_AHEAD)

        async def read() -> None:
            try:
                async for data in request_iterator:
                    await room.acquire()
                    begun.put_nowait(asyncio.create_task(self.GenerateInference(_decoded(data), context)))
            finally:
                begun.put_nowait(None)

        async def leave() -> None:
            await self.draining.wait()
            begun.put_nowait(None)

        reading = asyncio.create_task(read())
        tasks: list[asyncio.Task[Any]] = [reading, asyncio.create_task(leave())]
        try:
            while (response := await begun.get()) is not None:
                tasks.append(response)
                yield await tasks.pop()
                room.release()
            if not reading.done():
                raise Unavailable("the service is shutting down; open the stream again, on another replica")
            await reading
        finally:
            tasks += filter(None, (begun.get_nowait() for _ in range(begun.qsize())))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def LoadPackage(self, request: pb.LoadPackageRequest, context: Context) -> pb.LoadPackageResponse:
        avatar_id, named_by = _package(request)
        requests.check_name(avatar_id, field=named_by)
        request_context.avatar_id.set(avatar_id)
        check_avatar(avatar_id)
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
            optimizations_active=_optimizations(
                pictures.value if pictures else None, maps_features=bool(model and model.value.stored_features.shape)
            ),
        )

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        caller = callers.current.get()
        loaded = sorted(lease.key for lease in self.mouths.registry.loaded if caller.may_use(lease.key))
        return pb.ListModelsResponse(loaded_models=loaded, count=len(loaded))

    async def HealthCheck(self, request: pb.HealthRequest, context: Context) -> pb.HealthResponse:
        reason = self.readiness.reason
        return pb.HealthResponse(
            healthy=reason is None,
            status=reason or "ready",
            loaded_models=len(self.mouths.registry.loaded),
            uptime_seconds=int(self.clock.now() - self.started_s),
        )

    async def GetVideoFrame(self, request: pb.GetVideoFrameRequest, context: Context) -> pb.GetVideoFrameResponse:
        requests.check_video_frame(request)
        request_context.avatar_id.set(request.model_name)
        check_avatar(request.model_name)
        frames, loop = self._frames, asyncio.get_running_loop()

        async def shown(composer: AvatarComposer) -> bytes:
            check_within_clip(composer.avatar, [request.frame_id], field="frame_id")
            show = partial(video_frame, composer, request.frame_id, request.video_type, quality=frames.output.quality)
            return await loop.run_in_executor(self.pictures.maker.pool, show)

        async with within_deadline(context, limit_s=LONGEST_CALL_S):
            picture = await frames.run(request.model_name, shown)
        return pb.GetVideoFrameResponse(
            success=True, frame_data=picture, frame_id=request.frame_id, video_type=request.video_type
        )

    async def GetModelMetadata(self, request: pb.GetModelMetadataRequest, context: Context) -> pb.GetModelMetadataResponse:
        requests.check_name(request.model_name)
        check_avatar(request.model_name)
        with as_service_errors(AvatarError, field="model_name"):
            avatar = await asyncio.to_thread(self._catalog.get, request.model_name)
        return pb.GetModelMetadataResponse(
            success=True,
            model_name=avatar.id,
            frame_count=avatar.frame_count,
            available_videos=VIDEO_TYPES,
            audio_path=self._catalog.shown(avatar.features_path) if avatar.features_path else "",
            bounds=_bounds(avatar.rects[0]),
        )

    @property
    def _catalog(self) -> AvatarCatalog:
        return self.pictures.admin.catalog

    @property
    def _frames(self) -> FrameRequests:
        return FrameRequests(self.pictures, self.limits.max_batch_size)

    @property
    def _max_heard_frames(self) -> int:
        """As many as the limits of the inference half's EncodeAudio allow."""
        pieces = int(self.limits.max_audio_seconds * FRAME_RATE) - requests.PIECES_BEFORE - requests.PIECES_AFTER
        return min(requests.MAX_FRAMES, pieces, self.limits.max_feature_rows - requests.PIECES_BEFORE - requests.PIECES_AFTER)

    async def _of_clip(
        self, avatar_id: str, frame_ids: Sequence[int], context: Context, *, field: str
    ) -> pb.BatchInferenceResponse:
        """Makes frames with the features stored with the avatar."""
        started = perf_counter()

        async def hear(_: Avatar) -> Speech:
            return StoredFeatures()

        async with within_deadline(context, limit_s=LONGEST_CALL_S) as deadline:
            made = await self._frames.make(avatar_id, frame_ids, hear, deadline, indices_of=field)
        return self._reply(avatar_id, frame_ids, made, started)

    async def _rows(self, heard: requests.HeardFrames, deadline: Deadline, avatar: Avatar) -> Rows:
        rows = await self.pictures.source.rows(
            heard.sound,
            first_row=heard.first_row,
            count=heard.row_count,
            avatar_id=avatar.id,
            avatar_version=avatar.version,
            deadline=deadline,
        )
        return heard.completed(rows)

    def _reply(self, avatar_id: str, frame_ids: Sequence[int], made: MadeFrames, started: float) -> pb.BatchInferenceResponse:
        total_ms = ms_since(started)
        count = len(made.frames)
        sound_ms = made.speech.audio_ms if isinstance(made.speech, Rows) else 0.0
        optimizations = _optimizations(made.composer, maps_features=isinstance(made.speech, StoredFeatures))
        use = self.uses.setdefault(avatar_id, Use())

        def response(frame_id: int, frame: Frame) -> pb.OptimizedInferenceResponse:
            use.add(frame.times.inference_ms)
            return pb.OptimizedInferenceResponse(
                success=True,
                prediction_data=frame.picture,
                bounds=_bounds(made.composer.avatar.rects[frame.index]),
                processing_time_ms=round(total_ms / count),
                model_name=avatar_id,
                frame_id=frame_id,
                prediction_shape=PREDICTION_SHAPE,
                prepare_time_ms=frame.times.queue_ms + (sound_ms + frame.times.audio_ms) / count,
                inference_time_ms=frame.times.inference_ms,
                composite_time_ms=frame.times.composite_ms,
                optimizations=optimizations,
            )

        return pb.BatchInferenceResponse(
            responses=map(response, frame_ids, made.frames),
            total_processing_time_ms=round(total_ms),
            avg_frame_time_ms=total_ms / count,
        )


def _decoded(data: bytes) -> pb.OptimizedInferenceRequest:
    try:
        return pb.OptimizedInferenceRequest.FromString(data)
    except Exception:
        raise InvalidRequest([Violation("", "the message cannot be decoded: it is no OptimizedInferenceRequest")]) from None


def _package(request: pb.LoadPackageRequest) -> tuple[str, str]:
    """Returns the id of the avatar, and the field that names it. Paths may be of any system."""
    parts = re.split(r"[/\\]+", request.package_dir.rstrip("/\\"))
    return (parts[-1], "package_dir") if parts[-1] else (request.package_name, "package_name")


def _optimizations(composer: AvatarComposer | None, *, maps_features: bool) -> list[str]:
    """Names the work that is saved for frames of this avatar."""
    saved = {"memory_mapped_features": maps_features, "spliced_jpeg": composer is not None and composer.restart_interval > 0}
    return [name for name, is_so in saved.items() if is_so]


def _bounds(rect: Rect) -> list[float]:
    return [rect.x1, rect.y1, rect.x2, rect.y2]
