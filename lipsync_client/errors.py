"""The one error that calls raise, read from the gRPC status and its details."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped,unused-ignore]

REQUEST_ID_KEY = "x-request-id"
DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
FITTING_KEY = "x-fitting-batch-size"

# Explanations of gRPC's messages about a connection that failed. The first that matches counts.
NO_CONNECTION = ("failed to connect to all addresses", "connections to all backends failing")
CLOSED = "the server closed the connection: it may require TLS, or a client certificate that it trusts"
CAUSES = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS at this address",
    "certificate has expired": "the server's certificate has expired",
    "certificate is not yet valid": "the server's certificate is not valid yet: are both clocks right?",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not signed by an authority that this client trusts",
    "Hostname Verification Check failed": "the server's certificate does not have the name by which it was called",
    "Socket closed": CLOSED,
    "Connection reset": CLOSED,
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with a request: the field's name in the .proto file, and a sentence that says what is allowed."""

    field: str
    description: str


class LipsyncError(Exception):
    """A call failed.

    `code` is the gRPC status; `message` says what to do; `violations` lists every problem of a request that was refused as
    invalid; `request_id` finds the call in the logs of both services; `retry_after_ms` is set when the server says how long to
    wait before trying again, `fitting_batch_size` when it says how many frames a reply can hold.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        violations: Iterable[Violation] = (),
        request_id: str = "",
        retry_after_ms: int | None = None,
        fitting_batch_size: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.violations = tuple(violations)
        self.request_id = request_id
        self.retry_after_ms = retry_after_ms
        self.fitting_batch_size = fitting_batch_size

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def from_rpc_error(error: grpc.RpcError, request_id: str) -> LipsyncError:
    """Reads status, details and trailing metadata of a failed call, blocking or asyncio."""
    trailing = dict(cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ()))
    details = _details(trailing.get(DETAILS_KEY))
    return LipsyncError(
        error.code(),
        _explained(error.details() or "no reason given"),
        violations=_violations(details),
        request_id=_text(trailing.get(REQUEST_ID_KEY)) or request_id,
        retry_after_ms=_retry_after_ms(trailing.get(PUSHBACK_KEY), details),
        fitting_batch_size=_number(trailing.get(FITTING_KEY)),
    )


def _explained(details: str) -> str:
    """Puts an explanation in front of gRPC's words where one is known."""
    if not details.startswith(NO_CONNECTION):
        return details
    cause = next((meaning for words, meaning in CAUSES.items() if words in details), None)
    return f"{cause} ({details})" if cause else details


def _details(packed: str | bytes | None) -> list[Any]:
    """Unpacks the details of a google.rpc.Status. Unreadable ones count as none: the status itself is known without them."""
    if not isinstance(packed, bytes):
        return []
    try:
        return list(status_pb2.Status.FromString(packed).details)
    except DecodeError:
        return []


def _violations(details: list[Any]) -> list[Violation]:
    return [
        Violation(violation.field, violation.description)
        for bad_request in _unpacked(details, error_details_pb2.BadRequest)
        for violation in bad_request.field_violations
    ]


def _retry_after_ms(pushback: str | bytes | None, details: list[Any]) -> int | None:
    """Reads the wait from either place. A server that does not want the call again sends a negative pushback."""
    if pushback is not None:
        return _number(pushback)
    waits = (info for info in _unpacked(details, error_details_pb2.RetryInfo) if info.HasField("retry_delay"))
    return next((info.retry_delay.ToMilliseconds() for info in waits), None)


def _unpacked(details: list[Any], kind: type[Any]) -> Iterator[Any]:
    """Yields the details of that kind; unreadable ones are left out."""
    for detail in details:
        message = kind()
        with suppress(DecodeError):
            if detail.Unpack(message):
                yield message


def _number(value: str | bytes | None) -> int | None:
    text = _text(value)
    return int(text) if text.isdecimal() else None


def _text(value: str | bytes | None) -> str:
    return value if isinstance(value, str) else ""
