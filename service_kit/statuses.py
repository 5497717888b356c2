"""From an exception to the gRPC status that the caller sees.

A status travels in HTTP/2 headers, of which clients accept 8 KiB by default: message and details are cut to fit well below, or a
request with a thousand problems would be answered by "metadata too large".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
MAX_HEADER_BYTES = 2500  # of the message as it travels: what is not printable ASCII takes three bytes for each of UTF-8
MAX_DESCRIPTION_CHARS = 300
MAX_VIOLATIONS_BYTES = 2500

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Status:
    """What `context.abort` takes."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: Metadata


def status_of(error: BaseException) -> Status:
    """The status for `error`: its own for a ServiceError; else INTERNAL with a fixed text, as the rest is for the log alone."""
    request_id = request_context.request_id.get()
    metadata: Metadata = ((request_context.REQUEST_ID_KEY, request_id),) if request_id else ()
    known = service_error_in(error)
    if known is None:
        message = f"internal error; the operators find it in the log by the request id {request_id}"
        return Status(grpc.StatusCode.INTERNAL, message, metadata)
    message = _fit_for_header(_sound(known.message, MAX_MESSAGE_CHARS))
    if isinstance(known, ResourceExhausted):
        pushback = DO_NOT_RETRY if known.retry_after_ms is None else str(known.retry_after_ms)
        metadata = (*metadata, (PUSHBACK_KEY, pushback))
        if known.fitting_batch_size:
            metadata = (*metadata, (FITTING_KEY, str(known.fitting_batch_size)))
    if isinstance(known, InvalidRequest):
        metadata = (*metadata, *_bad_request(known, message))
    return Status(known.code, message, metadata)


def service_error_in(error: BaseException) -> ServiceError | None:
    """`error` itself, or, of what a TaskGroup raises, the first when all of it is meant for callers."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [service_error_in(each) for each in error.exceptions]
        return None if None in found else found[0]
    return None


def _bad_request(error: InvalidRequest, message: str) -> Metadata:
    """google.rpc.BadRequest, as clients of every language read it."""
    violations = [
        error_details_pb2.BadRequest.FieldViolation(field=_sound(each.field, 100), description=each.description)
        for each in _fitting(error.violations)
    ]
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.BadRequest(field_violations=violations))
    status = status_pb2.Status(code=error.code.value[0], message=message, details=[detail])
    trailing: Metadata = rpc_status.to_status(status).trailing_metadata
    return trailing


def _fitting(violations: Sequence[Violation]) -> Iterator[Violation]:
    """As many as fit, and then how many more there are."""
    room = MAX_VIOLATIONS_BYTES
    for number, each in enumerate(violations):
        description = _sound(each.description, MAX_DESCRIPTION_CHARS)
        room -= len(each.field[:100].encode("utf-8", "replace")) + len(description.encode())
        if room < 0:
            yield Violation("", f"and {len(violations) - number} more problems")
            return
        yield Violation(each.field, description)


def _fit_for_header(text: str) -> str:
    """`text` cut so that its percent-encoded form keeps to MAX_HEADER_BYTES."""
    room = MAX_HEADER_BYTES
    for place, character in enumerate(text):
        room -= 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if room < 0:
            return f"{text[: max(0, place - 3)]}..."
    return text


def _sound(text: str, max_chars: int) -> str:
    """`text` cut to size, without what UTF-8 cannot carry."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= max_chars else f"{text[: max_chars - 3]}..."
