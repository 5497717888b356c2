"""Request ids, metrics, the end of calls and the limit of running ones, through a real server."""

from __future__ import annotations

import ast
import asyncio
import logging
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from service_kit import errors, request_context
from service_kit.admission import RunningCalls
from service_kit.metrics import Metrics
from shared_proto import inference_pb2


async def tell_context(request: bytes, context: Any) -> bytes:
    """Also from a task of its own and from a thread, as handlers do their work."""
    await asyncio.sleep(0)
    told = await asyncio.create_task(
        asyncio.to_thread(lambda: (request_context.outgoing_metadata(), request_context.sampled.get()))
    )
    return repr(told).encode()


def told_by(reply: bytes) -> Any:
    """The view of `tell_context`: outgoing metadata, and a flag for sampled."""
    return ast.literal_eval(reply.decode())


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"grpc_service": "test.Test", "grpc_method": "Rpc", **labels})


async def becomes(expected: Any, read: Callable[[], Any]) -> None:
    """A caller has its answer a moment before the call's end is counted."""
    async with asyncio.timeout(60):
        while read() != expected:  # noqa: ASYNC110 - nothing tells when a metric changes
            await asyncio.sleep(0.001)


async def test_a_callers_ids_are_taken_over_and_handed_on(start: Any) -> None:
    given = (("x-request-id", "req-1:a/b=c+d@e"), ("x-session-id", "s.1"), ("x-avatar-id", "my-avatar_v1.2"))
    channel = await start(Rpc=tell_context)
    call = channel.unary_unary("/test.Test/Rpc")(b"", metadata=given)
    assert (await call).decode() == repr((given, True))
    assert dict(await call.trailing_metadata())["x-request-id"] == "req-1:a/b=c+d@e"


@pytest.mark.parametrize(
    "given", ["", " ", "a b", "x" * 129, "-a", 'quote"', "{}"], ids=["empty", "space", "inner", "long", "dash", "quote", "json"]
)
async def test_an_id_that_is_not_sane_is_replaced(start: Any, given: str) -> None:
    channel = await start(Rpc=tell_context)
    call = channel.unary_unary("/test.Test/Rpc")(b"", metadata=(("x-request-id", given), ("x-session-id", given)))
    [(key, made)], _ = told_by(await call)
    assert key == "x-request-id"
    assert made != given
    assert request_context.sane_id(made)
    assert dict(await call.trailing_metadata())["x-request-id"] == made


async def test_calls_do_not_see_each_others_ids(start: Any) -> None:
    channel = await start(Rpc=tell_context)
    rpc = channel.unary_unary("/test.Test/Rpc")
    ids = [f"id-{number}" for number in range(50)]
    told = await asyncio.gather(*(rpc(b"", metadata=(("x-request-id", each),)) for each in ids))
    assert [told_by(each)[0] for each in told] == [(("x-request-id", each),) for each in ids]


async def test_a_stream_tells_the_id_that_we_made_up_with_its_first_message(start: Any) -> None:
    go_on = asyncio.Event()

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request_context.request_id.get().encode()
        await go_on.wait()

    channel = await start(Rpc=grpc.unary_stream_rpc_method_handler(stream))
    call = channel.unary_stream("/test.Test/Rpc")(b"", timeout=60)
    assert dict(await call.initial_metadata())["x-request-id"].encode() == await call.read()
    go_on.set()
    assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("rate", [1, 7])
async def test_one_request_of_so_many_is_sampled_by_its_id(start: Any, rate: int) -> None:
    channel = await start(Rpc=tell_context, sample_rate=rate)
    rpc = channel.unary_unary("/test.Test/Rpc")
    ids = [f"id-{number}" for number in range(60)]
    sampled = [told_by(await rpc(b"", metadata=(("x-request-id", each),)))[1] for each in ids]
    assert sampled == [zlib.crc32(each.encode()) % rate == 0 for each in ids]
    assert sum(sampled) == pytest.approx(60 / rate, abs=6)


async def test_metrics_count_calls_by_status(start: Any, metrics: Metrics) -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        if request == b"missing":
            raise errors.NotFound("no")
        if request == b"bug":
            raise KeyError
        if request == b"abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "x")
        if request == b"set":
            context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        return b""

    channel = await start(Rpc=handler)
    rpc = channel.unary_unary("/test.Test/Rpc")
    for request in (b"", b"", b"missing", b"bug", b"abort", b"set"):
        await asyncio.gather(rpc(request), return_exceptions=True)
    await becomes(6, lambda: sample(metrics, "grpc_server_handling_seconds_count", grpc_type="unary"))
    assert sample(metrics, "grpc_server_started_total", grpc_type="unary") == 6
    counted = {
        code: sample(metrics, "grpc_server_handled_total", grpc_type="unary", grpc_code=code)
        for code in ("OK", "NOT_FOUND", "INTERNAL", "DATA_LOSS", "OUT_OF_RANGE", "UNKNOWN")
    }
    assert counted == {"OK": 2, "NOT_FOUND": 1, "INTERNAL": 1, "DATA_LOSS": 1, "OUT_OF_RANGE": 1, "UNKNOWN": None}


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_metrics_name_the_kind_of_call(start: Any, metrics: Metrics, kind: str) -> None:
    async def read(request: Any) -> None:
        """All of it: to a client that still sends, an answer is at times an error of its own."""
        if kind.startswith("stream"):
            async for _ in request:
                pass

    async def unary(request: Any, context: Any) -> bytes:
        await read(request)
        return b""

    async def stream(request: Any, context: Any) -> AsyncIterator[bytes]:
        await read(request)
        yield b""

    build = getattr(grpc, f"{kind}_rpc_method_handler")
    channel = await start(Rpc=build(stream if kind.endswith("stream") else unary))
    call = getattr(channel, kind)("/test.Test/Rpc")(b"" if kind.startswith("unary") else iter([b""]), timeout=60)
    if kind.endswith("stream"):
        assert [reply async for reply in call] == [b""]
    assert await call.code() is grpc.StatusCode.OK
    grpc_type = {
        "unary_unary": "unary",
        "unary_stream": "server_stream",
        "stream_unary": "client_stream",
        "stream_stream": "bidi_stream",
    }[kind]
    await becomes(1, lambda: sample(metrics, "grpc_server_handled_total", grpc_type=grpc_type, grpc_code="OK"))


