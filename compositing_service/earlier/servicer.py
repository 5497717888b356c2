"""Serves single frames and pictures of clips, as the earlier direct server did. Interceptors turn errors into statuses."""

from __future__ import annotations

import asyncio
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
from compositing_service.earlier import requests
from compositing_service.earlier.frames import FrameRequests, MadeFrames, Speech, check_within_clip
from compositing_service.earlier.pictures import VIDEO_TYPES, video_frame
from compositing_service.frame_stream import Frame, ms_since
from compositing_service.mouth_source import Rows, RowsOrder, StoredFeatures
from compositing_service.parts import CompositingParts
from compositing_service.servicer import LONGEST_CALL_S
from service_kit import request_context
from service_kit.callers.caller import Scope, check_avatar
from service_kit.deadline import Deadline, within_deadline
from service_kit.errors import InvalidRequest, Unavailable, Violation, as_service_errors
from shared_proto import optimized_lipsyncsrv_pb2 as pb
from shared_proto.timing import FRAME_RATE

SERVICE_NAME = "optimized_lipsyncsrv.OptimizedLipSyncService"
PREDICTION_SHAPE = "320x320x3"
# Requests of one stream that are under way at the same time, so that their runs of the network can be shared.
STREAM_AHEAD = 8
# Pieces of sound around the frames of a request.
_PIECES_AROUND = requests.PIECES_BEFORE + requests.PIECES_AFTER

Context = grpc.aio.ServicerContext[Any, Any]
# The methods with one message each way, by what they take and give.
_UNARY: dict[str, tuple[Any, Any]] = {
    "GenerateInference": (pb.OptimizedInferenceRequest, pb.OptimizedInferenceResponse),
    "GenerateBatchInference": (pb.BatchInferenceRequest, pb.BatchInferenceResponse),
    "GenerateBatchWithAudio": (pb.BatchInferenceWithAudioRequest, pb.BatchInferenceResponse),
    "GetVideoFrame": (pb.GetVideoFrameRequest, pb.GetVideoFrameResponse),
    "GetModelMetadata": (pb.GetModelMetadataRequest, pb.GetModelMetadataResponse),
}
CLIP_SCOPES = {
    f"/{SERVICE_NAME}/{method}": Scope.READ if method == "GetModelMetadata" else Scope.INFER
    for method in (*_UNARY, "StreamInference")
}
"""The scope that a caller needs for each method."""


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


@dataclass(slots=True, eq=False)
class ClipServicer:
    """Serves the methods of optimized_lipsyncsrv.OptimizedLipSyncService that need the pictures and mouths of avatars alone."""

    pictures: CompositingParts
    draining: asyncio.Event
    max_batch_size: int
    """Frames of one order for mouths."""
    max_heard_frames: int
    """Frames of one request with sound."""
    uses: dict[str, Use] = field(default_factory=dict)
    """By avatar: only of those that frames were made of, so bounded."""

    def register(self, server: Any) -> None:
        """Adds the methods to a grpc.aio.Server that has not started; gRPC answers the service's others as unknown."""
        unary = {
            name: grpc.unary_unary_rpc_method_handler(
                getattr(self, name), request_deserializer=taken.FromString, response_serializer=given.SerializeToString
            )
            for name, (taken, given) in _UNARY.items()
        }
        server.add_registered_method_handlers(SERVICE_NAME, {**unary, "StreamInference": self.stream_handler()})

    def stream_handler(self) -> Any:
        """Returns the handler of StreamInference. It decodes its messages itself: gRPC would answer UNKNOWN to what it cannot."""
        return grpc.stream_stream_rpc_method_handler(
            self.StreamInference, response_serializer=pb.OptimizedInferenceResponse.SerializeToString
        )

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
        heard = await asyncio.to_thread(requests.read_heard_frames, request, max_frames=self.max_heard_frames)
        request_context.avatar_id.set(heard.avatar_id)
        check_avatar(heard.avatar_id)
        await self.pictures.quotas.batch(heard.avatar_id, heard.frame_count)
        positions = range(heard.start_position, heard.start_position + heard.frame_count)
        started = perf_counter()
        async with within_deadline(context, limit_s=LONGEST_CALL_S) as deadline:
            made = await self._frames.make(heard.avatar_id, positions, partial(self._rows, heard, deadline), deadline)
        return self._reply(heard.avatar_id, positions, made, started)

    async def StreamInference(
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
        return FrameRequests(self.pictures, self.max_batch_size)

    async def _of_clip(
        self, avatar_id: str, frame_ids: Sequence[int], context: Context, *, field: str
    ) -> pb.BatchInferenceResponse:
        """Makes frames with the features stored with the avatar."""
        await self.pictures.quotas.batch(avatar_id, len(frame_ids))
        started = perf_counter()

        async def hear(_: Avatar) -> Speech:
            return StoredFeatures()

        async with within_deadline(context, limit_s=LONGEST_CALL_S) as deadline:
            made = await self._frames.make(avatar_id, frame_ids, hear, deadline, indices_of=field)
        return self._reply(avatar_id, frame_ids, made, started)

    async def _rows(self, heard: requests.HeardFrames, deadline: Deadline, avatar: Avatar) -> Rows:
        order = RowsOrder(avatar.id, avatar.version, heard.sound, first_row=heard.first_row, count=heard.row_count)
        return heard.completed(await self.pictures.source.rows(order, deadline=deadline))

    def _reply(self, avatar_id: str, frame_ids: Sequence[int], made: MadeFrames, started: float) -> pb.BatchInferenceResponse:
        total_ms = ms_since(started)
        count = len(made.frames)
        sound_ms = made.speech.audio_ms if isinstance(made.speech, Rows) else 0.0
        saved = optimizations(made.composer, maps_features=isinstance(made.speech, StoredFeatures))
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
                optimizations=saved,
            )

        return pb.BatchInferenceResponse(
            responses=map(response, frame_ids, made.frames),
            total_processing_time_ms=round(total_ms),
            avg_frame_time_ms=total_ms / count,
        )


def most_heard_frames(max_audio_seconds: float) -> int:
    """Returns how many frames a request with so much sound can have."""
    return min(requests.MAX_FRAMES, int(max_audio_seconds * FRAME_RATE) - _PIECES_AROUND)


def _decoded(data: bytes) -> pb.OptimizedInferenceRequest:
    try:
        return pb.OptimizedInferenceRequest.FromString(data)
    except Exception:
        raise InvalidRequest([Violation("", "the message cannot be decoded: it is no OptimizedInferenceRequest")]) from None


def optimizations(composer: AvatarComposer | None, *, maps_features: bool) -> list[str]:
    """Names the work that is saved for frames of this avatar."""
    saved = {"memory_mapped_features": maps_features, "spliced_jpeg": composer is not None and composer.restart_interval > 0}
    return [name for name, is_so in saved.items() if is_so]


def _bounds(rect: Rect) -> list[float]:
    return [rect.x1, rect.y1, rect.x2, rect.y2]
