"""Turns failures of the inference service into errors for our caller.

A refusal that the caller can act on keeps its code, words and details. Everything else gets our own words: gRPC's texts for
lost connections contain addresses.
"""

from __future__ import annotations

import grpc

from service_kit.errors import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    ServiceError,
    Unavailable,
    Violation,
)
from shared_proto.status_details import StatusDetails

# Fields of an InferBatchRequest that we set and callers do not know.
_OUR_FIELDS = frozenset({"frame_indices", "mouth_format", "mouth_fit", "avatar_version"})
# The error for refused indices: they are ours, made from our copy of the avatar.
OUT_OF_STEP = (
    "the two services hold different versions of this avatar; give both the same files and load it again with force_reload"
)
_TOO_OLD = "this version returns no feature rows, which live sessions need; update it"
# CANCELLED that we did not ask for means that the server stopped.
_NOT_LET_IN = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
_LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
# gRPC has several codes for a connection that breaks.
_BROKEN = frozenset({grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED, grpc.StatusCode.DATA_LOSS})


class RefusedByInference(ServiceError):
    """The inference service refused the request without a list of fields."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class InferenceFailed(ServiceError):
    """The inference service failed, or sent an unfitting answer. Its log and ours have details."""

    code = grpc.StatusCode.INTERNAL


def is_lost(error: grpc.aio.AioRpcError) -> bool:
    """Returns True if the service was unreachable or went away, or is too old, so that a retry, perhaps elsewhere, may help."""
    return error.code() in _LOST or _refuses_growing_sound(error)


def without_rows() -> grpc.aio.AioRpcError:
    """Makes the error for a service that sent mouths of a growing sound without its rows."""
    return lost(_TOO_OLD)


def lost(why: str) -> grpc.aio.AioRpcError:
    """Makes the error for a service that went away."""
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), why, "")


def of_broken_stream(error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
    """Returns the error of the orders whose lasting call has ended so."""
    return lost(f"{error.code().name}: {error.details()}") if error.code() in _BROKEN else error


def _refuses_growing_sound(error: grpc.aio.AioRpcError) -> bool:
    """Tells if an older service refused a growing sound for its place alone. That of callers' own sound was checked before."""
    return error.code() is InvalidRequest.code and [each.field for each in StatusDetails.of(error).violations] == [
        "lead_in_frames"
    ]


def as_service_error(error: grpc.aio.AioRpcError, *, waited_s: float) -> ServiceError:
    """Makes the error for our caller. `waited_s`: the seconds that we waited for the inference service."""
    code = error.code()
    if is_lost(error):
        return Unavailable("the inference service cannot be reached; try again shortly")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(
            f"the inference service did not finish within {waited_s:.3g} s; allow more time or ask for fewer frames"
        )
    if code in _NOT_LET_IN:
        return InferenceFailed("the inference service does not let this service in; the operators must give it another API key")
    return _refusal(error) or InferenceFailed("the inference service failed; its log has the reason under this request's id")


def _refusal(error: grpc.aio.AioRpcError) -> ServiceError | None:
    """Returns the error for a refusal that the caller can act on."""
    code, details = error.code(), StatusDetails.of(error)
    if code is OutOfRange.code:
        return FailedPrecondition(OUT_OF_STEP)
    words = error.details() or "refused by the inference service"
    if code is ResourceExhausted.code:
        return ResourceExhausted(words, retry_after_ms=details.retry_after_ms)
    if code is InvalidRequest.code and details.violations:
        if any(each.field.split("[")[0] in _OUR_FIELDS for each in details.violations):
            return FailedPrecondition(OUT_OF_STEP)
        return InvalidRequest([Violation(each.field, each.description) for each in details.violations])
    kinds = (RefusedByInference, NotFound, FailedPrecondition, Aborted)
    return next((kind(words) for kind in kinds if code is kind.code), None)
