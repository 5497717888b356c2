"""The layers around every call, outermost first: request id, metrics, exception to status, who may call, limit of running calls.

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
from service_kit.call_chain import Call, CallChain, Context, Layer, Method, Proceed
from service_kit.client_names import ClientNames
from service_kit.logs import CALLS, request_is_sampled
from service_kit.metrics import Metrics
from service_kit.request_context import AVATAR_ID_KEY, REQUEST_ID_KEY, SESSION_ID_KEY
from service_kit.statuses import status_of

# A client that gives up at its deadline may be noticed this long before the deadline passes here.
DEADLINE_SLACK_S = 0.05

log = logging.getLogger(__name__)


def call_chain(
    metrics: Metrics,
    calls: RunningCalls | None = None,
    *,
    max_reply_bytes: int | None = None,
    sample_rate: int = 1,
    client_names: Collection[str] = (),
) -> CallChain:
    """Returns the interceptor for grpc.aio.server. Handlers raise ServiceError; what leaves is a status, never UNKNOWN.

    `calls` counts and limits running calls. A unary reply over `max_reply_bytes` becomes RESOURCE_EXHAUSTED with a reason. Info
    lines are written for one request of `sample_rate`. Where there are `client_names`, a client's certificate must have one.
    """
    layers: list[Layer] = [
        RequestIds(sample_rate),
        CallMetrics(metrics),
        Statuses(),
        *([ClientNames(client_names)] if client_names else ()),
        *([Admission(calls)] if calls is not None else ()),
    ]
    return CallChain(layers, max_reply_bytes=max_reply_bytes)


class RequestIds:
    """Takes over the caller's ids, or makes a request id; log lines, errors and calls to other services carry them."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Sets what `request_context` tells, for this call's task."""
        known = dict.fromkeys((REQUEST_ID_KEY, SESSION_ID_KEY, AVATAR_ID_KEY), "")
        for key, value in call.context.invocation_metadata() or ():
            if key in known and isinstance(value, str) and request_context.sane_id(value):
                known[key] = value
        request_id = known[REQUEST_ID_KEY] or request_context.new_request_id()
        headers = ((REQUEST_ID_KEY, request_id),)
        request_context.request_id.set(request_id)
        request_context.session_id.set(known[SESSION_ID_KEY])
        request_context.avatar_id.set(known[AVATAR_ID_KEY])
        request_context.sampled.set(self._sample_rate == 1 or zlib.crc32(request_id.encode()) % self._sample_rate == 0)
        if not known[REQUEST_ID_KEY] and not call.method.is_infrastructure:
            request_context.early_headers.set(headers)
        call.context.set_trailing_metadata(headers)
        return await proceed()


class CallMetrics:
    """The grpc_server_* figures of every call, and a log line at its end."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._of_method: dict[str, _MethodMetrics] = {}

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Counts the call and measures its time."""
        figures = self._of_method.get(call.method.path)
        if figures is None:
            figures = self._of_method[call.method.path] = _MethodMetrics(self._metrics, call.method)
        figures.started.inc()
        start = perf_counter()
        code = grpc.StatusCode.OK
        try:
            reply = await proceed()
            set_by_handler: grpc.StatusCode | None = call.context.code()
            code = set_by_handler or code
            return reply
        except BaseException as error:
            code = _code_of(error, call.context)
            raise
        finally:
            seconds = perf_counter() - start
            figures.handled(code).inc()
            figures.seconds.observe(seconds)
            _log_end(call, code, seconds)


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


def _log_end(call: Call, code: grpc.StatusCode, seconds: float) -> None:
    level = logging.DEBUG if code is grpc.StatusCode.OK else logging.INFO
    if call.method.is_infrastructure or not CALLS.isEnabledFor(level) or not request_is_sampled():
        return
    fields = {"method": call.method.path, "code": code.name, "duration_ms": seconds * 1000, "peer": call.context.peer()}
    details = call.context.details()  # what we told the caller, so fit for the log
    CALLS.log(level, "call ended", extra=fields | ({"status": details} if details else {}))


class Statuses:
    """Turns what the layers inside and the handler raise into a status."""

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Lets cancellation and gRPC's own exceptions pass, and ends the call with a status for all others."""
        try:
            return await proceed()
        except asyncio.CancelledError as error:
            if _task_is_cancelled():
                raise
            # Something that the handler waited for was cancelled, and the caller would wait for ever.
            await _abort(call, error)
        except Exception as error:
            grpcs_own = _grpcs_own(error)
            if grpcs_own is not None:
                raise grpcs_own from None
            await _abort(call, error)


async def _abort(call: Call, error: BaseException) -> None:
    status = status_of(error)
    if status.code is grpc.StatusCode.INTERNAL:
        log.error("%s failed", call.method.path, exc_info=error)
    await call.context.abort(status.code, status.message, status.trailing_metadata)


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


class Admission:
    """Counts running calls and refuses those over the limit. Health checks and reflection pass uncounted."""

    def __init__(self, calls: RunningCalls) -> None:
        self._calls = calls

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Runs the call as one of those that run."""
        if call.method.is_infrastructure:
            return await self._calls.open_ended(proceed())
        self._calls.enter()
        try:
            return await proceed()
        finally:
            self._calls.leave()
