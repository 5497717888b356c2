"""Errors that a caller can act on, each with the gRPC status that it becomes.

`service_kit.interceptors` turns them into statuses. The text of any other exception stays in the log. Messages go to callers: no
paths, no internals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc


@dataclass(frozen=True)
class Violation:
    """One problem of a request: the field's name in the .proto file, and a text that says what is wrong and what is allowed."""

    field: str
    description: str


class ServiceError(Exception):
    """Is the base of all errors that callers see. `message` says what to do."""

    code = grpc.StatusCode.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(ServiceError):
    """The request is wrong in every state of the service. Lists every problem at once."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class NotFound(ServiceError):
    """Nothing has this well-formed name."""

    code = grpc.StatusCode.NOT_FOUND


class OutOfRange(ServiceError):
    """This avatar does not have the index, though another may."""

    code = grpc.StatusCode.OUT_OF_RANGE


class Unauthenticated(ServiceError):
    """The call carries no credential, or none that is good."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(ServiceError):
    """The caller is known, and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class FailedPrecondition(ServiceError):
    """The avatar is known, but broken until an operator acts."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(ServiceError):
    """The request lost a race; start again."""

    code = grpc.StatusCode.ABORTED


class Unavailable(ServiceError):
    """The service is loading or draining, or cannot reach the other service. Retry with back-off."""

    code = grpc.StatusCode.UNAVAILABLE


class ResourceExhausted(ServiceError):
    """The queue is full, a limit is reached or a message is too large.

    `retry_after_ms` None: do not retry the same request. `fitting_batch_size`: a `batch_size` that would be accepted.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, *, retry_after_ms: int | None = None, fitting_batch_size: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        self.fitting_batch_size = fitting_batch_size


class DeadlineExceeded(ServiceError):
    """The caller's deadline passed, perhaps while the request waited in a queue."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(ServiceError):
    """An operator has ended the call."""

    code = grpc.StatusCode.CANCELLED


class Problems:
    """Collects the violations of a request, so that all are named at once."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        """Notes one problem."""
        self.violations.append(Violation(field, description))

    @contextmanager
    def noting(self, kind: type[Exception], *, field: str) -> Iterator[None]:
        """Notes an error of `kind` in the block as a problem of `field`, and ends the block."""
        try:
            yield
        except kind as error:
            self.add(field, str(error))

    def raise_if_any(self) -> None:
        """Raises InvalidRequest when anything was noted."""
        if self.violations:
            raise InvalidRequest(self.violations)


_BY_STATUS: dict[str, type[ServiceError]] = {kind.code.name: kind for kind in (NotFound, FailedPrecondition, Aborted)}


@contextmanager
def as_service_errors(kind: type[Exception], *, field: str) -> Iterator[None]:
    """Turns errors of `kind` in its block into ServiceErrors, by their `status` (gRPC's name) and `caller_text`.

    For INVALID_ARGUMENT, `field` names the field of the request.
    """
    try:
        yield
    except kind as error:
        explained: Any = error
        if explained.status == InvalidRequest.code.name:
            raise InvalidRequest([Violation(field, explained.caller_text)]) from error
        raise _BY_STATUS[explained.status](explained.caller_text) from error
