"""What surrounds every call, outermost first: request id, metrics, exception to status, who may call, the limit of running calls.

The request id goes back in the trailing metadata of every call. Headers are sent early only by streams whose id we made up: gRPC
clients never retry a call that has sent headers, so a UNAVAILABLE must leave without them, and to send them apart from the reply
costs a unary call more than all the rest of this module.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Collection
from time import perf_counter
from typing import Any

import grpc
import grpc.aio
from prometheus_client import Counter, Histogram

from service_kit import request_context
from service_kit.admission import RunningCalls
from service_kit.call_interceptor import CallInterceptor, Context, Handler, Method, Proceed, as_coroutine, rebuilt
from service_kit.client_names import ClientNames
from service_kit.errors import InvalidRequest, ResourceExhausted, Violation
from service_kit.logs import CALLS, request_is_sampled
from service_kit.metrics import Metrics
from service_kit.request_context import AVATAR_ID_KEY, REQUEST_ID_KEY, SESSION_ID_KEY
from service_kit.statuses import status_of

# A client that gives up at its deadline may be noticed this long before the deadline passes here.
DEADLINE_SLACK_S = 0.05

_log = logging.getLogger(__name__)


def server_interceptors(
    metrics: Metrics,
    calls: RunningCalls | None = None,
    *,
    max_reply_bytes: int | None = None,
    sample_rate: int = 1,
    client_names: Collection[str] = (),
) -> list[grpc.aio.ServerInterceptor[Any, Any]]:
    """The chain for grpc.aio.server. Handlers raise ServiceError; what leaves is a status, never UNKNOWN.

    `calls` counts and limits running calls. A unary reply over `max_reply_bytes` becomes RESOURCE_EXHAUSTED with a reason. Info
    lines are written for one request of `sample_rate`. Where there are `client_names`, a client's certificate must bear one.
    """
    chain: list[CallInterceptor] = [RequestIds(sample_rate), CallMetrics(metrics), Statuses(max_reply_bytes)]
    if client_names:
        chain.append(ClientNames(client_names))
    if calls is not None:
        chain.append(Admission(calls))
    return [*chain]


class RequestIds(CallInterceptor):
    """Takes over the caller's ids, or makes a request id; log lines, errors and calls to other services carry them."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self._sample_rate = sample_rate

    async def around(self, method: Method, context: Context, proceed: Proceed) -> Any:
        """Sets what `request_context` tells, for this call's task."""
        known = dict.fromkeys((REQUEST_ID_KEY, SESSION_ID_KEY, AVATAR_ID_KEY), "")
        for key, value in context.invocation_metadata() or ():
            if key in known and isinstance(value, str) and request_context.sane_id(value):
                known[key] = value
        request_id = known[REQUEST_ID_KEY] or request_context.new_request_id()
        headers = ((REQUEST_ID_KEY, request_id),)
        request_context.request_id.set(request_id)
        request_context.session_id.set(known[SESSION_ID_KEY])
        request_context.avatar_id.set(known[AVATAR_ID_KEY])
        request_context.sampled.set(self._sample_rate == 1 or zlib.crc32(request_id.encode()) % self._sample_rate == 0)
        if not known[REQUEST_ID_KEY] and not method.is_infrastructure:
            request_context.early_headers.set(headers)
        context.set_trailing_metadata(headers)
        return await proceed()


