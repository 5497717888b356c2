"""Memory and time of requests while they come and while they are served."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import grpc
import grpc.aio
import pytest

from service_kit.errors import DeadlineExceeded, InvalidRequest, ResourceExhausted, Violation
from service_kit.receiving import Receiving
from service_kit.trimming import WORTH_BYTES, Trimming

LARGE = bytes(3 << 20)


async def never() -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


def taken(receiving: Receiving, read: Any = never) -> asyncio.Task[bytes]:
    async def take() -> bytes:
        async with receiving.request(read, bytes) as request:
            return request

    return asyncio.create_task(take())


async def test_a_request_that_does_not_come_is_given_up() -> None:
    with pytest.raises(DeadlineExceeded):
        await taken(Receiving(seconds=0.05, most_calls=5, most_bytes=1))


async def test_beyond_the_number_what_has_been_on_its_way_for_longest_is_dropped() -> None:
    receiving = Receiving(seconds=60, most_calls=2, most_bytes=1)
    waiting = [taken(receiving) for _ in range(3)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [task.done() for task in waiting] == [True, False, False]
    assert isinstance(waiting[0].exception(), ResourceExhausted)
    for task in waiting[1:]:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_slow_ones_are_dropped_while_the_process_grows_and_quick_ones_are_not() -> None:
    resident = iter([100, 150, 300, 300, 120, *[120] * 1000])  # the first as they begin
    receiving = Receiving(seconds=60, most_calls=100, most_bytes=100, resident=lambda: next(resident))
    waiting = [taken(receiving) for _ in range(4)]
    await asyncio.wait(waiting[:2])
    await asyncio.sleep(0.3)
    assert [task.done() for task in waiting] == [True, True, False, False], "once for each look at which there was too much"

    async def at_once() -> bytes:
        return b"well"

    assert await taken(receiving, at_once) == b"well"
    for task in waiting[2:]:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_large_requests_have_a_budget_and_small_ones_none(start: Any) -> None:
    go_on, two_run = asyncio.Event(), asyncio.Event()

    async def rpc(request: bytes, context: Any) -> bytes:
        if len(request) > 100:
            if receiving.held_bytes == 2 * len(LARGE):
                two_run.set()
            await go_on.wait()
        return b"well"

    receiving = Receiving(seconds=60, most_calls=100, most_bytes=2 * len(LARGE))
    channel = await start(Rpc=rpc, receiving=receiving)
    call = channel.unary_unary("/test.Test/Rpc")
    two = [asyncio.create_task(_answer(call, LARGE)) for _ in range(2)]
    await two_run.wait()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(LARGE)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ("grpc-retry-pushback-ms", "1000") in tuple(caught.value.trailing_metadata() or ())
    assert await call(b"small") == b"well"
    go_on.set()
    assert await asyncio.gather(*two) == [b"well"] * 2
    assert await call(LARGE) == b"well"
    assert receiving.held_bytes == 0


async def _answer(call: Any, request: bytes) -> bytes:
    reply: bytes = await call(request)
    return reply


async def test_a_call_without_a_message_is_refused(start: Any) -> None:
    async def rpc(request: bytes, context: Any) -> bytes:
        raise AssertionError("there is no request")

    channel = await start(Rpc=rpc)
    call = channel.stream_unary("/test.Test/Rpc")(iter(()))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("streams", [False, True])
async def test_a_refused_request_is_not_kept(start: Any, streams: bool) -> None:
    """gRPC keeps the exception of an abort in a ring of references until the collector comes by: nothing large may hang on it."""
    requests: list[weakref.ref[Any]] = []

    class Request:
        @classmethod
        def decoded(cls, data: bytes) -> Request:
            made = cls()
            requests.append(weakref.ref(made))
            return made

    async def unary(request: Request, context: Any) -> bytes:
        raise InvalidRequest([Violation("field", "is wrong")])

    async def stream(request: Request, context: Any) -> None:
        raise InvalidRequest([Violation("field", "is wrong")])

    handler = (
        grpc.unary_stream_rpc_method_handler(stream, request_deserializer=Request.decoded)
        if streams
        else grpc.unary_unary_rpc_method_handler(unary, request_deserializer=Request.decoded)
    )
    channel = await start(Rpc=handler)
    make = channel.unary_stream if streams else channel.unary_unary
    gc.disable()
    try:
        for _ in range(3):
            call = make("/test.Test/Rpc")(b"")
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        await asyncio.sleep(0.05)  # until the last handler's task has ended too
        assert len(requests) == 3
        assert not any(request() for request in requests)
    finally:
        gc.enable()


async def test_memory_that_was_free_twice_goes_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resident, returned = 1000, 0
    free = 2 * WORTH_BYTES

    def give_back() -> None:
        nonlocal resident, returned
        resident, returned = 1500, returned + 1

    monkeypatch.setattr("service_kit.trimming.resident_bytes", lambda: resident)
    monkeypatch.setattr("service_kit.trimming.free_bytes", lambda: free)
    monkeypatch.setattr("service_kit.trimming.return_free_memory", give_back)
    trimming = Trimming()
    await trimming.look()
    assert not returned, "little has come since the beginning"
    resident = 5 * WORTH_BYTES
    await trimming.look()
    assert not returned, "it may be needed again at once"
    await trimming.look()
    assert returned == 1
    await trimming.look()
    await trimming.look()
    assert returned == 1, "malloc counts as free what it has given back, so only growth counts"
