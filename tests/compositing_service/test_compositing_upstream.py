"""An inference service that is slow, hangs, dies, refuses or sends nonsense: what callers see, and that it passes."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2

from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2

from ..allocated import allocated_bytes
from .conftest import Behaviour, FakeInference, Running, fine, hang, mouth_colours, refuse, region, send

Code = grpc.StatusCode
ROOT = Path(__file__).parents[2]
RAW = {"output_format": pb.FORMAT_RAW_BGR}


def errors(service: Running, code: Code) -> float:
    return service.metric("lipsync_compositing_inference_errors_total", code=code.name) or 0


async def test_unavailable_twice_then_fine(service: Running, inference: FakeInference) -> None:
    inference.script.extend([refuse(Code.UNAVAILABLE), refuse(Code.UNAVAILABLE)])
    assert (await service.composite()).success
    assert len(inference.calls) == 3
    assert errors(service, Code.UNAVAILABLE) == 2
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


async def test_never_there(serve: Any) -> None:
    async with serve("inference_server.url=127.0.0.1:1") as service:
        refusal = await service.refusal(service.composite())
    assert refusal.code is Code.UNAVAILABLE
    assert "inference service cannot be reached" in refusal.message
    assert "127.0.0.1" not in refusal.message


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


def bad_request(*fields: str) -> tuple[tuple[str, bytes], ...]:
    violations = [error_details_pb2.BadRequest.FieldViolation(field=name, description="as told") for name in fields]
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.BadRequest(field_violations=violations))
    status = status_pb2.Status(code=Code.INVALID_ARGUMENT.value[0], message="as told", details=[detail])
    return (("grpc-status-details-bin", status.SerializeToString()),)


@pytest.mark.parametrize(
    ("behaviour", "code", "words", "fields", "pushback"),
    [
        pytest.param(
            refuse(Code.INVALID_ARGUMENT, trailing=bad_request("raw_audio", "lead_in_frames")),
            Code.INVALID_ARGUMENT,
            "as told",
            {"raw_audio", "lead_in_frames"},
            None,
            id="wrong fields of the caller's",
        ),
        pytest.param(refuse(Code.INVALID_ARGUMENT), Code.INVALID_ARGUMENT, "as told", set(), None, id="wrong without details"),
        pytest.param(refuse(Code.NOT_FOUND), Code.NOT_FOUND, "as told", set(), None, id="unknown there"),
        pytest.param(refuse(Code.FAILED_PRECONDITION), Code.FAILED_PRECONDITION, "as told", set(), None, id="broken there"),
        pytest.param(refuse(Code.ABORTED), Code.ABORTED, "as told", set(), None, id="lost a race"),
        pytest.param(
            refuse(Code.RESOURCE_EXHAUSTED, trailing=(("grpc-retry-pushback-ms", "250"),)),
            Code.RESOURCE_EXHAUSTED,
            "as told",
            set(),
            "250",
            id="queue full",
        ),
        pytest.param(
            refuse(Code.RESOURCE_EXHAUSTED, trailing=(("grpc-retry-pushback-ms", "-1"),)),
            Code.RESOURCE_EXHAUSTED,
            "as told",
            set(),
            "-1",
            id="too large",
        ),
        pytest.param(
            refuse(Code.RESOURCE_EXHAUSTED, after=4), Code.RESOURCE_EXHAUSTED, "as told", set(), "-1", id="in mid-batch"
        ),
        pytest.param(refuse(Code.DEADLINE_EXCEEDED), Code.DEADLINE_EXCEEDED, "more time", set(), None, id="its own deadline"),
        pytest.param(
            refuse(Code.INVALID_ARGUMENT, trailing=bad_request("frame_indices")),
            Code.FAILED_PRECONDITION,
            "different versions",
            set(),
            None,
            id="our indices are wrong there",
        ),
        pytest.param(
            refuse(Code.OUT_OF_RANGE),
            Code.FAILED_PRECONDITION,
            "different versions",
            set(),
            None,
            id="an index beyond its avatar",
        ),
        pytest.param(refuse(Code.INTERNAL, "/secret/path"), Code.INTERNAL, "inference service failed", set(), None, id="its bug"),
        pytest.param(refuse(Code.UNKNOWN, "/secret/path"), Code.INTERNAL, "inference service failed", set(), None, id="unknown"),
        pytest.param(refuse(Code.UNIMPLEMENTED), Code.INTERNAL, "inference service failed", set(), None, id="another server"),
    ],
)
async def test_refusals_of_the_inference_service(
    service: Running,
    inference: FakeInference,
    behaviour: Behaviour,
    code: Code,
    words: str,
    fields: set[str],
    pushback: str | None,
) -> None:
    inference.script.append(behaviour)
    refusal = await service.refusal(service.composite())
    assert (refusal.code, set(refusal.fields), refusal.pushback) == (code, fields, pushback)
    assert words in refusal.message
    assert "secret" not in refusal.message
    assert len(inference.calls) == 1
    assert (await service.composite()).success


def shortened(request: inference_pb2.InferBatchRequest) -> inference_pb2.MouthRegion:
    message = region(request, 0, 4)
    message.data = message.data[:-1]
    return message


def as_floats(request: inference_pb2.InferBatchRequest) -> inference_pb2.MouthRegion:
    message = region(request, 0, 1)
    message.mouth_format = inference_pb2.FLOAT32_BGR
    return message


def sized(widths: list[int], heights: list[int]) -> Behaviour:
    """A first message whose pixels are of these sizes."""
    pixels = sum(max(0, width) * height * 3 for width, height in zip(widths, heights, strict=False))

    def message(request: inference_pb2.InferBatchRequest) -> inference_pb2.MouthRegion:
        made = region(request, 0, 2)
        made.data = bytes(pixels)
        made.widths.extend(widths)
        made.heights.extend(heights)
        return made

    return send(message)


def empty(request: inference_pb2.InferBatchRequest) -> inference_pb2.MouthRegion:
    return inference_pb2.MouthRegion(mouth_format=inference_pb2.UINT8_BGR)


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(send(), id="nothing"),
        pytest.param(send(lambda sent: region(sent, 0, 4)), id="two frames too few"),
        pytest.param(send(lambda sent: region(sent, 4, 2), lambda sent: region(sent, 0, 4)), id="out of order"),
        pytest.param(send(lambda sent: region(sent, 0, 4), lambda sent: region(sent, 0, 4)), id="the same again"),
        pytest.param(send(lambda sent: region(sent, 0, 6), lambda sent: region(sent, 5, 1)), id="more than asked for"),
        pytest.param(send(shortened), id="a byte short"),
        pytest.param(send(as_floats), id="another format"),
        pytest.param(send(empty), id="an empty group"),
        pytest.param(sized([100], [100]), id="one size for two mouths"),
        pytest.param(sized([100, 100], [100]), id="a height too few"),
        pytest.param(sized([100, 0], [100, 100]), id="a mouth without pixels"),
        pytest.param(sized([100, -100], [100, 100]), id="a negative width"),
    ],
)
async def test_nonsense_from_the_inference_service(service: Running, inference: FakeInference, behaviour: Behaviour) -> None:
    inference.script.append(behaviour)
    refusal = await service.refusal(service.composite(batch_size=6))
    assert refusal.code is Code.INTERNAL
    assert "inference service" in refusal.message
    assert errors(service, Code.INTERNAL) == 1
    assert (await service.composite()).success


async def test_several_endpoints_are_asked_in_turn_and_a_lost_one_is_passed_over(serve: Any, inference: FakeInference) -> None:
    other = FakeInference()
    await other.start()
    async with serve(f"inference_server.url=127.0.0.1:{inference.port},127.0.0.1:{other.port}") as service:
        async with asyncio.timeout(60):
            while not (inference.calls and other.calls):
                await service.composite(batch_size=1)
        await other.stop()
        before = len(inference.calls)
        for _ in range(4):
            assert (await service.composite()).success
        assert len(inference.calls) == before + 4


async def test_a_lost_endpoint_in_mid_batch_is_made_up_for_by_another(serve: Any, inference: FakeInference) -> None:
    other = FakeInference()
    await other.start()
    for fake in (inference, other):
        fake.script.append(refuse(Code.UNAVAILABLE, after=4))
    async with serve(f"inference_server.url=127.0.0.1:{inference.port},127.0.0.1:{other.port}") as service:
        response = await service.composite(batch_size=10, **RAW)
        assert [green for _, green, _ in mouth_colours(response)] == list(range(10))
        assert sorted(call.request.batch_size for fake in (inference, other) for call in fake.calls) == [2, 6, 10]
    await other.stop()


async def test_an_endpoint_that_says_it_does_not_serve_gets_no_calls(serve: Any, inference: FakeInference) -> None:
    other = FakeInference()
    await other.start()
    await other.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    async with serve(f"inference_server.url=127.0.0.1:{inference.port},127.0.0.1:{other.port}") as service:
        for _ in range(6):
            assert (await service.composite(batch_size=1)).success
    assert len(inference.calls) == 6
    assert other.calls == []
    await other.stop()


class Computing(FakeInference):
    """Says how it computes, and is lost in the middle of the next batch when it or another is to be."""

    def __init__(self, numerics: str, to_lose: list[bool], calls: list[str]) -> None:
        super().__init__()
        self.numerics, self.to_lose, self.order = numerics, to_lose, calls

    async def InferStream(self, request: Any, context: Any) -> Any:
        self.order.append(self.numerics)
        is_lost = bool(self.to_lose and self.to_lose.pop())
        async for each in fine(request, context, until=4 if is_lost else None):
            each.numerics = self.numerics
            yield each
        if is_lost:
            await context.abort(Code.UNAVAILABLE, "lost")


async def test_a_tail_is_asked_for_where_it_is_computed_in_the_same_way(serve: Any) -> None:
    to_lose, order = list[bool](), list[str]()
    places = [Computing(numerics, to_lose, order) for numerics in ("this way", "that way", "this way")]
    for place in places:
        await place.start()
    urls = ",".join(f"127.0.0.1:{place.port}" for place in places)
    async with serve(f"inference_server.url={urls}") as service:
        async with asyncio.timeout(60):
            while order[-6:].count("that way") < 2 or len(order) < 6:  # until all are connected, and known
                await service.composite()
        assert service.metric("lipsync_compositing_numerics_changes_total") == 0
        both = []
        for _ in range(3):
            order.clear()
            to_lose.append(True)
            await service.composite(batch_size=8)
            both.append(tuple(order))
        assert sorted(both) == [("that way", "this way"), ("this way", "this way"), ("this way", "this way")]
        assert service.metric("lipsync_compositing_numerics_changes_total") == 1
    for place in places:
        await place.stop()


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
