"""The real compositing service on a real socket, before an inference service that does as a test says.

Its mouths are of one colour each, which tells what the frame was asked to be made from, so a picture shows whether the right
mouth went into the right place.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1.health import aio as health_aio
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_status import rpc_status
from numpy.typing import NDArray

from avatar_kit.geometry import Paste, Rect
from avatar_kit.timeline import FrameRange, IdleMouth, Loop
from avatar_kit.writer import AvatarWriter
from compositing_service.service import compositing_service
from compositing_service.settings import CompositingSettings
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.life import RunningService
from service_kit.settings import load_settings
from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
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


@dataclass
class Refusal:
    """A status as a caller sees it."""

    code: grpc.StatusCode
    message: str
    fields: dict[str, str] = field(default_factory=dict)
    pushback: str | None = None
    fitting: str | None = None

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> Refusal:
        trailing = dict(error.trailing_metadata())
        fields: dict[str, str] = {}
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            bad_request = error_details_pb2.BadRequest()
            if detail.Unpack(bad_request):
                fields |= {violation.field: violation.description for violation in bad_request.field_violations}
        return cls(
            error.code(),
            error.details() or "",
            fields,
            trailing.get("grpc-retry-pushback-ms"),
            trailing.get("x-fitting-batch-size"),
        )


@dataclass
class Running:
    """The service under test, and a caller's stub."""

    server: RunningService[Any]
    stub: Any
    channel: grpc.aio.Channel

    async def composite(self, *, timeout: float | None = 30, metadata: Any = None, **fields: Any) -> pb.CompositeBatchResponse:
        request = pb.CompositeBatchRequest(**{"model_id": "demo", "batch_size": 6, **fields})
        if not (request.raw_audio or request.audio_features or request.feature_rows or request.idle):
            request.raw_audio = sound(request.batch_size if 0 < request.batch_size <= 50 else 6)
        return await self.stub.InferBatchComposite(request, timeout=timeout, metadata=metadata)

    async def refusal(self, call: Awaitable[Any]) -> Refusal:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        return Refusal.of(caught.value)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.server.metrics.registry.get_sample_value(name, labels)


def upstream_errors(service: Running, code: grpc.StatusCode) -> float:
    return service.metric("lipsync_compositing_inference_errors_total", code=code.name) or 0


def sound(frames: int) -> bytes:
    return np.zeros(640 * frames, "<f4").tobytes()


def mouth_colours(response: pb.CompositeBatchResponse) -> list[tuple[int, ...]]:
    """The colour of the mouth in each raw frame, having checked that all else is the background."""
    colours = []
    for frame, index in zip(response.composited_frames, response.frame_indices, strict=True):
        picture = np.frombuffer(frame, np.uint8).reshape(HEIGHT, WIDTH, 3)
        rect = rect_of(index)
        mouth = picture[rect.y1 : rect.y2, rect.x1 : rect.x2]
        colours.append(tuple(int(value) for value in mouth[0, 0]))
        expected = background(index)
        expected[rect.y1 : rect.y2, rect.x1 : rect.x2] = mouth[0, 0]
        np.testing.assert_array_equal(picture, expected)
    return colours


def write_avatar(
    root: Path,
    avatar_id: str,
    *,
    loop: Loop = Loop.BOUNCE,
    idle: FrameRange | None = None,
    idle_mouth: IdleMouth = IdleMouth.STORED,
    frames: int = FRAMES,
) -> None:
    """Writes one that is shown as stored while it does not speak, unless told otherwise."""
    writer = AvatarWriter(
        root, avatar_id, width=WIDTH, height=HEIGHT, loop=loop, paste=Paste.DIRECT, idle=idle, idle_mouth=idle_mouth
    )
    with writer:
        for index in range(frames):
            writer.add_frame(cv2.imencode(".png", background(index))[1].tobytes(), rect_of(index))
        writer.set_network(b"not looked at here")
        writer.finish()


@pytest.fixture
def models_root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    write_avatar(root, "demo")
    return root


@pytest.fixture
async def inference() -> AsyncIterator[FakeInference]:
    fake = FakeInference()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def serve(models_root: Path, inference: FakeInference) -> Callable[..., Any]:
    """Starts the service with overrides of its configuration: `async with serve("output.format=raw") as service`."""

    @asynccontextmanager
    async def start(*overrides: str, clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[Running]:
        settings = load_settings(
            CompositingSettings,
            config=None,
            environ={},
            overrides=[
                "server.port=127.0.0.1:0",
                "server.drain_seconds=0",
                "metrics.enabled=false",
                f"inference_server.url=127.0.0.1:{inference.port}",
                f"models_root={models_root}",
                "workers.threads=2",
                *overrides,
            ],
        )
        async with RunningService(compositing_service(settings), clock=clock) as server:
            options = [("grpc.max_receive_message_length", 100 << 20), ("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.address.port}", options=options) as channel:
                yield Running(server, CompositingServiceStub(channel), channel)

    return start


@pytest.fixture
async def service(serve: Callable[..., Any]) -> AsyncIterator[Running]:
    async with serve() as running:
        yield running
