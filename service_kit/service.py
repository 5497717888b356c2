"""Describes a service, its way in and its surroundings: the types that `life`, the faces and the services agree on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from service_kit.addresses import BindAddress
from service_kit.clock import Clock
from service_kit.liveness import Liveness
from service_kit.metrics import Metrics
from service_kit.readiness import Readiness
from service_kit.sections import ServiceSettings

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
WarmUp = Callable[[], Awaitable[None]]


class Face(Protocol[S_co]):
    """A way into a service. Its methods are called in their order here; `close` also after any of them has failed."""

    @property
    def server(self) -> S_co:
        """Where the service registers what it offers, from `open` to `start`."""

    @property
    def address(self) -> BindAddress:
        """Where it listens, from `open` on."""

    @property
    def running_calls(self) -> int:
        """How many calls run now."""

    async def open(self) -> None:
        """Takes the port. Raises StartError."""

    async def start(self) -> None:
        """Begins to serve, and tells whoever asks whether the service is ready."""

    async def tell_draining(self) -> None:
        """Tells callers to go elsewhere, and goes on serving."""

    async def finish(self) -> None:
        """Takes no new calls and waits until those that run have ended, without a limit."""

    async def close(self) -> None:
        """Cuts off the calls that still run, and gives the port back."""


@dataclass(frozen=True)
class Host(Generic[S]):
    """The surroundings that a service is given when it opens."""

    server: S  # register servicers here
    metrics: Metrics
    readiness: Readiness  # block() and clear() later conditions, such as another service that cannot be reached
    liveness: Liveness  # fail() when only a restart of the process can help
    draining: asyncio.Event  # set when the service begins to go: long calls should come to their end
    clock: Clock


@dataclass(frozen=True)
class Service(Generic[S]):
    """Describes one service.

    `open` is called once: it opens the resources and registers the servicers, quickly, and yields the warm-up. The port is open
    before the warm-up runs, and calls are served; health says NOT_SERVING until the warm-up returns. A warm-up that raises ends
    the service with an error. Leaving the context closes the resources, when no call runs any more.

    `problems` is called before anything opens: what is known already to keep the service from starting, one sentence each.
    """

    name: str  # in the ready line: "inference"
    settings: ServiceSettings
    face: Callable[[Metrics, Readiness, Clock], Face[S]]
    open: Callable[[Host[S]], AbstractAsyncContextManager[WarmUp]]
    problems: Callable[[], Sequence[str]] = lambda: ()
