"""Serves grpc.health.v1 and reflection, for load balancers, orchestrators and tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service_kit.readiness import Readiness

_Status = health_pb2.HealthCheckResponse


class HealthReporter:
    """Says SERVING, for "" and for each service, while the service is ready."""

    def __init__(self, readiness: Readiness, grpc_services: Sequence[str]) -> None:
        self._servicer: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]  # missing in the stubs
        self._readiness = readiness
        self._services = grpc_services

    async def register(self, server: grpc.aio.Server) -> None:
        """Registers both. Call it before the server starts, so that the first answer is true."""
        await self._tell()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        reflection.enable_server_reflection((*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    async def follow(self) -> None:
        """Tells every change to watchers, without end."""
        while True:
            await self._readiness.changed.wait()
            self._readiness.changed.clear()
            await self._tell()

    async def shut_down(self) -> None:
        """Says NOT_SERVING from now on, also when the service is ready."""
        await self._servicer.enter_graceful_shutdown()

    async def _tell(self) -> None:
        status = _Status.SERVING if self._readiness.reason is None else _Status.NOT_SERVING
        for name in ("", *self._services):
            await self._servicer.set(name, status)
