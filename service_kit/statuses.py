"""Turns an exception into the gRPC status that the caller sees.

A status travels in HTTP/2 headers, of which clients accept 8 KiB by default. Message and details are cut to fit well below, or a
request with a thousand problems would be answered by "metadata too large".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from service_kit import request_context
from service_kit.errors import InvalidRequest, ResourceExhausted, ServiceError, Violation

PUSHBACK_KEY = "grpc-retry-pushback-ms"
DO_NOT_RETRY = "-1"
FITTING_KEY = "x-fitting-batch-size"

MAX_MESSAGE_CHARS = 1000
MAX_HEADER_BYTES = 2500  # of the encoded message: each UTF-8 byte that is not printable ASCII takes three
MAX_DESCRIPTION_CHARS = 300
MAX_FIELD_CHARS = 100
MAX_VIOLATIONS_BYTES = 2500

Metadata = tuple[tuple[str, str | bytes], ...]


class Status(NamedTuple):
    """The arguments of `context.abort`."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: Metadata


def status_of(error: BaseException) -> Status:
    """Returns the status of a ServiceError, else INTERNAL with a fixed text: all other texts are for the log alone."""
    request_id = request_context.request_id.get()
    metadata: Metadata = ((request_context.REQUEST_ID_KEY, request_id),) if request_id else ()
    known = _service_error_in(error)
    if known is None:
        message = f"internal error; the operators find it in the log by the request id {request_id}"
        return Status(grpc.StatusCode.INTERNAL, message, metadata)
    message = _fit_for_header(_clean(known.message, MAX_MESSAGE_CHARS))
    if isinstance(known, ResourceExhausted):
        metadata += ((PUSHBACK_KEY, DO_NOT_RETRY if known.retry_after_ms is None else str(known.retry_after_ms)),)
        if known.fitting_batch_size:
            metadata += ((FITTING_KEY, str(known.fitting_batch_size)),)
    if isinstance(known, InvalidRequest):
        metadata += _bad_request(known, message)
    return Status(known.code, message, metadata)


def _service_error_in(error: BaseException) -> ServiceError | None:
    """Returns `error` itself. Of a TaskGroup's errors returns the first, when all of them are ServiceErrors."""
    if isinstance(error, BaseExceptionGroup):
        found = [_service_error_in(each) for each in error.exceptions]
        return None if None in found else found[0]
    return error if isinstance(error, ServiceError) else None


def _bad_request(error: InvalidRequest, message: str) -> Metadata:
    """Returns the violations as google.rpc.BadRequest, which clients of every language read."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.BadRequest(field_violations=_fitting(error.violations)))
    status = status_pb2.Status(code=error.code.value[0], message=message, details=[detail])
    trailing: Metadata = rpc_status.to_status(status).trailing_metadata
    return trailing


def _fitting(violations: Sequence[Violation]) -> Iterator[error_details_pb2.BadRequest.FieldViolation]:
    """Yields the violations that fit, and then the number of the others."""
    room = MAX_VIOLATIONS_BYTES
    for number, each in enumerate(violations):
        field, description = _clean(each.field, MAX_FIELD_CHARS), _clean(each.description, MAX_DESCRIPTION_CHARS)
        room -= len(field.encode()) + len(description.encode())
        if room < 0:
            field, description = "", f"and {len(violations) - number} more problems"
        yield error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
        if room < 0:
            return


def _fit_for_header(text: str) -> str:
    """Cuts a text so that its percent-encoded form has at most MAX_HEADER_BYTES."""
    room = MAX_HEADER_BYTES
    for place, character in enumerate(text):
        room -= 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if room < 0:
            return f"{text[: max(0, place - 3)]}..."
    return text


def _clean(text: str, max_chars: int) -> str:
    """Cuts a text to size and replaces characters that UTF-8 cannot encode."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= max_chars else f"{text[: max_chars - 3]}..."
