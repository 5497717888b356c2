"""An inference service that is slow or hangs, and callers who wait no longer."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from compositing_service.metrics import CompositingMetrics
from compositing_service.mouth_source import RowsOrder, Sound
from compositing_service.upstream.inference_client import InferenceClient
from service_kit.deadline import Deadline
from service_kit.metrics import Metrics
from shared_proto import inference_pb2
from shared_proto.inference_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server

from ..allocated import allocated_bytes
from ..grpc_servers import serving
from .conftest import Running
from .fake_inference import Behaviour, FakeInference, fine, hang, refuse

Code = grpc.StatusCode


async def test_a_hanging_service_within_the_callers_deadline(service: Running, inference: FakeInference) -> None:
    inference.script.append(hang)
    refusal = await service.refusal(service.composite(timeout=1.0))
    assert refusal.code is Code.DEADLINE_EXCEEDED
    await asyncio.wait_for(inference.cancelled.wait(), 60)
    # Handed on, with a margin for the answer's way back.
    assert inference.calls[0].time_remaining < 1.0
    assert (await service.composite()).success


async def test_a_hanging_service_within_our_own_limit(serve: Any, inference: FakeInference) -> None:
    inference.script.append(hang)
    async with serve("inference_server.timeout_seconds=0.2") as service:
        refusal = await service.refusal(service.composite(timeout=None))
    assert refusal.code is Code.DEADLINE_EXCEEDED
    assert "0.2 s" in refusal.message


def slowly(pause_s: float) -> Behaviour:
    """All frames, a group at a time, each after a pause."""

    async def behave(request: Any, context: Any) -> Any:
        async for each in fine(request, context):
            await asyncio.sleep(pause_s)
            yield each

    return behave


async def test_a_slow_service_that_goes_on_is_waited_for(serve: Any, inference: FakeInference) -> None:
    """Five groups take twice the limit together, each less than half of it."""
    inference.script.append(slowly(0.4))
    async with serve("inference_server.timeout_seconds=1") as service:
        assert len((await service.composite(batch_size=20)).composited_frames) == 20


async def test_retries_count_as_no_progress(serve: Any, inference: FakeInference) -> None:
    inference.script.extend([refuse(Code.UNAVAILABLE), hang])
    async with serve("inference_server.timeout_seconds=0.5") as service:
        refusal = await service.refusal(service.composite())
    assert refusal.code is Code.DEADLINE_EXCEEDED
    assert "0.5 s" in refusal.message


async def test_retries_stay_within_the_deadline(serve: Any) -> None:
    # Twenty retries would take nine seconds.
    async with serve("inference_server.url=127.0.0.1:1", "inference_server.max_retries=20") as service:
        refusal = await service.refusal(service.composite(timeout=2.0))
    # On a busy machine the last try may end behind the caller's time.
    told = {Code.UNAVAILABLE: "cannot be reached", Code.DEADLINE_EXCEEDED: "the time for this request is over"}
    assert told[refusal.code] in refusal.message


async def test_a_caller_that_gives_up_cancels_the_inference_call(service: Running, inference: FakeInference) -> None:
    inference.script.append(hang)
    call = asyncio.create_task(service.composite())
    await asyncio.wait_for(inference.called.wait(), 60)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(inference.cancelled.wait(), 60)
    assert (await service.composite()).success


async def test_calls_that_are_given_up_leave_no_mouths_in_memory(service: Running, inference: FakeInference) -> None:
    """Each would leave the mouth that was on its way."""
    mouth = bytes(100 * 100 * 3)

    async def steadily(request: Any, _: Any) -> Any:
        for k in range(request.batch_size):
            size = {"frame_count": 1, "widths": [100], "heights": [100]}
            yield inference_pb2.MouthRegion(first_frame=k, **size, mouth_format=inference_pb2.UINT8_BGR, data=mouth)
            await asyncio.sleep(0.001)

    async def give_up(times: int) -> None:
        for _ in range(times):
            inference.script.append(steadily)
            asked = asyncio.create_task(service.composite(batch_size=50))
            await asyncio.sleep(0.03)
            asked.cancel()
            await asyncio.wait([asked])
        await asyncio.sleep(0.3)
        inference.calls.clear()
        gc.collect()

    await give_up(20)
    before = allocated_bytes()
    await give_up(100)
    assert allocated_bytes() - before < 100 * len(mouth) / 6


async def test_rows_on_their_way_to_a_caller_that_gives_up_are_freed() -> None:
    rows = bytes(1 << 20)
    sent = threading.Event()

    class Rows(InferenceServiceServicer):
        """Answers from a thread, so that the event loop can stand still meanwhile."""

        def EncodeAudio(self, request: Any, context: Any) -> Any:
            sent.set()
            return inference_pb2.EncodeAudioResponse(feature_rows=rows)

    async def give_up(source: InferenceClient) -> None:
        sent.clear()
        order = RowsOrder("demo", "", Sound(bytes(2560)), first_row=0, count=1)
        asked = asyncio.create_task(source.rows(order, deadline=Deadline.after(60)))
        assert await asyncio.to_thread(sent.wait, 60)
        threading.Event().wait(0.03)
        asked.cancel()
        await asyncio.wait([asked])

    with serving(add_InferenceServiceServicer_to_server, Rows()) as address:
        async with upstream(address) as source:
            for _ in range(5):
                await give_up(source)
            before = allocated_bytes()
            for _ in range(20):
                await give_up(source)
            await asyncio.sleep(0.3)
            assert allocated_bytes() - before < 5 * len(rows)


@asynccontextmanager
async def upstream(target: str) -> AsyncIterator[InferenceClient]:
    source = InferenceClient([target], timeout_s=60, max_retries=0, max_frames=50, metrics=CompositingMetrics(Metrics()))
    try:
        yield source
    finally:
        await source.close()
