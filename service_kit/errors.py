"""Errors that a caller can act on, each with the gRPC status that it becomes.

Code raises these; `service_kit.interceptors` turns them into statuses. The text of any other exception stays in
the log. Messages go to callers: no paths, no internals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

import grpc


@dataclass(frozen=True)
class Violation:
    """One thing wrong with a request: the field's name in the .proto file, and what is wrong and allowed."""

    field: str
    description: str


class ServiceError(Exception):
    """Base of all errors that callers see. `message` says what to do."""

    code = grpc.StatusCode.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(ServiceError):
    """The request is wrong whatever the state of the service. Lists every problem at once."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class NotFound(ServiceError):
    """A well-formed name that nothing bears."""

    code = grpc.StatusCode.NOT_FOUND


class OutOfRange(ServiceError):
    """An index that this avatar does not have, though another may."""

    code = grpc.StatusCode.OUT_OF_RANGE


class PermissionDenied(ServiceError):
    """The caller is known, and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class FailedPrecondition(ServiceError):
    """Known, but broken until an operator acts."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(ServiceError):
    """Lost a race; start again."""

    code = grpc.StatusCode.ABORTED


class Unavailable(ServiceError):
    """Not now: loading, draining, or the other service cannot be reached. Retry with back-off."""

    code = grpc.StatusCode.UNAVAILABLE


class ResourceExhausted(ServiceError):
    """Queue full, limit reached or message too large.

    `retry_after_ms` None: do not retry as it is. `fitting_batch_size`: a `batch_size` that would have been taken.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, *, retry_after_ms: int | None = None, fitting_batch_size: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        self.fitting_batch_size = fitting_batch_size


class DeadlineExceeded(ServiceError):
    """The caller's deadline passed, also while waiting in a queue."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Problems:
    """Collects violations so that a request's every problem is named at once."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        """Notes one problem."""
        self.violations.append(Violation(field, description))

    def raise_if_any(self) -> None:
        """Raises InvalidRequest when anything was noted."""
        if self.violations:
            raise InvalidRequest(self.violations)


class _Explained(Protocol):
    """An error of a library that names the status that it amounts to."""

    status: str  # of gRPC, by name
    caller_text: str


_BY_STATUS: dict[str, type[ServiceError]] = {kind.code.name: kind for kind in (NotFound, FailedPrecondition, Aborted)}


@contextmanager
def as_service_errors(kind: type[Exception], *, field: str) -> Iterator[None]:
    """Turns errors of `kind` in its block into the ServiceErrors that their `status` and `caller_text` ask for.

    `field` of the request is the one at fault when that is INVALID_ARGUMENT.
    """
    try:
        yield
    except kind as error:
        explained = cast("_Explained", error)
        if explained.status == InvalidRequest.code.name:
            raise InvalidRequest([Violation(field, explained.caller_text)]) from error
        raise _BY_STATUS[explained.status](explained.caller_text) from error
