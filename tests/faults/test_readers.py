"""Callers of the inference service that read nothing, and one who does."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import grpc

from inference_service.readers import STALLED_SECONDS
from shared_proto import inference_pb2 as pb
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from ..end_to_end.conftest import CALL_S
from ..end_to_end.processes import assert_no_trace, running, until
from .conftest import SOUND
from .http2 import RawCaller, message

PLACES = 4


async def test_readers_that_read_nothing_lose_their_places(models_root: Path, tmp_path: Path) -> None:
    """A window of HTTP/2 that is never opened again holds less than a mouth."""
    asked = pb.InferBatchRequest(model_id="small", batch_size=20, raw_audio=SOUND).SerializeToString()
    own = pb.InferBatchRequest(model_id="small", batch_size=2, raw_audio=SOUND)
    with running("inference", f"models_root={models_root}", f"server.queue_size={PLACES}", log=tmp_path / "log") as service:
        async with AsyncExitStack() as stack:
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(service.address))
            innocent = InferenceServiceStub(channel).InferBatch
            wanted = await innocent(own, timeout=CALL_S)
            for _ in range(PLACES):
                reader = await stack.enter_async_context(RawCaller(service.address))
                await reader.open(1, "/inference.InferenceService/InferStream")
                await reader.send(1, message(asked), end=True)
            frames = 2 + 20 * PLACES
            await asyncio.to_thread(until, lambda: service.metric("lipsync_inference_frames_total") == frames)
            assert service.metric("lipsync_running_calls") == PLACES
            await asyncio.sleep(STALLED_SECONDS)  # only then do they count as reading nothing
            for _ in range(10):
                assert (await innocent(own, timeout=CALL_S)).outputs == wanted.outputs
            assert service.metric("lipsync_running_calls") == PLACES - 1, "one was given up, and its place is enough"
        assert_no_trace(service)
