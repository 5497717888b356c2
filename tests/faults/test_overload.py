"""More than a service can do, and callers who do not wait: what is taken is finished, the rest refused, nothing is left."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from avatar_kit.timeline import IdleMouth
from shared_proto import inference_pb2
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from ..end_to_end.avatars import slow_network, write_avatar
from ..end_to_end.callers import SteadyCaller
from ..end_to_end.conftest import CALL_S, CHANNEL_OPTIONS, Duo, serving
from ..end_to_end.processes import assert_no_trace, resident_mb, until
from .conftest import SOUND, request_of

Code = grpc.StatusCode
PLACES = 32
SLOW = inference_pb2.InferBatchRequest(model_id="slow", batch_size=2, raw_audio=SOUND)
QUICK = inference_pb2.InferBatchRequest(model_id="small", batch_size=2, raw_audio=SOUND)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duo]:
    """Services with a short queue, and an avatar whose network is slow."""
    root: Path = tmp_path_factory.mktemp("models")
    write_avatar(root, "small")
    write_avatar(root, "calm", idle_mouth=IdleMouth.STORED)
    write_avatar(root, "slow", network=slow_network(layers=4))
    with serving(root, tmp_path_factory.mktemp("overload"), inference=[f"server.queue_size={PLACES}"]) as both:
        yield both
    assert_no_trace(both.compositing)
    assert_no_trace(both.inference)


@pytest.fixture
def steady(strict: Duo) -> Iterator[SteadyCaller]:
    """An innocent caller who needs no network: those are what is fought for here."""
    with SteadyCaller(strict.compositing.address, request_of("calm", idle=True)) as caller:
        caller.wait_for_a_call()
        yield caller
        caller.wait_for_a_call()


def nothing_runs(duo: Duo) -> bool:
    inference = duo.inference
    return inference.metric("lipsync_running_calls") == 0 and inference.metric("lipsync_inference_queued_frames") == 0


async def test_work_beyond_the_queue_is_refused_at_once_and_none_is_done_for_nothing(strict: Duo) -> None:
    """Goodput counted, not timed: each frame that the networks made was delivered."""
    strict.mouths.InferBatch(SLOW, timeout=CALL_S)
    before, made = resident_mb(strict.inference), strict.inference.metric("lipsync_inference_frames_total")
    codes: Counter[Code] = Counter()
    async with grpc.aio.insecure_channel(strict.inference.address, (("grpc.enable_retries", 0),)) as channel:
        stub = InferenceServiceStub(channel)

        async def ask() -> None:
            for _ in range(2):
                call = stub.InferBatch(SLOW, timeout=CALL_S)
                code = await call.code()
                codes[code] += 1
                if code is Code.RESOURCE_EXHAUSTED:
                    assert int(str(dict(await call.trailing_metadata())["grpc-retry-pushback-ms"])) >= 0

        await asyncio.gather(*(ask() for _ in range(100)))
    assert set(codes) == {Code.OK, Code.RESOURCE_EXHAUSTED}
    assert strict.inference.metric("lipsync_inference_frames_total") - made == codes[Code.OK] * SLOW.batch_size
    assert resident_mb(strict.inference) - before < 60
    until(lambda: nothing_runs(strict))


async def test_calls_that_are_given_up_at_any_time_leave_nothing(strict: Duo, steady: SteadyCaller) -> None:
    chance = random.Random(7)
    async with grpc.aio.insecure_channel(strict.inference.address) as channel:
        stub = InferenceServiceStub(channel)

        async def give_up(after_s: float) -> None:
            call = stub.InferBatch(SLOW, timeout=CALL_S)
            await asyncio.sleep(after_s)
            call.cancel()
            assert await call.code() in {Code.CANCELLED, Code.OK, Code.RESOURCE_EXHAUSTED}

        await asyncio.gather(*(give_up(chance.expovariate(20)) for _ in range(1000)))
    until(lambda: nothing_runs(strict))
    steady.wait_for_a_call()


async def test_a_deadline_that_cannot_be_met_costs_no_run(strict: Duo) -> None:
    """Slow work fills the queue; what waits behind it with little time goes out of it."""
    async with grpc.aio.insecure_channel(strict.inference.address, CHANNEL_OPTIONS) as channel:
        stub = InferenceServiceStub(channel)
        long = [stub.InferBatch(inference_pb2.InferBatchRequest(model_id="slow", batch_size=20, raw_audio=bytes(640 * 80)))]
        hurried = [stub.InferBatch(SLOW, timeout=0.02) for _ in range(10)]
        assert {await call.code() for call in hurried} <= {Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED}
        assert {await call.code() for call in long} == {Code.OK}
    until(lambda: nothing_runs(strict))


async def test_among_bad_requests_and_short_deadlines_good_ones_are_served(strict: Duo, steady: SteadyCaller) -> None:
    chance = random.Random(11)
    good = request_of()
    bad = [request_of("nobody"), request_of(""), request_of(frames=0), request_of("../x")]
    codes: Counter[Code] = Counter()
    async with grpc.aio.insecure_channel(strict.compositing.address, (("grpc.enable_retries", 0),)) as channel:
        stub = CompositingServiceStub(channel)

        async def ask() -> None:
            for _ in range(15):
                is_bad, is_hurried = chance.random() < 0.3, chance.random() < 0.3
                asked = chance.choice(bad) if is_bad else good
                call = stub.InferBatchComposite(asked, timeout=chance.uniform(0.0001, 0.1) if is_hurried else CALL_S)
                code = await call.code()
                codes[code] += 1
                if is_bad:
                    assert code in {Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.DEADLINE_EXCEEDED}
                elif not is_hurried:
                    assert code in {Code.OK, Code.RESOURCE_EXHAUSTED}

        await asyncio.gather(*(ask() for _ in range(20)))
        assert Code.UNKNOWN not in codes
        assert Code.INTERNAL not in codes
        until(lambda: nothing_runs(strict))
        assert len((await stub.InferBatchComposite(good, timeout=CALL_S)).composited_frames) == good.batch_size
    steady.wait_for_a_call()


async def test_a_flood_of_bad_requests_is_one_line_each_and_disturbs_nobody(strict: Duo, steady: SteadyCaller) -> None:
    before = strict.compositing.log.read_bytes().count(b"\n")
    async with grpc.aio.insecure_channel(strict.compositing.address) as channel:
        stub = CompositingServiceStub(channel)
        for _ in range(20):
            answers = [stub.InferBatchComposite(request_of("../x\n2026 ERROR"), timeout=CALL_S) for _ in range(150)]
            assert {await answer.code() for answer in answers} == {Code.INVALID_ARGUMENT}
    await asyncio.to_thread(steady.wait_for_a_call)
    assert strict.compositing.log.read_bytes().count(b"\n") - before <= 3000 + 20


async def test_ids_that_nobody_bears_make_no_metrics(strict: Duo) -> None:
    async def series_after(requests: int, seed: int) -> int:
        chance = random.Random(seed)
        async with grpc.aio.insecure_channel(strict.compositing.address) as channel:
            stub = CompositingServiceStub(channel)
            ids = [f"avatar-{chance.randrange(10**12)}" for _ in range(requests)]
            for first in range(0, requests, 50):
                answers = [stub.InferBatchComposite(request_of(each), timeout=CALL_S) for each in ids[first : first + 50]]
                assert {await answer.code() for answer in answers} == {Code.NOT_FOUND}
        return sum(service.get("/metrics").count("\n") for service in (strict.compositing, strict.inference))

    assert await series_after(50, 1) == await series_after(1000, 2)