class CallMetrics(CallInterceptor):
    """The grpc_server_* figures of every call, and a log line at its end."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics
        self._of_method: dict[str, _MethodMetrics] = {}

    async def around(self, method: Method, context: Context, proceed: Proceed) -> Any:
        """Counts the call and measures its time."""
        figures = self._of_method.get(method.path)
        if figures is None:
            figures = self._of_method[method.path] = _MethodMetrics(self._metrics, method)
        figures.started.inc()
        start = perf_counter()
        code = grpc.StatusCode.OK
        try:
            reply = await proceed()
            set_by_handler: grpc.StatusCode | None = context.code()
            code = set_by_handler or code
            return reply
        except BaseException as error:
            code = _code_of(error, context)
            raise
        finally:
            seconds = perf_counter() - start
            figures.handled(code).inc()
            figures.seconds.observe(seconds)
            _log_end(method, context, code, seconds)


class _MethodMetrics:
    """The series of one RPC, looked up once."""

    def __init__(self, metrics: Metrics, method: Method) -> None:
        self._labels = (method.kind, method.service, method.name)
        self._handled = metrics.grpc_handled
        self._by_code: dict[grpc.StatusCode, Counter] = {}
        self.started: Counter = metrics.grpc_started.labels(*self._labels)
        self.seconds: Histogram = metrics.grpc_seconds.labels(*self._labels)

    def handled(self, code: grpc.StatusCode) -> Counter:
        counter = self._by_code.get(code)
        if counter is None:
            counter = self._by_code[code] = self._handled.labels(*self._labels, code.name)
        return counter


def _code_of(error: BaseException, context: Context) -> grpc.StatusCode:
    """How a call ended that raised: with the status that was sent, or because the caller was gone."""
    if isinstance(error, grpc.aio.AbortError):
        return context.code()
    remaining: float | None = context.time_remaining()
    if remaining is not None and remaining < DEADLINE_SLACK_S:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED


def _log_end(method: Method, context: Context, code: grpc.StatusCode, seconds: float) -> None:
    level = logging.DEBUG if code is grpc.StatusCode.OK else logging.INFO
    if method.is_infrastructure or not CALLS.isEnabledFor(level) or not request_is_sampled():
        return
    fields = {"method": method.path, "code": code.name, "duration_ms": seconds * 1000, "peer": context.peer()}
    details = context.details()  # what we told the caller, so fit for the log
    CALLS.log(level, "call ended", extra=fields | ({"status": details} if details else {}))


class Statuses(CallInterceptor):
    """Turns what a handler raises into a status. Decodes and encodes as well: gRPC would answer errors there with UNKNOWN.

    Streams may write bytes in place of a message: one that the handler encoded itself.
    """

    def __init__(self, max_reply_bytes: int | None) -> None:
        super().__init__()
        self._max_reply_bytes = max_reply_bytes

    def wrapped(self, method: Method, handler: Handler) -> Handler:
        """`handler` with its codecs moved inside, where the kind of the RPC allows it."""
        behavior = as_coroutine(handler)
        decode, encode = handler.request_deserializer, handler.response_serializer

        async def coded(request: Any, context: Context) -> Any:
            if not handler.request_streaming:
                request = _decoded(decode, request)
            reply = await behavior(request, context)
            return reply if handler.response_streaming else self._encoded(encode, reply)

        async def call(request: Any, context: Context) -> Any:
            return await self.around(method, context, lambda: coded(request, context))

        outer_decode = (lambda data: _decoded(decode, data)) if handler.request_streaming else None
        outer_encode = (lambda reply: _message_bytes(encode, reply)) if handler.response_streaming else None
        return rebuilt(handler, call, outer_decode, outer_encode)

    async def around(self, method: Method, context: Context, proceed: Proceed) -> Any:
        """Lets cancellation and gRPC's own exceptions pass, and ends the call with a status for all others."""
        try:
            return await proceed()
        except asyncio.CancelledError as error:
            if _task_is_cancelled():
                raise
            # Something that the handler waited for was cancelled, and the caller would wait for ever.
            await self._abort(method, context, error)
        except Exception as error:
            grpcs_own = _grpcs_own(error)
            if grpcs_own is not None:
                raise grpcs_own from None
            await self._abort(method, context, error)

    async def _abort(self, method: Method, context: Context, error: BaseException) -> None:
        status = status_of(error)
        if status.code is grpc.StatusCode.INTERNAL:
            _log.error("%s failed", method.path, exc_info=error)
        await context.abort(status.code, status.message, status.trailing_metadata)

    def _encoded(self, encode: Any, reply: Any) -> bytes:
        data: bytes = encode(reply) if encode is not None else reply
        if self._max_reply_bytes is not None and len(data) > self._max_reply_bytes:
            raise ResourceExhausted(
                f"the reply would have {len(data)} bytes, over the limit of {self._max_reply_bytes}; ask for less in one request"
            )
        return data


def _decoded(decode: Any, data: bytes) -> Any:
    if decode is None:
        return data
    try:
        return decode(data)
    except Exception:
        raise InvalidRequest([Violation("", "the message cannot be decoded: it is not of this RPC's request type")]) from None


def _message_bytes(encode: Any, reply: Any) -> bytes:
    data: bytes = reply if encode is None or isinstance(reply, bytes) else encode(reply)
    return data


def _task_is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _grpcs_own(error: BaseException) -> BaseException | None:
    """What gRPC raises and handles itself, also from within a TaskGroup: a call aborted, a caller or a server that is gone."""
    if isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_grpcs_own, error.exceptions)), None)
    return None


class Admission(CallInterceptor):
    """Counts running calls and refuses those over the limit. Health checks and reflection pass uncounted."""

    def __init__(self, calls: RunningCalls) -> None:
        super().__init__()
        self._calls = calls

    async def around(self, method: Method, context: Context, proceed: Proceed) -> Any:
        """Runs the call as one of those that run."""
        if method.is_infrastructure:
            return await self._calls.open_ended(proceed())
        self._calls.enter()
        try:
            return await proceed()
        finally:
            self._calls.leave()