@pytest.mark.parametrize(("timeout", "code"), [(1, "DEADLINE_EXCEEDED"), (None, "CANCELLED")], ids=["deadline", "caller-gone"])
@pytest.mark.parametrize("streams", [False, True], ids=["unary", "stream"])
async def test_a_handler_is_cancelled_when_nobody_waits_any_more(
    start: Any, metrics: Metrics, timeout: float | None, code: str, streams: bool
) -> None:
    """And a generator's `finally` runs within the call, not when the garbage collector finds it."""
    began, ended = asyncio.Event(), asyncio.Event()
    tasks: list[Any] = []

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            tasks.append(asyncio.current_task())
            ended.set()

    async def unary(request: bytes, context: Any) -> bytes:
        tasks.append(asyncio.current_task())
        await work()
        return b""

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        tasks.append(asyncio.current_task())
        yield b"first"
        await work()

    rpc = grpc.unary_stream_rpc_method_handler(stream) if streams else grpc.unary_unary_rpc_method_handler(unary)
    channel = await start(Rpc=rpc)
    make = channel.unary_stream if streams else channel.unary_unary
    call = make("/test.Test/Rpc")(b"", timeout=timeout)
    if streams:
        assert await call.read() == b"first"
    await began.wait()
    if timeout is None:
        call.cancel()
    await asyncio.wait_for(ended.wait(), 60)
    assert tasks[0] is tasks[1]
    await asyncio.wait({tasks[0]}, timeout=60)
    assert await call.code() is grpc.StatusCode[code]
    grpc_type = "server_stream" if streams else "unary"
    await becomes(1, lambda: sample(metrics, "grpc_server_handled_total", grpc_type=grpc_type, grpc_code=code))


async def test_a_generator_is_closed_within_its_call_when_the_reader_that_it_waits_for_leaves(start: Any) -> None:
    stuck, ended = asyncio.Event(), asyncio.Event()
    tasks: list[Any] = []

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        tasks.append(asyncio.current_task())
        try:
            while True:
                asyncio.get_running_loop().call_later(0.5, stuck.set)  # by then nothing takes messages any more
                yield bytes(1 << 20)
        finally:
            tasks.append(asyncio.current_task())
            ended.set()

    channel = await start(Rpc=grpc.unary_stream_rpc_method_handler(stream))
    call = channel.unary_stream("/test.Test/Rpc")(b"")
    await stuck.wait()
    call.cancel()
    await asyncio.wait_for(ended.wait(), 30)
    assert tasks[0] is tasks[1]


async def test_a_writer_style_handler_works_too(start: Any) -> None:
    async def echo(requests: Any, context: Any) -> None:
        async for request in requests:
            await context.write(request)

    channel = await start(Rpc=grpc.stream_stream_rpc_method_handler(echo))
    call = channel.stream_stream("/test.Test/Rpc")()
    for message in (b"a", b"b"):
        await call.write(message)
        assert await call.read() == message
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK


async def test_calls_over_the_limit_are_refused_and_those_that_run_are_not_harmed(start: Any) -> None:
    calls = RunningCalls(2)
    go_on, running = asyncio.Event(), asyncio.Semaphore(0)

    async def handler(request: bytes, context: Any) -> bytes:
        running.release()
        await go_on.wait()
        return request

    channel = await start(calls=calls, Rpc=handler)
    rpc = channel.unary_unary("/test.Test/Rpc")
    two = [asyncio.ensure_future(rpc(each)) for each in (b"1", b"2")]
    await running.acquire()
    await running.acquire()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rpc(b"3")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"]) >= 0
    go_on.set()
    assert await asyncio.gather(*two) == [b"1", b"2"]
    await becomes(0, lambda: calls.running)
    assert await rpc(b"4") == b"4"


async def test_the_end_of_calls_is_logged_failed_ones_as_info(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        if request:
            raise errors.NotFound("no avatar bears that name")
        return b""

    caplog.set_level(logging.INFO, "lipsync.calls")
    rpc = (await start(Rpc=handler)).unary_unary("/test.Test/Rpc")
    await rpc(b"")
    await asyncio.gather(rpc(b"x"), return_exceptions=True)
    await becomes(1, lambda: len([each for each in caplog.records if each.name == "lipsync.calls"]))
    [record] = [each for each in caplog.records if each.name == "lipsync.calls"]
    assert (record.method, record.code, record.status) == ("/test.Test/Rpc", "NOT_FOUND", "no avatar bears that name")


async def test_a_stream_may_write_messages_that_are_encoded_already(start: Any) -> None:
    async def handler(request: bytes, context: Any) -> None:
        await context.write(inference_pb2.LoadModelRequest(model_id="an object"))
        await context.write(inference_pb2.LoadModelRequest(model_id="bytes").SerializeToString())

    encode = inference_pb2.LoadModelRequest.SerializeToString
    channel = await start(Rpc=grpc.unary_stream_rpc_method_handler(handler, response_serializer=encode))
    call = channel.unary_stream("/test.Test/Rpc", response_deserializer=inference_pb2.LoadModelRequest.FromString)(b"")
    assert [message.model_id async for message in call] == ["an object", "bytes"]
