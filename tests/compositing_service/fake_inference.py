"""An inference service that does as a test says, and the avatar that it knows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from grpc_health.v1.health import aio as health_aio
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from numpy.typing import NDArray

from avatar_kit.geometry import Rect
from shared_proto import inference_pb2
from shared_proto.inference_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server

WIDTH, HEIGHT, FRAMES = 200, 160, 5
ROW_BYTES, WINDOW_BYTES = 2048, 32_768
SILENCE = 9
GROUP = 4
Regions = AsyncIterator[inference_pb2.MouthRegion]
Behaviour = Callable[[inference_pb2.InferBatchRequest, "Any"], Regions]


def rect_of(index: int) -> Rect:
    return Rect(40 + 8 * (index % 8), 30, 140 + 8 * (index % 8), 130)


def background(index: int) -> NDArray[np.uint8]:
    return np.random.default_rng(index).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


def colour(request: inference_pb2.InferBatchRequest, k: int) -> tuple[int, int, int]:
    """The marks of frame `k`'s mouth: its picture, its place in the sound, the sound's own number."""
    if request.visual_frames:
        pictures = np.frombuffer(request.visual_frames, "<f4").reshape(-1, 6 * 320 * 320)
        picture = int(pictures[min(k, len(pictures) - 1), 0])
    else:
        picture = request.frame_indices[k]
    if request.raw_audio:
        return picture, request.lead_in_frames + k, request.raw_audio[0]
    if request.feature_rows:
        return picture, 0, int(np.frombuffer(request.feature_rows, "<f4")[k * 512])
    windows = np.frombuffer(request.audio_features, "<f4").reshape(-1, 8192)
    return picture, 0, int(windows[min(k, len(windows) - 1), 0])


def region(request: inference_pb2.InferBatchRequest, first: int, count: int) -> inference_pb2.MouthRegion:
    mouths = np.empty((count, 320, 320, 3), np.uint8)
    for k in range(count):
        mouths[k] = colour(request, first + k)
    return inference_pb2.MouthRegion(
        first_frame=first,
        frame_count=count,
        data=mouths.tobytes(),
        mouth_format=inference_pb2.UINT8_BGR,
        inference_time_ms=2.0,
        audio_processing_ms=1.5,
        gpu_id=3,
    )


async def fine(request: inference_pb2.InferBatchRequest, _: Any, *, until: int | None = None) -> Regions:
    end = request.batch_size if until is None else until
    for first in range(0, end, GROUP):
        yield region(request, first, min(GROUP, end - first))


async def hang(request: inference_pb2.InferBatchRequest, _: Any) -> Regions:
    """One frame, and then nothing."""
    yield region(request, 0, 1)
    await asyncio.Event().wait()


def refuse(code: grpc.StatusCode, message: str = "as told", *, after: int = 0, trailing: Any = ()) -> Behaviour:
    """Some frames, then a status."""

    async def behave(request: inference_pb2.InferBatchRequest, context: Any) -> Regions:
        async for each in fine(request, context, until=after):
            yield each
        await context.abort(code, message, trailing_metadata=trailing)

    return behave


def send(*messages: Callable[[inference_pb2.InferBatchRequest], inference_pb2.MouthRegion]) -> Behaviour:
    """Exactly these messages, each made from the request."""

    async def behave(request: inference_pb2.InferBatchRequest, _: Any) -> Regions:
        for message in messages:
            yield message(request)

    return behave


@dataclass
class Call:
    request: inference_pb2.InferBatchRequest
    metadata: dict[str, str]
    time_remaining: float


class FakeInference(InferenceServiceServicer):
    """Does as `script` says, one behaviour a call, then `fine`. Survives being stopped and started on the same port."""

    def __init__(self) -> None:
        self.script: deque[Behaviour] = deque()
        self.calls: list[Call] = []
        self.encoded: list[inference_pb2.EncodeAudioRequest] = []
        self.called = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.loaded: set[str] = set()
        self.known = {"demo"}
        self.refuse_models_with: grpc.StatusCode | None = None
        self.healthy = True
        self.health_asked = 0
        self.port = 0
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 100 << 20)])
        add_InferenceServiceServicer_to_server(self, self._server)
        self.health = health_aio.HealthServicer()
        add_HealthServicer_to_server(self.health, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    async def InferStream(self, request, context):
        self.calls.append(Call(request, dict(context.invocation_metadata()), context.time_remaining()))
        self.called.set()
        behaviour = self.script.popleft() if self.script else fine
        try:
            async for message in behaviour(request, context):
                yield message
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def EncodeAudio(self, request, context):
        """Rows whose mouths have the colour of silence."""
        assert not any(request.raw_audio)
        self.encoded.append(request)
        return inference_pb2.EncodeAudioResponse(feature_rows=np.full((request.row_count, 512), SILENCE, "<f4").tobytes())

    async def LoadModel(self, request, context):
        await self._check(request.model_id, context)
        self.loaded.add(request.model_id)
        return inference_pb2.LoadModelResponse(success=True, load_time_ms=5)

    async def UnloadModel(self, request, context):
        await self._check(request.model_id, context)
        self.loaded.discard(request.model_id)
        return inference_pb2.UnloadModelResponse(success=True)

    async def Health(self, request, context):
        self.health_asked += 1
        return inference_pb2.HealthResponse(healthy=self.healthy)

    async def _check(self, model_id, context):
        if self.refuse_models_with is not None:
            await context.abort(self.refuse_models_with, "refused as told")
        if model_id not in self.known:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no avatar {model_id}")
