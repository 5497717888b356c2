"""Says in Pipecat's words why the lip-sync server failed."""

from __future__ import annotations

import grpc
from pipecat.utils.errors import ErrorCategory

from lipsync_client import LipsyncError
from lipsync_client.conversation import Silent

_CATEGORIES = {
    grpc.StatusCode.UNAUTHENTICATED: ErrorCategory.AUTHENTICATION,
    grpc.StatusCode.PERMISSION_DENIED: ErrorCategory.AUTHORIZATION,
    grpc.StatusCode.INVALID_ARGUMENT: ErrorCategory.INVALID_REQUEST,
    grpc.StatusCode.NOT_FOUND: ErrorCategory.INVALID_REQUEST,
    grpc.StatusCode.FAILED_PRECONDITION: ErrorCategory.INVALID_REQUEST,
    grpc.StatusCode.UNIMPLEMENTED: ErrorCategory.INVALID_REQUEST,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorCategory.RATE_LIMIT,
    grpc.StatusCode.UNAVAILABLE: ErrorCategory.CONNECTIVITY,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorCategory.CONNECTIVITY,
}


def category_of(error: Exception) -> ErrorCategory | None:
    """Returns the category of a failure."""
    match error:
        case LipsyncError():
            return _CATEGORIES.get(error.code, ErrorCategory.SERVER)
        case Silent():
            return ErrorCategory.CONNECTIVITY
        case ValueError():  # of the session's options
            return ErrorCategory.INVALID_REQUEST
    return None
