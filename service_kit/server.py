"""The life of a service: startup, serve, drain, stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import grpc.aio

from service_kit.addresses import BindAddress
from service_kit.metrics import Metrics
from service_kit.readiness import Readiness
from service_kit.sections import ServiceSettings

WarmUp = Callable[[], Awaitable[None]]


class StartError(Exception):
    """The service cannot start, in one sentence that says what to do."""


@dataclass(frozen=True)
class Host:
    """What a service is given when it opens."""

    server: grpc.aio.Server  # register servicers here
    metrics: Metrics
    readiness: Readiness  # block() and clear() later conditions, such as another service that cannot be reached


@dataclass(frozen=True)
class Service:
    """What makes one service out of the kit.

    `open` is called once: it opens the resources and registers the servicers, quickly, and yields the warm-up. The port is open
    before the warm-up runs, and calls are served; health says NOT_SERVING until the warm-up returns. A warm-up that raises ends
    the service with an error. Leaving the context closes the resources, when no call runs any more.
    """

    name: str  # in the ready line and in log lines: "inference"
    grpc_services: tuple[str, ...]  # full names, for health and reflection: ("inference.InferenceService",)
    open: Callable[[Host], AbstractAsyncContextManager[WarmUp]]


class GrpcServer:
    """One running service; several can live in one process. `async with GrpcServer(service, settings)` starts it and ends it."""

    address: BindAddress  # where gRPC listens, once started
    metrics_address: BindAddress | None  # where HTTP listens; None when switched off
    metrics: Metrics
    readiness: Readiness

    def __init__(self, service: Service, settings: ServiceSettings) -> None: ...

    async def startup(self) -> None:
        """Opens the ports and the resources, warms up. StartError when that cannot be."""

    async def serve(self) -> None:
        """Waits until `request_stop` is called."""

    async def drain(self) -> None:
        """Says NOT_SERVING and goes on serving for drain_seconds."""

    async def stop(self) -> None:
        """Lets running calls finish within grace_seconds, then closes everything in reverse order."""

    def request_stop(self) -> None:
        """Ends `serve`; a second time: cuts drain and grace short."""


def run_service(service: Service, settings: ServiceSettings) -> int:
    """Runs one service in this process until SIGTERM or SIGINT: logging, malloc, ready line, orderly end. Returns the exit code.

    Prints exactly one line to stdout when ready: `ready <name> <host>:<port> metrics <host>:<port>` (`metrics off` without).
    """
    raise NotImplementedError
