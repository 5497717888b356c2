"""What a failure of the inference service means for our caller.

A refusal that the caller can act on passes through with its code, words and details. Everything else is said in our own words:
the texts that gRPC makes for lost connections carry addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from service_kit.errors import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    ResourceExhausted,
    ServiceError,
    Unavailable,
    Violation,
)

_PUSHBACK_KEY = "grpc-retry-pushback-ms"
# Fields of an InferBatchRequest that we fill in and callers do not know.
_OUR_FIELDS = frozenset({"frame_indices", "mouth_format", "avatar_version"})
# CANCELLED without our having cancelled is a server that stopped.
_LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})


class RefusedByInference(ServiceError):
    """The inference service finds the request wrong and gives no list of fields."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class InferenceFailed(ServiceError):
    """The inference service failed, or answered with what does not fit. Its log and ours say more."""

    code = grpc.StatusCode.INTERNAL


def is_lost(error: grpc.aio.AioRpcError) -> bool:
    """Whether the service could not be reached or went away, so that asking again may help."""
    return error.code() in _LOST


def as_service_error(error: grpc.aio.AioRpcError, *, waited_s: float) -> ServiceError:
    """The error that our caller sees. `waited_s`: how long the inference service has had."""
    code = error.code()
    if is_lost(error):
        return Unavailable("the inference service cannot be reached; try again shortly")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(
            f"the inference service did not finish within {waited_s:.3g} s; allow more time or ask for fewer frames"
        )
    if (refusal := _REFUSALS.get(code)) is not None:
        return refusal(error)
    return InferenceFailed("the inference service failed; its log has the reason under this request's id")


def _words(error: grpc.aio.AioRpcError) -> str:
    return error.details() or "refused by the inference service"


def _invalid(error: grpc.aio.AioRpcError) -> ServiceError:
    violations = _violations(error)
    if any(violation.field.split("[")[0] in _OUR_FIELDS for violation in violations):
        return _out_of_step()
    return InvalidRequest(violations) if violations else RefusedByInference(_words(error))


def _out_of_step() -> ServiceError:
    """The indices that the inference service refuses are ours, made from our copy of the avatar."""
    return FailedPrecondition(
        "the two services hold different versions of this avatar; give both the same files and load it again with force_reload"
    )


def _violations(error: grpc.aio.AioRpcError) -> list[Violation]:
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # has the methods, not the class
    except ValueError:  # details that contradict the status
        return []
    bad_request = error_details_pb2.BadRequest()
    return [
        Violation(violation.field, violation.description)
        for detail in (status.details if status else ())
        if detail.Unpack(bad_request)
        for violation in bad_request.field_violations
    ]


def _pushback_ms(error: grpc.aio.AioRpcError) -> int | None:
    """When to try again, as the inference service says; None: not at all."""
    trailing: Iterable[Any] = error.trailing_metadata()  # pairs, whatever the stubs say
    waits = [value for key, value in trailing if key == _PUSHBACK_KEY]
    return int(waits[0]) if waits and waits[0].isdecimal() else None


_REFUSALS: dict[grpc.StatusCode, Callable[[grpc.aio.AioRpcError], ServiceError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: _invalid,
    grpc.StatusCode.OUT_OF_RANGE: lambda _: _out_of_step(),
    grpc.StatusCode.RESOURCE_EXHAUSTED: lambda error: ResourceExhausted(_words(error), retry_after_ms=_pushback_ms(error)),
    grpc.StatusCode.NOT_FOUND: lambda error: NotFound(_words(error)),
    grpc.StatusCode.FAILED_PRECONDITION: lambda error: FailedPrecondition(_words(error)),
    grpc.StatusCode.ABORTED: lambda error: Aborted(_words(error)),
}
