"""Callers that read nothing, and one who does."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import grpc
import pytest

from inference_service.readers import STALLED_SECONDS
from shared_proto import compositing_pb2
from shared_proto import inference_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from ..end_to_end.conftest import CALL_S
from ..end_to_end.processes import assert_no_trace, resident_mb, running, until
from .conftest import IDLE, NOWHERE, SOUND
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


async def test_replies_that_nobody_takes_are_bounded(models_root: Path, tmp_path: Path) -> None:
    """Each call of such a reader would keep a whole reply: small ones are still given, and large ones again once it has gone."""
    large = compositing_pb2.CompositeBatchRequest(
        model_id="calm", batch_size=16, idle=True, output_format=compositing_pb2.FORMAT_RAW_BGR
    )
    limits = ["server.max_message_size_mb=8", "server.max_replies_in_memory_mb=16"]
    with running("compositing", f"models_root={models_root}", NOWHERE, *limits, log=tmp_path / "log") as service:
        async with grpc.aio.insecure_channel(service.address, (("grpc.max_receive_message_length", -1),)) as channel:
            innocent = CompositingServiceStub(channel).InferBatchComposite
            size_mb = (await innocent(large, timeout=CALL_S)).ByteSize() / 2**20
            assert 5 < size_mb < 8
            before = resident_mb(service)
            async with RawCaller(service.address) as reader:
                streams = range(1, 101, 2)
                for stream in streams:
                    await reader.open(stream, "/compositing.CompositingService/InferBatchComposite")
                    await reader.send(stream, message(large.SerializeToString()), end=True)
                ended = [await reader.wait_for_the_end(stream, within_s=CALL_S) for stream in streams[-10:]]
                assert all(ended), "they are refused, and the others wait for a reader"
                assert resident_mb(service) - before < 12 * size_mb
                assert len((await innocent(IDLE, timeout=CALL_S)).composited_frames) == IDLE.batch_size
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await innocent(large, timeout=CALL_S)
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "have not taken" in str(caught.value.details())
            for _ in range(100):
                with suppress(grpc.aio.AioRpcError):
                    await innocent(large, timeout=CALL_S)
                    break
                await asyncio.sleep(0.1)
            await innocent(large, timeout=CALL_S)
        assert_no_trace(service)
