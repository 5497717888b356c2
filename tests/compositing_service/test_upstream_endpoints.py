"""Several inference services: they are asked in turn, and another makes up for one that is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from shared_proto import compositing_pb2 as pb

from .conftest import mouth_colours
from .fake_inference import FakeInference, fine, refuse

Code = grpc.StatusCode
RAW = {"output_format": pb.FORMAT_RAW_BGR}


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
