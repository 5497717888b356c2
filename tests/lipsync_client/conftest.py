"""A real compositing server on loopback whose answers a test scripts, and both faces of the client to call it with."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from lipsync_client import AsyncClient, Client
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceServicer, add_CompositingServiceServicer_to_server

from .. import grpc_servers

Trailing = tuple[tuple[str, str | bytes], ...]
Reply = Callable[[pb.CompositeBatchRequest, grpc.ServicerContext], pb.CompositeBatchResponse]


def answer(request: pb.CompositeBatchRequest, _: object = None) -> pb.CompositeBatchResponse:
    """One picture a frame, each naming its timeline position."""
    positions = range(request.start_frame_idx, request.start_frame_idx + request.batch_size)
    return pb.CompositeBatchResponse(
        success=True,
        composited_frames=[str(position).encode() for position in positions],
        frame_indices=[position % 7 for position in positions],
        inference_time_ms=1.5,
        composite_time_ms=2.5,
        audio_processing_ms=0.5,
        total_time_ms=4.0,
        output_format=request.output_format,
        width=64,
        height=48,
        gpu_id=-1,
        next_start_frame_idx=positions.stop + 70,
    )


@dataclass
class ScriptedService(CompositingServiceServicer):
    """Takes the next scripted reply for each batch, `answer` when there is none left; remembers what arrived."""

    script: deque[Reply] = field(default_factory=deque)
    requests: list[pb.CompositeBatchRequest] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    seconds_left: dict[str, float | None] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    target: str = ""

    answer = staticmethod(answer)

    def fail(self, code: grpc.StatusCode, message: str = "scripted", *, times: int = 1, trailing: Trailing = ()) -> None:
        """Scripts `times` failures."""

        def reply(_: pb.CompositeBatchRequest, context: grpc.ServicerContext) -> pb.CompositeBatchResponse:
            context.set_trailing_metadata(trailing)
            context.abort(code, message)
            raise AssertionError

        self.script.extend([reply] * times)

    def _note(self, rpc: str, context: grpc.ServicerContext) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        self.seconds_left[rpc] = context.time_remaining()

    def InferBatchComposite(self, request, context):
        with self.lock:
            self.requests.append(request)
            self._note("InferBatchComposite", context)
            reply = self.script.popleft() if self.script else answer
        return reply(request, context)

    def ListModels(self, request, context):
        self._note("ListModels", context)
        stats = pb.ModelStats(usage_count=3, last_used_unix_ms=4, total_inference_time_ms=5.5, memory_bytes=6, loaded_unix_ms=7)
        good = pb.ModelInfo(model_id="demo", loaded=True, frame_count=200, width=1280, height=720, fps=25.0, stats=stats)
        return pb.ListModelsResponse(models=[good, pb.ModelInfo(model_id="torn", error="frame 3 is missing")])

    def LoadModel(self, request, context):
        self._note("LoadModel", context)
        if request.model_id == "old-style":
            return pb.LoadModelResponse(success=False, error="the disk is full")
        return pb.LoadModelResponse(success=True, load_time_ms=12.5 if request.force_reload else 0.0)

    def UnloadModel(self, request, context):
        self._note("UnloadModel", context)
        return pb.UnloadModelResponse(
            success=request.model_id == "demo", error="" if request.model_id == "demo" else "no such avatar"
        )

    def GetModelStats(self, request, context):
        self._note("GetModelStats", context)
        models = [pb.ModelInfo(model_id=request.model_id or "demo", loaded=True)]
        return pb.GetModelStatsResponse(
            models=models, max_models=8, loaded_models=1, total_memory_bytes=100 << 20, max_memory_bytes=1 << 33
        )

    def Health(self, request, context):
        self._note("Health", context)
        return pb.HealthResponse(
            healthy=True,
            inference_server_healthy=False,
            loaded_models=1,
            max_models=8,
            version="0.1.0",
            inference_server_url="i:50051",
        )


@contextmanager
def serving(service: ScriptedService) -> Iterator[ScriptedService]:
    """Runs `service` on a free port and notes its address in `service.target`."""
    with grpc_servers.serving(add_CompositingServiceServicer_to_server, service) as service.target:
        yield service


@pytest.fixture
def service() -> Iterator[ScriptedService]:
    """A running server; `service.target` is its address."""
    with serving(ScriptedService()) as running:
        yield running


@pytest.fixture
def other_service() -> Iterator[ScriptedService]:
    """A second one."""
    with serving(ScriptedService()) as running:
        yield running


async def _collected(result: Any) -> Any:
    return [item async for item in result] if isinstance(result, AsyncIterator) else await result


class Face:
    """Runs one action on a fresh client and returns its result; iterators come back as lists."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, target: str, action: Callable[[Any], Any], **options: Any) -> Any:
        return (
            asyncio.run(self._asyncio(target, action, options))
            if self.name == "asyncio"
            else self._blocking(target, action, options)
        )

    async def _asyncio(self, target: str, action: Callable[[Any], Any], options: Any) -> Any:
        async with AsyncClient(target, **options) as client:
            return await _collected(action(client))

    def _blocking(self, target: str, action: Callable[[Any], Any], options: Any) -> Any:
        with Client(target, **options) as client:
            result = action(client)
            return list(result) if isinstance(result, Iterator) else result


@pytest.fixture(params=["blocking", "asyncio"])
def face(request: pytest.FixtureRequest) -> Face:
    return Face(request.param)
