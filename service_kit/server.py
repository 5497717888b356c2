"""The life of a service: startup, serve, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import grpc.aio

from service_kit.addresses import BindAddress
from service_kit.admission import RunningCalls
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.health import HealthReporter
from service_kit.http_endpoint import HttpEndpoint
from service_kit.interceptors import call_chain
from service_kit.listening import StartError, message_limit_bytes, open_grpc_port, open_metrics_port, server_options
from service_kit.liveness import Liveness
from service_kit.logs import configure_logging
from service_kit.malloc import tune_malloc
from service_kit.metrics import Metrics
from service_kit.readiness import Readiness
from service_kit.sections import ServiceSettings
from service_kit.settings import effective
from service_kit.tls import ServerTls, tls_problems

__all__ = ["GrpcServer", "Host", "Service", "StartError", "WarmUp", "run_service"]

# How long health may take to tell its watchers, and how long closing all resources may take.
TELL_SECONDS = 1.0
CLOSE_SECONDS = 30.0
# Then, how long threads may go on with what they are at. One that reads from a dead disk would keep the process for ever.
THREADS_SECONDS = 5.0
LAST_LINE_SECONDS = 0.5  # for the log's own thread to write it

WarmUp = Callable[[], Awaitable[None]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Host:
    """What a service is given when it opens."""

    server: grpc.aio.Server  # register servicers here
    metrics: Metrics
    readiness: Readiness  # block() and clear() later conditions, such as another service that cannot be reached
    liveness: Liveness  # fail() when only a restart of the process can help
    draining: asyncio.Event  # set when the service begins to go: long calls should come to their end
    clock: Clock


@dataclass(frozen=True)
class Service:
    """What makes one service out of the kit.

    `open` is called once: it opens the resources and registers the servicers, quickly, and yields the warm-up. The port is open
    before the warm-up runs, and calls are served; health says NOT_SERVING until the warm-up returns. A warm-up that raises ends
    the service with an error. Leaving the context closes the resources, when no call runs any more.

    `problems` is called before anything opens: what is known already to keep the service from starting, one sentence each.
    """

    name: str  # in the ready line and in log lines: "inference"
    grpc_services: tuple[str, ...]  # full names, for health and reflection: ("inference.InferenceService",)
    open: Callable[[Host], AbstractAsyncContextManager[WarmUp]]
    problems: Callable[[], Sequence[str]] = lambda: ()


class GrpcServer:
    """One running service; several can live in one process. `async with GrpcServer(service, settings)` starts it and ends it.

    `address` is where gRPC listens and `metrics_address` where HTTP does (None when switched off), both from `startup` on.
    """

    address: BindAddress
    metrics_address: BindAddress | None = None

    def __init__(self, service: Service, settings: ServiceSettings, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.metrics = Metrics()
        self.readiness = Readiness()
        self.liveness = Liveness()  # on the system's clock: its other side is a thread
        self.draining = asyncio.Event()
        self.calls = RunningCalls(settings.server.max_running_calls)
        self.metrics.watch_calls(lambda: self.calls.running, limit=self.calls.limit)
        self.stop_wanted = asyncio.Event()
        self._service = service
        self._settings = settings
        self._clock = clock
        self._resources = AsyncExitStack()
        self._hurry_wanted = asyncio.Event()

    async def startup(self) -> None:
        """Opens the ports and the resources and warms up. StartError says why when that cannot be; nothing stays open then."""
        self.readiness.block("startup", "the service is starting")
        if problems := [*tls_problems(self._settings.tls, key="tls"), *self._service.problems()]:
            raise StartError("; ".join(problems))
        try:
            await self._open()
            await self._server.start()
            warm_up = self._warm_up
            await warm_up()
        except BaseException:
            await self._close()
            raise
        self.readiness.clear("startup")

    async def serve(self) -> None:
        """Waits until `request_stop` is called."""
        await self.stop_wanted.wait()

    async def drain(self) -> None:
        """Says NOT_SERVING and goes on serving for drain_seconds, until the load balancers have noticed."""
        self.readiness.block("shutdown", "the service is shutting down")
        self.draining.set()
        try:
            async with asyncio.timeout(TELL_SECONDS):
                await self._health.shut_down()
        except TimeoutError:
            _log.warning("a health watcher does not read: it was not told of the shutdown")
        await _unless(self._hurry_wanted, self._clock.sleep(self._settings.server.drain_seconds))

    async def stop(self) -> None:
        """Lets running calls finish within grace_seconds, then closes everything in reverse order."""
        self.calls.end_open_ended()
        await _unless(
            self._hurry_wanted,
            self._server.stop(self._settings.server.grace_seconds + CLOSE_SECONDS),
            timeout_s=self._settings.server.grace_seconds,
        )
        if self.calls.running:
            _log.warning("%d running calls are cut off", self.calls.running)
        await self._server.stop(None)
        await self._close()

    def request_stop(self) -> None:
        """Ends `serve`; called again, cuts drain and grace short."""
        if self.stop_wanted.is_set():
            self._hurry_wanted.set()
        self.stop_wanted.set()

    async def __aenter__(self) -> Self:
        await self.startup()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.drain()
        await self.stop()

    async def _open(self) -> None:
        section = self._settings.server
        chain = call_chain(
            self.metrics,
            self.calls,
            max_reply_bytes=message_limit_bytes(section),
            sample_rate=self._settings.logging.sample_rate,
            client_names=self._settings.tls.allowed_client_names if self._settings.tls.is_on else (),
        )
        self._server = grpc.aio.server(interceptors=[chain], options=server_options(section))
        self._resources.push_async_callback(self._server.stop, None)
        await self._open_grpc()
        self._open_http()
        await self._resources.enter_async_context(_beside(self.liveness.beat()))
        host = Host(self._server, self.metrics, self.readiness, self.liveness, self.draining, self._clock)
        self._warm_up = await self._resources.enter_async_context(self._service.open(host))
        self._health = HealthReporter(self.readiness, self._service.grpc_services)
        await self._health.register(self._server)
        await self._resources.enter_async_context(_beside(self._health.follow()))

    async def _open_grpc(self) -> None:
        tls = ServerTls(self._settings.tls, self.metrics) if self._settings.tls.is_on else None
        self.address = open_grpc_port(self._server, self._settings.server.port, tls.credentials if tls else None)
        if tls:
            await self._resources.enter_async_context(_beside(tls.follow()))

    def _open_http(self) -> None:
        section = self._settings.metrics
        if section.enabled:
            open_at = partial(
                HttpEndpoint,
                registry=self.metrics.registry,
                live=lambda: self.liveness.reason,
                ready=lambda: self.readiness.reason,
            )
            endpoint = open_metrics_port(section.port, self.address, open_at)
            self._resources.callback(endpoint.close)
            self.metrics_address = endpoint.start().address

    async def _close(self) -> None:
        async with asyncio.timeout(CLOSE_SECONDS):
            await self._resources.aclose()


def run_service(service: Service, settings: ServiceSettings) -> int:
    """Runs one service in this process until SIGTERM or SIGINT: malloc, logging, ready line, orderly end. Returns the exit code.

    Prints exactly one line to stdout when ready: `ready <name> <host>:<port> metrics <host>:<port>` (`metrics off` without).
    """
    tune_malloc()
    with configure_logging(settings.logging, service.name):
        _log.info("starting", extra={"settings": effective(settings)})
        for warning in settings.warnings:
            _log.warning("%s", warning)
        try:
            asyncio.run(_life(service, settings))
        except StartError as error:
            _log.error("cannot start: %s", error)
            return 1
        except Exception:
            _log.exception("ended by an error")
            return 1
        _log.info("stopped")
        return 0


async def _life(service: Service, settings: ServiceSettings) -> None:
    server = GrpcServer(service, settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.request_stop)
    if not await _unless(server.stop_wanted, server.startup()):
        return
    _announce(service.name, server)
    await server.serve()
    _log.info("draining", extra={"running_calls": server.calls.running})
    await server.drain()
    await server.stop()
    last = threading.Timer(THREADS_SECONDS, _leave_threads)
    last.daemon = True
    last.start()


def _leave_threads() -> None:
    """Ends the process although threads still work: all calls have ended and everything is closed."""
    names = sorted(thread.name for thread in threading.enumerate() if thread.is_alive() and not thread.daemon)
    _log.warning("stopped without waiting for threads any longer", extra={"threads": ", ".join(names)})
    time.sleep(LAST_LINE_SECONDS)
    os._exit(0)


def _announce(name: str, server: GrpcServer) -> None:
    """The one line on stdout, for the scripts that started this process."""
    metrics = server.metrics_address.reachable if server.metrics_address else "off"
    _log.info("ready", extra={"address": str(server.address), "metrics": metrics})
    with suppress(OSError):
        print(f"ready {name} {server.address.reachable} metrics {metrics}", flush=True)  # noqa: T201


async def _unless(event: asyncio.Event, work: Awaitable[Any], *, timeout_s: float | None = None) -> bool:
    """Whether `work` ended before `event` was set and in time; otherwise it is cancelled, and its end awaited."""
    task = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, waiting}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
            return True
        return False
    finally:
        task.cancel()
        waiting.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs endless work as long as the block lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
