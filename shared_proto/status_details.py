"""Reads the part of a gRPC status that travels in trailing metadata: problems of a request, and when to come back."""

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


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with a request: the field's name in the .proto file, and a sentence about the allowed values."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class StatusDetails:
    """The details of a failed call, blocking or asyncio. Unreadable ones count as none; the status itself remains valid."""

    violations: tuple[Violation, ...]
    retry_after_ms: int | None
    """None if the server wants no retry."""
    fitting_batch_size: int | None
    request_id: str

    @classmethod
    def of(cls, error: grpc.RpcError) -> StatusDetails:
        """Reads the trailing metadata of a call's error."""
        trailing = dict(cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ()))
        details = _details(trailing.get(DETAILS_KEY))
        violations = (
            Violation(violation.field, violation.description)
            for bad_request in _unpacked(details, error_details_pb2.BadRequest)
            for violation in bad_request.field_violations
        )
        return cls(
            tuple(violations),
            _retry_after_ms(trailing.get(PUSHBACK_KEY), details),
            _number(trailing.get(FITTING_KEY)),
            _text(trailing.get(REQUEST_ID_KEY)),
        )


def _details(packed: str | bytes | None) -> list[Any]:
    """Unpacks the details of a google.rpc.Status."""
    if not isinstance(packed, bytes):
        return []
    try:
        return list(status_pb2.Status.FromString(packed).details)
    except DecodeError:
        return []


def _unpacked(details: list[Any], kind: type[Any]) -> Iterator[Any]:
    """Yields the details of that kind; unreadable ones are left out."""
    for detail in details:
        message = kind()
        with suppress(DecodeError):
            if detail.Unpack(message):
                yield message


def _retry_after_ms(pushback: str | bytes | None, details: list[Any]) -> int | None:
    """Reads the wait from either place. A server that wants no retry sends a negative pushback."""
    if pushback is not None:
        return _number(pushback)
    waits = (info for info in _unpacked(details, error_details_pb2.RetryInfo) if info.HasField("retry_delay"))
    return next((info.retry_delay.ToMilliseconds() for info in waits), None)


def _number(value: str | bytes | None) -> int | None:
    text = _text(value)
    return int(text) if text.isdecimal() else None


def _text(value: str | bytes | None) -> str:
    return value if isinstance(value, str) else ""
