"""Errors of handlers as they leave the service: the right status, its details, never UNKNOWN, never anything internal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from service_kit import errors
from service_kit.errors import ServiceError, Violation
from service_kit.statuses import status_of
from shared_proto import inference_pb2

SECRET = "/srv/models/alice.onnx"

TABLE = [
    pytest.param(errors.InvalidRequest([Violation("batch_size", "0, expected 1 to 50")]), "INVALID_ARGUMENT", id="invalid"),
    pytest.param(errors.NotFound("no avatar bears that name"), "NOT_FOUND", id="not-found"),
    pytest.param(errors.OutOfRange("frame 600 of 523"), "OUT_OF_RANGE", id="out-of-range"),
    pytest.param(errors.FailedPrecondition("the package is damaged"), "FAILED_PRECONDITION", id="precondition"),
    pytest.param(errors.Aborted("loaded by another caller"), "ABORTED", id="aborted"),
    pytest.param(errors.Unavailable("the inference service cannot be reached"), "UNAVAILABLE", id="unavailable"),
    pytest.param(errors.ResourceExhausted("the queue is full", retry_after_ms=50), "RESOURCE_EXHAUSTED", id="exhausted"),
    pytest.param(errors.DeadlineExceeded("waited in the queue"), "DEADLINE_EXCEEDED", id="deadline"),
    pytest.param(ServiceError("of the base class"), "INTERNAL", id="base"),
    pytest.param(ExceptionGroup("task group", [errors.NotFound("no avatar bears that name")]), "NOT_FOUND", id="from-task-group"),
]

INTERNAL = [
    pytest.param(RuntimeError(SECRET), id="any-exception"),
    pytest.param(TimeoutError(SECRET), id="timeout"),
    pytest.param(MemoryError(), id="memory"),
    pytest.param(grpc.aio.UsageError(SECRET), id="misuse-of-grpc"),
    pytest.param(
        grpc.aio.AioRpcError(grpc.StatusCode.UNKNOWN, grpc.aio.Metadata(), grpc.aio.Metadata(), SECRET), id="other-service"
    ),
    pytest.param(ExceptionGroup("g", [errors.NotFound("x"), KeyError(SECRET)]), id="mixed-task-group"),
    pytest.param(asyncio.CancelledError(SECRET), id="stray-cancellation"),
]


def raising(error: BaseException) -> Any:
    async def handler(request: bytes, context: Any) -> bytes:
        raise error

    return handler


def raising_stream(error: BaseException) -> Any:
    async def handler(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise error

    return handler


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (drained(call) if hasattr(call, "__aiter__") else call)
    return caught.value


async def drained(messages: Any) -> None:
    async for _ in messages:
        pass


def trailing(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    return dict(error.trailing_metadata())


@pytest.mark.parametrize(("error", "code"), TABLE)
@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_every_service_error_is_its_status_in_every_kind_of_call(
    start: Any, kind: str, error: Exception, code: str
) -> None:
    build = getattr(grpc, f"{kind}_rpc_method_handler")
    channel = await start(Rpc=build(raising_stream(error) if kind.endswith("stream") else raising(error)))
    request: Any = b"x" if kind.startswith("unary") else iter([b"x"])
    failed = await failure(getattr(channel, kind)("/test.Test/Rpc")(request, timeout=60))
    assert failed.code() is grpc.StatusCode[code]
    message = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
    if code != "INTERNAL":
        assert failed.details() == str(message)


@pytest.mark.parametrize("error", INTERNAL)
@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_whatever_else_is_raised_stays_in_the_log(
    start: Any, kind: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    build = getattr(grpc, f"{kind}_rpc_method_handler")
    channel = await start(Rpc=build(raising_stream(error) if kind.endswith("stream") else raising(error)))
    call = getattr(channel, kind)("/test.Test/Rpc")(b"x", timeout=60, metadata=(("x-request-id", "req-7"),))
    failed = await failure(call)
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert "req-7" in failed.details()
    assert SECRET not in failed.details()
    assert "Traceback" not in failed.details()
    [record] = [record for record in caplog.records if record.name == "service_kit.interceptors"]
    assert record.exc_info is not None
    assert record.exc_info[1] is error or isinstance(error, asyncio.CancelledError)


async def test_all_violations_travel_as_bad_request_details(start: Any) -> None:
    given = [Violation("batch_size", "0, expected 1 to 50"), Violation("raw_audio", "3 bytes, expected a multiple of 4 · ä")]
    channel = await start(Rpc=raising(errors.InvalidRequest(given)))
    call = channel.unary_unary("/test.Test/Rpc")(b"x")
    failed = await failure(call)
    status = await rpc_status.aio.from_call(call)
    details = error_details_pb2.BadRequest()
    [packed] = status.details
    assert packed.Unpack(details)
    assert [(v.field, v.description) for v in details.field_violations] == [(v.field, v.description) for v in given]
    assert all(v.description in failed.details() for v in given)


async def test_a_request_with_a_thousand_problems_still_gets_its_answer(start: Any) -> None:
    given = [Violation(f"frame_indices[{number}]", "negative, " * 50) for number in range(1000)]
    channel = await start(Rpc=raising(errors.InvalidRequest(given)))
    call = channel.unary_unary("/test.Test/Rpc")(b"x")
    failed = await failure(call)
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = error_details_pb2.BadRequest()
    (await rpc_status.aio.from_call(call)).details[0].Unpack(details)
    *told, last = details.field_violations
    assert [v.field for v in told] == [v.field for v in given[: len(told)]]
    assert last.description == f"and {1000 - len(told)} more problems"


@pytest.mark.parametrize(
    "text", ["\ud800 half a surrogate", "line\nbreak \x00 and zero", "ä" * 5000], ids=["surrogate", "control", "long"]
)
@pytest.mark.parametrize(
    "make", [errors.NotFound, lambda text: errors.InvalidRequest([Violation(text, text)])], ids=["plain", "details"]
)
async def test_messages_that_no_header_can_carry_as_they_are_do_not_change_the_status(start: Any, make: Any, text: str) -> None:
    error = make(text)
    channel = await start(Rpc=raising(error))
    failed = await failure(channel.unary_unary("/test.Test/Rpc")(b"x"))
    assert failed.code() is error.code


@pytest.mark.parametrize(("retry_after_ms", "pushback"), [(None, "-1"), (0, "0"), (250, "250")])
async def test_exhaustion_tells_clients_when_to_retry(start: Any, retry_after_ms: int | None, pushback: str) -> None:
    channel = await start(Rpc=raising(errors.ResourceExhausted("full", retry_after_ms=retry_after_ms)))
    failed = await failure(channel.unary_unary("/test.Test/Rpc")(b"x"))
    assert trailing(failed)["grpc-retry-pushback-ms"] == pushback


async def test_a_handlers_own_abort_passes(start: Any) -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        async with asyncio.TaskGroup() as tasks:
            if request == b"direct":
                await context.abort(grpc.StatusCode.DATA_LOSS, "own words", (("own-key", "own value"),))
            tasks.create_task(context.abort(grpc.StatusCode.DATA_LOSS, "own words", (("own-key", "own value"),)))
        return b""

    channel = await start(Rpc=handler)
    for request in (b"direct", b"in a task"):
        failed = await failure(channel.unary_unary("/test.Test/Rpc")(request, timeout=60))
        assert (failed.code(), failed.details()) == (grpc.StatusCode.DATA_LOSS, "own words")
        assert trailing(failed)["own-key"] == "own value"


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_a_message_that_cannot_be_decoded_is_the_callers_fault(start: Any, kind: str) -> None:
    async def consume(request: Any) -> None:
        if hasattr(request, "__aiter__"):
            await drained(request)

    async def unary(request: Any, context: Any) -> Any:
        await consume(request)
        return inference_pb2.HealthResponse()

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await consume(request)
        yield inference_pb2.HealthResponse()

    build = getattr(grpc, f"{kind}_rpc_method_handler")
    rpc = build(
        stream if kind.endswith("stream") else unary,
        inference_pb2.InferBatchRequest.FromString,
        inference_pb2.HealthResponse.SerializeToString,
    )
    channel = await start(Rpc=rpc)
    garbage: Any = b"\xff\xff\xff" if kind.startswith("unary") else iter([b"\xff\xff\xff"])
    failed = await failure(getattr(channel, kind)("/test.Test/Rpc")(garbage, timeout=60))
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "decoded" in failed.details()


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_a_reply_that_cannot_be_encoded_is_our_fault(start: Any, kind: str) -> None:
    async def unary(request: Any, context: Any) -> Any:
        return None

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        yield 7  # neither bytes nor a message

    build = getattr(grpc, f"{kind}_rpc_method_handler")
    rpc = build(stream if kind.endswith("stream") else unary, None, inference_pb2.HealthResponse.SerializeToString)
    failed = await failure(getattr(await start(Rpc=rpc), kind)("/test.Test/Rpc")(b"", timeout=60))
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert "descriptor" not in failed.details()


async def test_a_reply_over_the_limit_is_refused_with_a_reason(start: Any) -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        return bytes(int(request))

    channel = await start(Rpc=handler, max_reply_bytes=1000)
    call = channel.unary_unary("/test.Test/Rpc")
    assert len(await call(b"1000")) == 1000
    failed = await failure(call(b"1001"))
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "1001" in failed.details()
    assert trailing(failed)["grpc-retry-pushback-ms"] == "-1"


async def test_unknown_methods_stay_unimplemented(start: Any) -> None:
    channel = await start(Rpc=raising(RuntimeError()))
    for path in ("/test.Test/Other", "/other.Service/Rpc", "/", "/test.Test/"):
        assert (await failure(channel.unary_unary(path)(b"x"))).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_errors_before_the_first_message_leave_without_headers_so_that_clients_can_retry(start: Any) -> None:
    """A UNAVAILABLE that had sent headers would reach the caller at the first attempt."""
    attempts = 0

    async def flaky(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise errors.Unavailable("not yet")
        yield b"done"

    config = (
        '{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,"initialBackoff":"0.01s","maxBackoff":"0.02s",'
        '"backoffMultiplier":1,"retryableStatusCodes":["UNAVAILABLE"]}}]}'
    )
    channel = await start(Rpc=grpc.unary_stream_rpc_method_handler(flaky), client_options=[("grpc.service_config", config)])
    replies = [reply async for reply in channel.unary_stream("/test.Test/Rpc")(b"", timeout=60)]
    assert (replies, attempts) == ([b"done"], 3)


def test_internal_errors_say_nothing_of_their_cause(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    assert SECRET not in status_of(RuntimeError(SECRET)).message
