"""An inference service that is lost: calls are tried again, refused at last, and pass when it is back."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from shared_proto import compositing_pb2 as pb

from .conftest import Running, mouth_colours, upstream_errors
from .fake_inference import FakeInference, fine, refuse

Code = grpc.StatusCode
ROOT = Path(__file__).parents[2]
RAW = {"output_format": pb.FORMAT_RAW_BGR}


async def test_unavailable_twice_then_fine(service: Running, inference: FakeInference) -> None:
    inference.script.extend([refuse(Code.UNAVAILABLE), refuse(Code.UNAVAILABLE)])
    assert (await service.composite()).success
    assert len(inference.calls) == 3
    assert upstream_errors(service, Code.UNAVAILABLE) == 2
    assert service.metric("lipsync_compositing_inference_retries_total") == 2


async def test_retries_end(serve: Any, inference: FakeInference) -> None:
    inference.script.extend([refuse(Code.UNAVAILABLE)] * 5)
    async with serve("inference_server.max_retries=2") as service:
        refusal = await service.refusal(service.composite())
    assert refusal.code is Code.UNAVAILABLE
    assert len(inference.calls) == 3


async def test_the_missing_tail_is_asked_for_when_the_service_is_lost_in_mid_batch(
    service: Running, inference: FakeInference
) -> None:
    whole = await service.composite(batch_size=12, start_frame_idx=2, lead_in_frames=7, **RAW)
    inference.calls.clear()
    inference.script.extend([refuse(Code.UNAVAILABLE, after=8), refuse(Code.UNAVAILABLE)])
    patched = await service.composite(batch_size=12, start_frame_idx=2, lead_in_frames=7, **RAW)
    assert [call.request.batch_size for call in inference.calls] == [12, 4, 4]
    assert list(patched.composited_frames) == list(whole.composited_frames)
    assert [green for _, green, _ in mouth_colours(patched)] == list(range(7, 19))


@pytest.mark.parametrize("after", [0, 4])
async def test_a_service_that_is_stopped(service: Running, inference: FakeInference, after: int) -> None:
    async def stop(request: Any, context: Any) -> Any:
        async for each in fine(request, context, until=after):
            yield each
        stopping.append(asyncio.create_task(inference.stop()))
        await asyncio.Event().wait()

    stopping: list[asyncio.Task[None]] = []
    inference.script.append(stop)
    refusal = await service.refusal(service.composite(timeout=5))
    await asyncio.gather(*stopping)
    assert refusal.code is Code.UNAVAILABLE
    assert "127.0.0.1" not in refusal.message
    assert "try again" in refusal.message


async def test_never_there(serve: Any) -> None:
    async with serve("inference_server.url=127.0.0.1:1") as service:
        refusal = await service.refusal(service.composite())
    assert refusal.code is Code.UNAVAILABLE
    assert "inference service cannot be reached" in refusal.message
    assert "127.0.0.1" not in refusal.message


async def test_back_without_restart(service: Running, inference: FakeInference) -> None:
    await service.composite()
    await inference.stop()
    refusal = await service.refusal(service.composite())
    assert refusal.code is Code.UNAVAILABLE
    await inference.start()
    async with asyncio.timeout(60):
        while (outcome := await outcome_of(service)) is Code.UNAVAILABLE:
            pass
    assert outcome is Code.OK


async def outcome_of(service: Running) -> Code:
    try:
        await service.composite()
    except grpc.aio.AioRpcError as error:
        return error.code()
    return Code.OK


DYING = """
import asyncio, os, sys
import grpc
from shared_proto import inference_pb2
from shared_proto.inference_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server

class Dying(InferenceServiceServicer):
    async def InferStream(self, request, context):
        for first in range(request.batch_size):
            if first == int(sys.argv[2]):
                os.kill(os.getpid(), 9)
            data = bytes(320 * 320 * 3)
            yield inference_pb2.MouthRegion(first_frame=first, frame_count=1, data=data, mouth_format=inference_pb2.UINT8_BGR)

async def main():
    server = grpc.aio.server()
    add_InferenceServiceServicer_to_server(Dying(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()

asyncio.run(main())
"""


async def test_a_process_killed_in_mid_batch_and_back(service: Running, inference: FakeInference) -> None:
    await inference.stop()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DYING, str(inference.port), "3", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    async with asyncio.timeout(60):
        while process.returncode is None:  # the first calls may be refused because the connection is still being made
            assert await outcome_of(service) is Code.UNAVAILABLE
    assert process.returncode == -9
    await inference.start()
    async with asyncio.timeout(60):
        while (outcome := await outcome_of(service)) is Code.UNAVAILABLE:
            pass
    assert outcome is Code.OK
