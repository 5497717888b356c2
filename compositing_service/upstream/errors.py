"""Turns failures of the inference service into errors for our caller.

A refusal that the caller can act on keeps its code, words and details. Everything else gets our own words: gRPC's texts for
lost connections contain addresses.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc

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
from shared_proto.status_details import StatusDetails

# Fields of an InferBatchRequest that we set and callers do not know.
_OUR_FIELDS = frozenset({"frame_indices", "mouth_format", "avatar_version"})
# CANCELLED that we did not ask for means that the server stopped.
_LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})


class RefusedByInference(ServiceError):
    """The inference service refused the request without a list of fields."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class InferenceFailed(ServiceError):
    """The inference service failed, or sent an unfitting answer. Its log and ours have details."""

    code = grpc.StatusCode.INTERNAL


def is_lost(error: grpc.aio.AioRpcError) -> bool:
    """Returns True if the service was unreachable or went away, so that a retry may help."""
    return error.code() in _LOST


def as_service_error(error: grpc.aio.AioRpcError, *, waited_s: float) -> ServiceError:
    """Makes the error for our caller. `waited_s`: the seconds that we waited for the inference service."""
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
    violations = [Violation(each.field, each.description) for each in StatusDetails.of(error).violations]
    if any(violation.field.split("[")[0] in _OUR_FIELDS for violation in violations):
        return _out_of_step()
    return InvalidRequest(violations) if violations else RefusedByInference(_words(error))


def _out_of_step() -> ServiceError:
    """Makes the error for refused indices: they are ours, made from our copy of the avatar."""
    return FailedPrecondition(
        "the two services hold different versions of this avatar; give both the same files and load it again with force_reload"
    )


def _exhausted(error: grpc.aio.AioRpcError) -> ServiceError:
    return ResourceExhausted(_words(error), retry_after_ms=StatusDetails.of(error).retry_after_ms)


_REFUSALS: dict[grpc.StatusCode, Callable[[grpc.aio.AioRpcError], ServiceError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: _invalid,
    grpc.StatusCode.OUT_OF_RANGE: lambda _: _out_of_step(),
    grpc.StatusCode.RESOURCE_EXHAUSTED: _exhausted,
    grpc.StatusCode.NOT_FOUND: lambda error: NotFound(_words(error)),
    grpc.StatusCode.FAILED_PRECONDITION: lambda error: FailedPrecondition(_words(error)),
    grpc.StatusCode.ABORTED: lambda error: Aborted(_words(error)),
}
