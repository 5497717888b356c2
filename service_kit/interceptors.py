"""Surrounds each gRPC call: request id, metrics, exceptions as statuses, callers, limits of requests and of running calls.

A handler that streams its reply is an asynchronous generator. The interceptor iterates over it and writes each message itself.
So the surroundings cost nothing per message, and the generator's `finally` runs before the call ends, also after a cancellation.

Messages are decoded and encoded inside of that: gRPC itself would answer a message that it cannot decode with UNKNOWN.

Who calls is asked before that, while no message has been read: one who may not call cannot make the service hold a large one.
The one message of other calls is read by `service_kit.receiving`, so gRPC knows streams of requests alone.

The request id goes back in the trailing metadata of every call. Only streams without an id of the caller's send it in headers
too: gRPC clients never retry a call that has sent headers, so a UNAVAILABLE must leave without them, and in a unary call separate
headers cost more than all the rest of this module. Handlers send no initial metadata themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing, nullcontext
from contextvars import ContextVar
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias

import grpc
import grpc.aio

from service_kit import receiving, request_context
from service_kit.admission import RunningCalls
from service_kit.callers import caller as callers
from service_kit.callers.certificate_names import check_peer, names_of_peer
from service_kit.callers.door import NOBODY, Door
from service_kit.errors import InvalidRequest, ResourceExhausted, ServiceError, Violation
from service_kit.metrics import Metrics
from service_kit.receiving import Receiving
from service_kit.replying import Replying
from service_kit.request_context import IDS, REQUEST_ID_KEY
from service_kit.rpc import Context, Rpc, is_infrastructure
from service_kit.statuses import status_of

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]
Handler = Any  # grpc.RpcMethodHandler, whose stub lacks its attributes
Headers = tuple[tuple[str, str], ...]
Work: TypeAlias = Callable[[Any, Context], Awaitable[Any]]  # of a request, or of the messages of a stream

# A client that gives up at its deadline may be noticed this long before the deadline passes here.
DEADLINE_SLACK_S = 0.05

# Metric label and builder, by: requests are a stream, replies are a stream.
_KINDS = {
    (False, False): ("unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("server_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("client_stream", grpc.stream_unary_rpc_method_handler),
    (True, True): ("bidi_stream", grpc.stream_stream_rpc_method_handler),
}

# The reason why the call of the running code is refused.
_refusal: ContextVar[ServiceError] = ContextVar("refusal")

log = logging.getLogger(__name__)


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Surrounds every call. Handlers raise ServiceError; callers get a status, never UNKNOWN.

    `calls` counts and limits running calls, `requests` what comes, `replies` what waits to be taken. A unary reply over
    `max_reply_bytes` becomes RESOURCE_EXHAUSTED with a reason. Info lines are written for one request of `sample_rate`. With
    `client_names`, a client's certificate must have one of them. With a `door`, it admits callers; handlers find theirs in
    `callers.caller.current`. Handlers may give bytes in place of a message: one that they encoded themselves. gRPC answers
    unknown methods.
    """

    def __init__(
        self,
        metrics: Metrics,
        calls: RunningCalls,
        requests: Receiving,
        replies: Replying,
        *,
        max_reply_bytes: int,
        sample_rate: int = 1,
        client_names: Collection[str] = (),
        door: Door | None = None,
    ) -> None:
        self._metrics = metrics
        self._calls = calls
        self._receiving = requests
        self._replying = replies
        self._max_reply_bytes = max_reply_bytes
        self._sample_rate = sample_rate
        self._client_names = frozenset(client_names)
        self._door = door
        self._refusing: dict[str, Handler] = {}
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}  # by path; only known methods, so bounded

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns the surrounded handler of a call. gRPC calls this."""
        handler: Handler = await continuation(handler_call_details)
        if handler is None:
            return None
        path = str(handler_call_details.method)
        if self._door and not is_infrastructure(path):
            try:
                caller = await self._door.admit(path, handler_call_details.invocation_metadata or ())
                callers.current.set(caller or NOBODY)
            except ServiceError as error:
                _refusal.set(error)
                return self._refusing_handler(path, handler)
        inner, outer = self._wrapped.get(path, (None, None))
        if inner is not handler:
            outer = self._surrounded(path, handler)
            self._wrapped[path] = (handler, outer)
        return outer

    def _refusing_handler(self, path: str, refused: Handler) -> Handler:
        """Returns a handler that raises the refusal, and reads no message: of a stream, whatever the refused one is of."""
        if path not in self._refusing:
            kind, _ = _KINDS[refused.request_streaming, refused.response_streaming]
            handler: Handler = grpc.stream_stream_rpc_method_handler(_refuse)
            self._refusing[path] = self._surrounded(path, handler, kind)
        return self._refusing[path]

    def _surrounded(self, path: str, handler: Handler, shown_kind: str = "") -> Handler:
        """Returns a handler that looks the same to callers. Metrics call it `shown_kind` where that is given."""
        kind = shown_kind or _KINDS[handler.request_streaming, handler.response_streaming][0]
        _, build = _KINDS[True, handler.response_streaming]
        rpc = Rpc.of(path, kind, self._metrics)
        behavior = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        decode = partial(_decoded, handler.request_deserializer)
        encode = partial(_encoded, handler.response_serializer)

        async def work(headers: Headers, request: Any, context: Context) -> Any:
            if handler.response_streaming:
                with self._door.streams.of(callers.current.get()) if self._door else nullcontext():
                    await _write_all(behavior(request, context), headers, context)
                return None
            reply = encode(await behavior(request, context))
            if len(reply) > self._max_reply_bytes:
                raise ResourceExhausted(
                    f"the reply would have {len(reply)} bytes, over the limit of {self._max_reply_bytes}; "
                    "ask for less in one request"
                )
            self._replying.hold(len(reply))
            return reply

        async def run(messages: Any, context: Context) -> Any:
            headers = self._identify(rpc, context)
            rpc.started.inc()
            start, code = perf_counter(), grpc.StatusCode.OK
            receiving.current.set(self._receiving)
            many = handler.request_streaming
            request = nullcontext(messages) if many else self._receiving.request(context.read, decode)
            with rpc.traced() as span:
                try:
                    reply = await self._answer(rpc, context, request, partial(work, headers))
                    set_by_handler: grpc.StatusCode | None = context.code()
                    code = set_by_handler or code
                    return reply
                except BaseException as error:
                    code = _code_of(error, context)
                    raise
                finally:
                    if span:
                        span.set_attribute("rpc.response.status_code", code.name)
                    rpc.ended(context, code, perf_counter() - start)

        make: Any = build
        return make(run, decode if handler.request_streaming else None, encode if handler.response_streaming else None)

    def _identify(self, rpc: Rpc, context: Context) -> Headers:
        """Sets the `request_context` of this call's task from the caller's ids. Returns the headers to send before a stream."""
        metadata = context.invocation_metadata() or ()
        ids = {key: value for key, value in metadata if key in IDS and isinstance(value, str)}
        request_id = request_context.take_over(ids, sample_rate=self._sample_rate)
        headers = ((REQUEST_ID_KEY, request_id),)
        context.set_trailing_metadata(headers)
        return () if ids.get(REQUEST_ID_KEY) == request_id or rpc.is_infrastructure else headers

    async def _answer(self, rpc: Rpc, context: Context, request: AbstractAsyncContextManager[Any], work: Work) -> Any:
        """Runs a call. Ends it with a status for each exception but cancellation and gRPC's own."""
        try:
            if rpc.is_infrastructure:
                return await self._calls.open_ended(_served(request, context, work, nullcontext()))
            if self._client_names:
                check_peer(context, self._client_names)
            if self._door and callers.current.get() is NOBODY:  # the certificate tells; metadata did not
                metadata = context.invocation_metadata() or ()
                callers.current.set(await self._door.admit(rpc.path, metadata, names_of_peer(context)) or NOBODY)
            return await _served(request, context, work, self._calls.admit())
        except (asyncio.CancelledError, Exception) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                raise
            # Another cancellation is of something that the handler waited for; the caller still waits.
            if own := _grpcs_own(error):
                raise own from None
            status = status_of(error)
            if status.code is grpc.StatusCode.INTERNAL:
                log.error("%s failed", rpc.path, exc_info=error)
        # Not within the handling: gRPC keeps the exception of an abort in a ring of references, and with it all that hangs on it,
        # as the request.
        try:
            await context.abort(status.code, status.message, status.trailing_metadata)
        except grpc.aio.AbortError:
            raise
        except grpc.aio.BaseError as lost:  # the caller went before it could be told
            raise asyncio.CancelledError from lost


