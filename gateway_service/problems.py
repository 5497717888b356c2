"""Says over HTTP what went wrong: problem details as in RFC 9457."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import grpc
from aiohttp import web

from lipsync_client import LipsyncError
from service_kit.callers.caller import REVOKED, current
from service_kit.errors import ResourceExhausted, ServiceError

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"

# As google/rpc/code.proto maps them.
HTTP_STATUS: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}
# After so long a gateway that was full may have room.
_BUSY_S = 5.0
_TITLES = {499: "Client Closed Request"}


class Problem(Exception):
    """A request that is answered by problem details. `detail` is for the caller: no internals.

    `code` is the gRPC status of the same meaning, `more` goes into the document, `retry_s` becomes Retry-After.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        code: grpc.StatusCode,
        retry_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code
        self.retry_s = retry_s
        self.headers = dict(headers or {})
        self.more = more

    def response(self) -> web.Response:
        """Makes the answer."""
        content = {
            "type": "about:blank",
            "title": _TITLES.get(self.status) or HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code.name,
            **self.more,
        }
        headers = {"Cache-Control": "no-store", **self.headers}
        if self.retry_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_s)))
        return web.Response(status=self.status, body=json.dumps(content).encode(), content_type=CONTENT_TYPE, headers=headers)


def of_code(code: grpc.StatusCode, detail: str, **more: Any) -> Problem:
    """Returns the problem that a gRPC status is."""
    return Problem(HTTP_STATUS[code], detail, code=code, **more)


def of_upstream(error: LipsyncError) -> Problem:
    """Returns the problem that a failed call to a compositing service is."""
    error = told_to_caller(error)
    more: dict[str, Any] = {"request_id": error.request_id} if error.request_id else {}
    if error.violations:
        more["violations"] = [{"field": each.field, "description": each.description} for each in error.violations]
    retry_s = None if error.retry_after_ms is None else error.retry_after_ms / 1000
    return of_code(error.code, error.message, retry_s=retry_s, **more)


def told_to_caller(error: LipsyncError) -> LipsyncError:
    """Returns what the caller is told of a failed call.

    A refusal of the gateway's own key is none of the caller's, and gRPC's texts for lost connections contain addresses.
    """
    if error.code is grpc.StatusCode.UNAVAILABLE and not error.from_server:
        log.info("a compositing service cannot be reached: %s", error.message)
        text = "no compositing service can be reached; try again shortly"
        return LipsyncError(grpc.StatusCode.UNAVAILABLE, text, request_id=error.request_id, retry_after_ms=error.retry_after_ms)
    if error.code is not grpc.StatusCode.UNAUTHENTICATED or (current.get().name and error.message == REVOKED):
        return error
    log.error("the compositing service does not let this gateway in (compositing_server.api_key_file): %s", error.message)
    text = "the gateway has no good key for the compositing service; its operators find it in the log"
    return LipsyncError(grpc.StatusCode.UNAVAILABLE, text, request_id=error.request_id)


def problem_of(error: Exception) -> Problem:
    """Returns the problem that an error of a handler is. Texts of errors that nobody expected are for the log alone."""
    match error:
        case Problem():
            return error
        case LipsyncError():
            return of_upstream(error)
        case ResourceExhausted():  # the gateway itself is full; the caller has not asked too often
            retry_s = _BUSY_S if error.retry_after_ms is None else error.retry_after_ms / 1000
            return Problem(503, error.message, code=error.code, retry_s=retry_s)
        case ServiceError():
            return of_code(error.code, error.message)
    log.error("a request failed", exc_info=error)
    return internal()


def of_http(error: web.HTTPException) -> Problem:
    """Returns the problem of an error that aiohttp found: no such route, a wrong method, a body too large."""
    detail, code = _FOUND_BY_AIOHTTP.get(error.status, ("the request cannot be answered", grpc.StatusCode.INVALID_ARGUMENT))
    kept = {name: error.headers[name] for name in ("Allow", "Location") if name in error.headers}
    return Problem(error.status, detail, code=code, headers=kept)


_FOUND_BY_AIOHTTP = {
    401: ("the request needs credentials", grpc.StatusCode.UNAUTHENTICATED),
    403: ("the request is not allowed", grpc.StatusCode.PERMISSION_DENIED),
    404: ("there is nothing at this address", grpc.StatusCode.NOT_FOUND),
    405: ("the address does not take this method", grpc.StatusCode.UNIMPLEMENTED),
    413: ("the request is too large", grpc.StatusCode.INVALID_ARGUMENT),
    503: ("the gateway cannot answer now", grpc.StatusCode.UNAVAILABLE),
}


def internal() -> Problem:
    """Returns the problem of an error that nobody expected; its text is for the log alone."""
    return of_code(grpc.StatusCode.INTERNAL, "internal error; the operators find it in the log")
