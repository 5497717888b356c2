"""The one error that calls raise, read from the gRPC status and its details."""

from __future__ import annotations

from collections.abc import Iterable

import grpc

from shared_proto.status_details import StatusDetails, Violation

__all__ = ["LipsyncError", "Violation", "from_rpc_error"]

# Explanations of gRPC's messages about a connection that failed. The first that matches counts.
NO_CONNECTION = ("failed to connect to all addresses", "connections to all backends failing")
CLOSED = "the server closed the connection: it may require TLS, or a client certificate that it trusts"
CAUSES = {
    "Expected SETTINGS frame": "no gRPC is spoken at this port: name that of the compositing service, 50052 by default",
    "Connection refused": "nothing listens at this address: does the server run?",
    "WRONG_VERSION_NUMBER": "the server does not speak TLS at this address",
    "certificate has expired": "the server's certificate has expired",
    "certificate is not yet valid": "the server's certificate is not valid yet: are both clocks right?",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not signed by an authority that this client trusts",
    "Hostname Verification Check failed": "the server's certificate does not have the name by which it was called",
    "Socket closed": CLOSED,
    "Connection reset": CLOSED,
}

# gRPC's asyncio client says this, and drops the server's status, when the server ends a stream before a message is written.
# Another attempt finds out why.
OVERTAKEN = "Internal error from Core"


class LipsyncError(Exception):
    """A call failed.

    `code` is the gRPC status; `message` says what to do; `violations` lists every problem of a request that was refused as
    invalid; `request_id` finds the call in the logs of both services; `retry_after_ms` is set when the server says how long to
    wait before trying again, `fitting_batch_size` when it says how many frames a reply can hold; `from_server` tells that the
    service itself ended the call so, not the connection, a proxy or this client.
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
        from_server: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.violations = tuple(violations)
        self.request_id = request_id
        self.retry_after_ms = retry_after_ms
        self.fitting_batch_size = fitting_batch_size
        self.from_server = from_server

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def from_rpc_error(error: grpc.RpcError, request_id: str) -> LipsyncError:
    """Reads status, details and trailing metadata of a failed call, blocking or asyncio."""
    details = StatusDetails.of(error)
    if error.code() is grpc.StatusCode.INTERNAL and error.details() == OVERTAKEN:
        return LipsyncError(grpc.StatusCode.UNAVAILABLE, "the call ended while a message was written", request_id=request_id)
    return LipsyncError(
        error.code(),
        _explained(error.details() or "no reason given"),
        violations=details.violations,
        request_id=details.request_id or request_id,
        retry_after_ms=details.retry_after_ms,
        fitting_batch_size=details.fitting_batch_size,
        from_server=bool(details.request_id),
    )


def _explained(details: str) -> str:
    """Puts an explanation in front of gRPC's words where one is known."""
    if not details.startswith(NO_CONNECTION):
        return details
    cause = next((meaning for words, meaning in CAUSES.items() if words in details), None)
    return f"{cause} ({details})" if cause else details
