"""Replies of the compositing API, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from operator import add

import grpc

from lipsync_client.errors import LipsyncError
from lipsync_client.requests import Output
from shared_proto import compositing_pb2 as pb


@dataclass(frozen=True, slots=True)
class Timings:
    """The parts of the server's time, in ms. The first three are sums over parts that may have run at the same time."""

    inference_ms: float = 0.0
    composite_ms: float = 0.0
    audio_ms: float = 0.0
    total_ms: float = 0.0
    load_ms: float = 0.0

    def __add__(self, other: Timings) -> Timings:
        return Timings(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames that follow each other on the avatar's timeline.

    `frames` are JPEG files, or BGR bytes of `height` x `width` x 3; `indices` are the indices of the avatar's pictures that they
    were made from; `start_frame` is the timeline position of the first, `next_start_frame` the one to continue from without a
    jump; `width` and `height` are 0 from servers that do not send them.
    """

    frames: list[bytes] = field(repr=False)
    indices: list[int] = field(repr=False)
    start_frame: int
    next_start_frame: int
    output: Output
    width: int
    height: int
    timings: Timings
    loaded_avatar: bool
    gpu_id: int


@dataclass(frozen=True, slots=True)
class AvatarStats:
    """Use of an avatar since it was loaded."""

    usage_count: int
    last_used_unix_ms: int
    loaded_unix_ms: int
    total_inference_ms: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class AvatarInfo:
    """An avatar that the server knows. `error` says why it cannot be served; it is empty when it can."""

    id: str
    loaded: bool
    frame_count: int
    width: int
    height: int
    fps: float
    error: str
    stats: AvatarStats


@dataclass(frozen=True, slots=True)
class ServerStats:
    """The loaded avatars, and the limits for more. A limit of 0 means none."""

    avatars: list[AvatarInfo]
    loaded_avatars: int
    max_avatars: int
    memory_bytes: int
    max_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """The time of a load, 0 when the avatar was loaded already."""

    load_ms: float
    stats: AvatarStats


@dataclass(frozen=True, slots=True)
class Health:
    """State of the compositing service and of the inference service behind it."""

    healthy: bool
    inference_healthy: bool
    inference_url: str
    loaded_avatars: int
    max_avatars: int
    version: str


@dataclass(frozen=True, slots=True)
class RunningSession:
    """A live session of one replica. Times are in milliseconds."""

    id: str
    avatar: str
    running_ms: int
    speech_ms: int
    """Sound shown."""
    frames: int
    late_frames: int
    """Frames that left 40 ms or more after their time."""
    stalls: int
    """Times that a segment's sound ran out."""
    buffered_ms: int
    speaking: bool
    meets_realtime: bool
    """No frame was late in the last five seconds."""


OUTPUTS: Mapping[int, Output] = {pb.FORMAT_UNSET: "jpeg", pb.FORMAT_JPEG: "jpeg", pb.FORMAT_RAW_BGR: "raw"}


def parse_batch(request: pb.CompositeBatchRequest, response: pb.CompositeBatchResponse) -> Batch:
    """Reads a batch. Raises LipsyncError for missing frames, and for a failure inside an OK reply, as older servers send it."""
    check_success(success=response.success, error=response.error)
    frames = list(response.composited_frames)
    if len(frames) != request.batch_size:
        raise LipsyncError(grpc.StatusCode.INTERNAL, f"the server sent {len(frames)} frames, not {request.batch_size}")
    return Batch(
        frames=frames,
        indices=list(response.frame_indices),
        start_frame=request.start_frame_idx,
        # Servers of the old contract send neither field; their frames always follow the timeline.
        next_start_frame=(
            response.next_start_frame_idx if response.frame_indices else request.start_frame_idx + request.batch_size
        ),
        output=OUTPUTS.get(response.output_format, "jpeg"),
        width=response.width,
        height=response.height,
        timings=Timings(
            inference_ms=response.inference_time_ms,
            composite_ms=response.composite_time_ms,
            audio_ms=response.audio_processing_ms,
            total_ms=response.total_time_ms,
            load_ms=response.model_load_time_ms,
        ),
        loaded_avatar=response.model_loaded,
        gpu_id=response.gpu_id,
    )


def check_success(*, success: bool, error: str) -> None:
    """Raises LipsyncError for the failure that servers of the old contract report inside an OK reply."""
    if not success:
        raise LipsyncError(grpc.StatusCode.UNKNOWN, error or "the server reported failure without a reason")


def parse_avatars(response: pb.ListModelsResponse) -> list[AvatarInfo]:
    """Reads the avatars that the server knows."""
    return [_avatar(model) for model in response.models]


def parse_loaded(response: pb.LoadModelResponse) -> Loaded:
    """Reads the reply to a load. Raises LipsyncError for a failure inside an OK reply."""
    check_success(success=response.success, error=response.error)
    return Loaded(load_ms=response.load_time_ms, stats=_avatar_stats(response.stats))


def parse_unloaded(response: pb.UnloadModelResponse) -> None:
    """Checks the reply to an unload. Raises LipsyncError for a failure inside an OK reply."""
    check_success(success=response.success, error=response.error)


def parse_stats(response: pb.GetModelStatsResponse) -> ServerStats:
    """Reads loaded avatars and limits."""
    return ServerStats(
        avatars=[_avatar(model) for model in response.models],
        loaded_avatars=response.loaded_models,
        max_avatars=response.max_models,
        memory_bytes=response.total_memory_bytes,
        max_memory_bytes=response.max_memory_bytes,
    )


def parse_health(response: pb.HealthResponse) -> Health:
    """Reads the state of both services."""
    return Health(
        healthy=response.healthy,
        inference_healthy=response.inference_server_healthy,
        inference_url=response.inference_server_url,
        loaded_avatars=response.loaded_models,
        max_avatars=response.max_models,
        version=response.version,
    )


def parse_sessions(response: pb.ListSessionsResponse) -> list[RunningSession]:
    """Reads the running sessions."""
    return [
        RunningSession(
            id=session.session_id,
            avatar=session.model_id,
            running_ms=session.running_ms,
            speech_ms=session.speech_ms,
            frames=session.frames,
            late_frames=session.late_frames,
            stalls=session.stalls,
            buffered_ms=session.buffered_ms,
            speaking=session.speaking,
            meets_realtime=session.meets_realtime,
        )
        for session in response.sessions
    ]


def parse_ended(response: pb.EndSessionResponse) -> int:
    """Reads the number of sessions that were ended."""
    return response.ended


def _avatar(model: pb.ModelInfo) -> AvatarInfo:
    return AvatarInfo(
        id=model.model_id,
        loaded=model.loaded,
        frame_count=model.frame_count,
        width=model.width,
        height=model.height,
        fps=model.fps,
        error=model.error,
        stats=_avatar_stats(model.stats),
    )


def _avatar_stats(stats: pb.ModelStats) -> AvatarStats:
    return AvatarStats(
        usage_count=stats.usage_count,
        last_used_unix_ms=stats.last_used_unix_ms,
        loaded_unix_ms=stats.loaded_unix_ms,
        total_inference_ms=stats.total_inference_time_ms,
        memory_bytes=stats.memory_bytes,
    )
