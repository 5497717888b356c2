"""Describes a service, its face and its host: the types that `life`, the faces and the services share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from service_kit.addresses import BindAddress
from service_kit.admission import RunningCalls
from service_kit.clock import Clock
from service_kit.metrics import Metrics
from service_kit.readiness import Liveness, Readiness
from service_kit.service_settings import ServiceSettings

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
WarmUp = Callable[[], Awaitable[None]]


class Face(Protocol[S_co]):
    """A protocol by which a service is called. Methods are called in this order; `close` also after one of them has failed."""

    @property
    def server(self) -> S_co:
        """The server at which the service registers its handlers, between `open` and `start`."""

    @property
    def addresses(self) -> Mapping[str, BindAddress]:
        """The addresses that it listens on, by name in the ready lines, from `open` on."""

    @property
    def calls(self) -> RunningCalls:
        """The calls that run now."""

    async def open(self) -> None:
        """Takes the port. Raises StartError."""

    async def start(self) -> None:
        """Begins to serve, and to answer health checks."""

    async def announce_drain(self) -> None:
        """Tells callers to go elsewhere, and continues to serve."""

    async def finish(self) -> None:
        """Takes no new calls and waits, without a limit, until the running ones have ended."""

    async def close(self) -> None:
        """Cuts off the calls that still run, and closes the port."""


@dataclass(frozen=True)
class Host(Generic[S]):
    """The parts of the process that a service gets when it opens."""

    server: S  # register servicers here
    metrics: Metrics
    readiness: Readiness  # block() and clear() later, such as for another service that cannot be reached
    liveness: Liveness  # fail() when only a restart of the process can help
    draining: asyncio.Event  # set when the service begins to end: long calls should end too
    calls: RunningCalls  # count requests in it that are no calls of their own
    clock: Clock
    addresses: Mapping[str, BindAddress]  # of the face, for another service of this process


@dataclass(frozen=True)
class Service(Generic[S]):
    """Describes one service.

    `open` is called once. It opens the resources and registers the servicers, quickly, and yields the warm-up. Calls are served
    while the warm-up runs; health says NOT_SERVING until it returns. A warm-up that raises ends the service with an error. The
    context ends, and closes the resources, when no call runs any more.

    `problems` is called before anything opens. It returns known reasons against a start, one sentence each.
    """

    name: str  # in messages: "inference"
    settings: ServiceSettings
    face: Callable[[Metrics, Readiness, Clock], Face[S]]
    open: Callable[[Host[S]], AbstractAsyncContextManager[WarmUp]]
    problems: Callable[[], Sequence[str]] = lambda: ()
