"""Tries a request again where the inference service was lost, and one for a session's place where it was refused."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection

import grpc
from grpc import aio

from compositing_service.metrics import CompositingMetrics
from compositing_service.upstream.channels import Endpoint
from compositing_service.upstream.errors import as_service_error, is_lost
from service_kit.clock import Clock
from service_kit.deadline import Deadline

_FIRST_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 0.5

log = logging.getLogger(__name__)


class Attempts:
    """Counts the retries of one request, and keeps the failed endpoints and the wait before the next try."""

    def __init__(
        self,
        deadline: Deadline,
        endpoints: Collection[Endpoint],
        *,
        for_place: bool,
        max_retries: int,
        metrics: CompositingMetrics,
        clock: Clock,
    ) -> None:
        """`for_place`: it asks for a session's place, which another of `endpoints` may have."""
        self.failed_at: set[Endpoint] = set()
        self._endpoints = endpoints
        self._for_place = for_place
        self._refusal: aio.AioRpcError | None = None
        self._deadline = deadline
        self._given_s = deadline.remaining_s()
        self._retries = 0
        self._max_retries = max_retries
        self._metrics = metrics
        self._clock = clock

    async def failed(self, error: aio.AioRpcError, endpoint: Endpoint, *, until: Deadline) -> None:
        """Waits until the next try, which must come before `until`, or raises the ServiceError for the caller."""
        self._metrics.upstream_errors.labels(error.code().name).inc()
        self.failed_at.add(endpoint)
        if self._for_place and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            self._refusal = error
            if not self.failed_at.issuperset(self._endpoints):
                return
        spread = random.uniform(0.8, 1.2)  # noqa: S311 - keeps callers from coming back all at once
        backoff_s = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2**self._retries) * spread
        if not is_lost(error) or self._retries >= self._max_retries or backoff_s >= until.remaining_s():
            log.warning("inference call failed after %d retries: %s %s", self._retries, error.code().name, error.details())
            # Without a place at any it says when to come again, whatever happened at the others.
            raise as_service_error(self._refusal or error, waited_s=self._given_s - self._deadline.remaining_s()) from None
        self._retries += 1
        self._metrics.upstream_retries.inc()
        await self._clock.sleep(backoff_s)
