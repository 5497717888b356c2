"""The compositing service under test, before an inference service that does as told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest

from avatar_kit.geometry import Paste
from avatar_kit.timeline import FrameRange, IdleMouth, Loop
from avatar_kit.writer import AvatarWriter
from compositing_service.service import compositing_service
from compositing_service.settings import CompositingSettings
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.life import RunningService
from service_kit.settings import load_settings
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from ..violations import violations_of
from .fake_inference import FRAMES, HEIGHT, WIDTH, FakeInference, background, rect_of


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
        return cls(
            error.code(),
            error.details() or "",
            dict(violations_of(error)),
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
