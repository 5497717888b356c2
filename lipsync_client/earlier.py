"""The asyncio client of the earlier direct server's service, for those who hand its answers on to clients of that time.

Everybody else asks `AsyncClient`, which has more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Protocol, Self, TypeVar

from lipsync_client.aio_calls import Method, Sent, close_channel, open_channel
from lipsync_client.calls import Call, Request, Response, Result
from lipsync_client.headers import ApiKey, Headers, Metadata, checked_key
from lipsync_client.results import check_success
from lipsync_client.retrying import Retries
from lipsync_client.tls import TlsOptions
from shared_proto import optimized_lipsyncsrv_pb2 as pb
from shared_proto.optimized_lipsyncsrv_pb2_grpc import OptimizedLipSyncServiceStub


@dataclass(frozen=True, slots=True)
class ClipFrame:
    """A picture of an avatar's clip with the mouth that was asked for.

    `bounds` are x1, y1, x2, y2 of the mouth in the picture, in pixels. The times are the server's, in ms.
    """

    jpeg: bytes = field(repr=False)
    frame_id: int
    bounds: tuple[float, ...]
    shape: str
    """Shape of the network's answer, "320x320x3"."""
    processing_ms: int
    prepare_ms: float
    inference_ms: float
    composite_ms: float


@dataclass(frozen=True, slots=True)
class ClipMetadata:
    """An avatar as the earlier server described it. `bounds` are of its first picture; `audio_path` is "" without features."""

    avatar: str
    frame_count: int
    video_types: tuple[str, ...]
    audio_path: str
    bounds: tuple[float, ...]


class EarlierClient:
    """Client of `optimized_lipsyncsrv.OptimizedLipSyncService`, as far as the compositing service serves it.

    It holds one connection; make and use it inside one running event loop. Deadlines, retries, keepalive and errors are those of
    `AsyncClient`; `timeout` is of every call, in seconds.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: TlsOptions | None = None,
        api_key: ApiKey = None,
        timeout: float = 30.0,
        max_message_mb: int = 100,
    ) -> None:
        self._channel = open_channel(target, tls, max_message_mb=max_message_mb)
        self._stub = OptimizedLipSyncServiceStub(self._channel)
        self._retries = Retries()
        self._timeout = timeout
        self._headers = Headers(api_key=checked_key(api_key))

    def with_metadata(self, more: Metadata) -> Self:
        """Returns this client, on the same connection, with further metadata for its calls. Close the first one."""
        same = copy(self)
        same._headers = replace(self._headers, more=more)
        return same

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection; calls under way are cancelled."""
        self._retries.close()
        await close_channel(self._channel)

    async def frame(self, avatar: str, frame_id: int) -> ClipFrame:
        """Makes the frame of picture `frame_id`, as it says what its clip says there. Raises LipsyncError.

        The avatar must have stored features. Raises ValueError for a number over 32 bits.
        """
        request = pb.OptimizedInferenceRequest(model_name=avatar, frame_id=frame_id)
        return await self._run(self._stub.GenerateInference, request, lambda reply: _frame(_made(reply)))

    async def spoken_frame(self, avatar: str, frame_id: int, pieces: Sequence[bytes]) -> ClipFrame:
        """Makes the frame at position `frame_id` of the avatar's timeline, from sound. Raises LipsyncError.

        `pieces` are 16 of 640 float32 samples, little endian, mono, 16 kHz; number 8, counted from 0, is heard with the frame.
        Raises ValueError for a number over 32 bits.
        """
        request = pb.BatchInferenceWithAudioRequest(
            model_name=avatar, start_frame_id=frame_id, frame_count=1, audio_chunks=pieces
        )
        return await self._run(self._stub.GenerateBatchWithAudio, request, lambda reply: _frame(_made(reply.responses[0])))

    async def picture(self, avatar: str, frame_id: int, video_type: str) -> bytes:
        """Returns a picture of the clip, or the part of it that its network sees, as a JPEG file. Raises LipsyncError.

        `video_type`: full_body, crops_328, model_inputs, rois_320, face_regions or masked_regions.
        """
        request = pb.GetVideoFrameRequest(model_name=avatar, frame_id=frame_id, video_type=video_type)
        return await self._run(self._stub.GetVideoFrame, request, lambda reply: _made(reply).frame_data)

    async def metadata(self, avatar: str) -> ClipMetadata:
        """Describes an avatar. Raises LipsyncError."""
        request = pb.GetModelMetadataRequest(model_name=avatar)
        return await self._run(self._stub.GetModelMetadata, request, lambda reply: _metadata(_made(reply)))

    async def _run(self, method: Method[Request, Response], request: Request, parse: Callable[[Response], Result]) -> Result:
        headers = self._headers.of_call(getattr(request, "model_name", ""))
        return await Sent(method, Call(request, parse, self._timeout, headers), self._retries).result()


class _Reply(Protocol):
    success: bool
    error: str


R = TypeVar("R", bound=_Reply)


def _made(reply: R) -> R:
    """Returns a reply that tells no failure. Raises LipsyncError for others: servers of that time failed so."""
    check_success(success=reply.success, error=reply.error)
    return reply


def _frame(reply: pb.OptimizedInferenceResponse) -> ClipFrame:
    return ClipFrame(
        jpeg=reply.prediction_data,
        frame_id=reply.frame_id,
        bounds=tuple(reply.bounds),
        shape=reply.prediction_shape,
        processing_ms=reply.processing_time_ms,
        prepare_ms=reply.prepare_time_ms,
        inference_ms=reply.inference_time_ms,
        composite_ms=reply.composite_time_ms,
    )


def _metadata(reply: pb.GetModelMetadataResponse) -> ClipMetadata:
    return ClipMetadata(
        avatar=reply.model_name,
        frame_count=reply.frame_count,
        video_types=tuple(reply.available_videos),
        audio_path=reply.audio_path,
        bounds=tuple(reply.bounds),
    )