async def _served(
    request: AbstractAsyncContextManager[Any], context: Context, work: Work, admitted: AbstractContextManager[None]
) -> Any:
    """Reads the request, and does the work for it."""
    async with request as received:
        with admitted:
            return await work(received, context)


async def _refuse(_: Any, __: Context) -> None:
    raise _refusal.get()


async def _write_all(replies: Any, headers: Headers, context: Context) -> None:
    if not hasattr(replies, "__aiter__"):  # a coroutine that writes the messages itself
        await replies
        return
    async with aclosing(replies):
        async for reply in replies:
            if headers:
                await context.send_initial_metadata(headers)
                headers = ()
            await context.write(reply)


def _decoded(decode: Any, data: bytes) -> Any:
    try:
        return decode(data) if decode else data
    except Exception:
        raise InvalidRequest([Violation("", "the message cannot be decoded: it is not of this RPC's request type")]) from None


def _encoded(encode: Any, reply: Any) -> bytes:
    data: bytes = reply if encode is None or isinstance(reply, bytes) else encode(reply)
    return data


def _code_of(error: BaseException, context: Context) -> grpc.StatusCode:
    """Returns the status of a call that raised: the one that was sent, or one for a caller that is gone."""
    if isinstance(error, grpc.aio.AbortError):
        return context.code()
    remaining: float | None = context.time_remaining()
    if remaining is not None and remaining < DEADLINE_SLACK_S:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED


def _grpcs_own(error: BaseException) -> BaseException | None:
    """Returns an exception that gRPC raises and handles itself, also from within a TaskGroup: an abort, a lost peer."""
    if isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_grpcs_own, error.exceptions)), None)
    return None
