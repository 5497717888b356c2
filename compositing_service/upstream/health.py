"""Checks the health of the inference service, at most once a second for all callers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from grpc import aio

from compositing_service.metrics import CompositingMetrics
from compositing_service.upstream.channels import Endpoint
from service_kit.clock import Clock
from shared_proto import inference_pb2

_FRESH_S = 1.0
_TIMEOUT_S = 1.0


class UpstreamHealth:
    """The health of a group of endpoints: healthy if any of them is."""

    def __init__(self, endpoints: Sequence[Endpoint], *, metrics: CompositingMetrics, clock: Clock) -> None:
        self._endpoints = endpoints
        self._metrics = metrics
        self._clock = clock
        self._asking = asyncio.Lock()
        self._fresh_until = -math.inf
        self._healthy = False

    async def healthy(self) -> bool:
        """Returns the health that the endpoints report, not older than a second. Takes a second at most."""
        async with self._asking:
            if self._clock.now() >= self._fresh_until:
                answers = await asyncio.gather(*map(_is_healthy, self._endpoints))
                self._healthy = any(answers)
                self._fresh_until = self._clock.now() + _FRESH_S
                self._metrics.inference_up.set(self._healthy)
        return self._healthy


async def _is_healthy(endpoint: Endpoint) -> bool:
    try:
        reply = await endpoint.stub.Health(inference_pb2.HealthRequest(), timeout=_TIMEOUT_S)
    except aio.AioRpcError:
        return False
    return reply.healthy
