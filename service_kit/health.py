"""grpc.health.v1 and reflection: what load balancers, orchestrators and curious people ask any gRPC port."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service_kit.readiness import Readiness

_Status = health_pb2.HealthCheckResponse


class HealthReporter:
    """Says SERVING for "" and for each service exactly while the readiness has no reason against it."""

    def __init__(self, readiness: Readiness, grpc_services: Sequence[str]) -> None:
        self._servicer: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]  # missing in the stubs
        self._readiness = readiness
        self._names = ("", *grpc_services)
        self._changed = asyncio.Event()
        readiness.subscribe(lambda _: self._changed.set())

    async def register(self, server: grpc.aio.Server) -> None:
        """Before the server starts, so that the first answer is true already."""
        await self._tell()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        names = (*self._names[1:], health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)

    async def follow(self) -> None:
        """Tells every change, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._tell()

    async def shut_down(self) -> None:
        """NOT_SERVING from now on, whatever becomes of the readiness."""
        await self._servicer.enter_graceful_shutdown()

    async def _tell(self) -> None:
        status = _Status.SERVING if self._readiness.reason is None else _Status.NOT_SERVING
        for name in self._names:
            await self._servicer.set(name, status)
