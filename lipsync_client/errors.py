"""The one error that calls raise, read from the gRPC status and its details."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped,unused-ignore]

REQUEST_ID_KEY = "x-request-id"
DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"

# What gRPC's words for a connection that did not come about mean. The first that fits counts.
NO_CONNECTION = ("failed to connect to all addresses", "connections to all backends failing")
CAUSES = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS at this address",
    "certificate has expired": "the server's certificate has expired",
    "certificate is not yet valid": "the server's certificate is not valid yet: are both clocks right?",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not signed by an authority that this client trusts",
    "Hostname Verification Check failed": "the server's certificate does not carry the name by which it was called",
    "Socket closed": "the server hung up: it may want TLS, or a certificate of this client that it trusts",
    "Connection reset": "the server hung up: it may want TLS, or a certificate of this client that it trusts",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with a request: the field's name in the .proto file, and what is wrong and allowed."""

    field: str
    description: str


class LipsyncError(Exception):
    """A call failed.

    `code` is the gRPC status; `message` says what to do; `violations` lists every problem of a request that was refused as
    invalid; `request_id` finds the call in the logs of both services; `retry_after_ms` is set when the server asks to come back
    that much later.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        violations: Iterable[Violation] = (),
        request_id: str = "",
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.violations = tuple(violations)
        self.request_id = request_id
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def from_rpc_error(error: grpc.RpcError, request_id: str) -> LipsyncError:
    """Reads status, details and trailing metadata of a failed call, blocking or asyncio."""
    trailing = dict(cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ()))
    return LipsyncError(
        error.code(),
        _explained(error.details() or "no reason given"),
        violations=_violations(trailing.get(DETAILS_KEY)),
        request_id=_text(trailing.get(REQUEST_ID_KEY)) or request_id,
        retry_after_ms=_pushback(trailing.get(PUSHBACK_KEY)),
    )


def _explained(details: str) -> str:
    """`details`, led by what to do about it where that is known."""
    if not details.startswith(NO_CONNECTION):
        return details
    cause = next((meaning for words, meaning in CAUSES.items() if words in details), None)
    return f"{cause} ({details})" if cause else details


def _violations(packed: str | bytes | None) -> list[Violation]:
    """The field violations inside a packed google.rpc.Status; unreadable details count as none, the status itself stands."""
    if not isinstance(packed, bytes):
        return []
    found: list[Violation] = []
    try:
        for detail in status_pb2.Status.FromString(packed).details:
            bad_request = error_details_pb2.BadRequest()
            if detail.Unpack(bad_request):
                found.extend(Violation(v.field, v.description) for v in bad_request.field_violations)
    except DecodeError:
        return []
    return found


def _pushback(value: str | bytes | None) -> int | None:
    """A server that does not want the call again sends a negative number."""
    text = _text(value)
    return int(text) if text.isdecimal() else None


def _text(value: str | bytes | None) -> str:
    return value if isinstance(value, str) else ""
