"""What surrounds every call: request id, metrics, exception to status, the limit of running calls, in this order."""

from __future__ import annotations

import grpc.aio

from service_kit.admission import RunningCalls
from service_kit.metrics import Metrics


def server_interceptors(metrics: Metrics, calls: RunningCalls | None = None) -> list[grpc.aio.ServerInterceptor]:
    """The chain for grpc.aio.server. Handlers raise ServiceError; what leaves is a status, never UNKNOWN."""
    raise NotImplementedError
