"""The life of services in one process: startup, serving, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from service_kit import tracing
from service_kit.addresses import BindAddress
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.collector import spare_what_stays
from service_kit.http_endpoint import HttpEndpoint
from service_kit.listening import StartError, open_metrics_port
from service_kit.logs import configure_logging
from service_kit.malloc import tune_malloc
from service_kit.metrics import Metrics
from service_kit.process_end import ProcessEnd
from service_kit.readiness import Liveness, Readiness
from service_kit.sections import LoggingSection, TracingSection
from service_kit.service import Host, Service
from service_kit.settings import chosen, effective
from service_kit.tasks import beside
from service_kit.tls import tls_problems
from service_kit.trimming import trim_when_idle

# Closing may take so long, once the last call has ended: enough for the end of a load or a run under way.
CLOSE_SECONDS = 5.0
# Threads may run so long after that. One that reads from a dead disk would keep the process.
THREADS_SECONDS = 2.0

S = TypeVar("S")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StopRequest:
    """Asks services to end. A second request cuts drain and grace short."""

    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self) -> None:
        """Asks once more. Call it on the event loop."""
        if self.wanted.is_set():
            self.hurry.set()
        self.wanted.set()


class RunningService(Generic[S]):
    """Runs one service. `async with RunningService(service)` starts it and ends it. `close` must follow a step that failed."""

    metrics_address: BindAddress | None = None  # of HTTP, from `open` on; None when it is switched off

    def __init__(self, service: Service[S], *, clock: Clock = SYSTEM_CLOCK, stop: StopRequest | None = None) -> None:
        self.metrics = Metrics()
        self.readiness = Readiness()
        self.liveness = Liveness()  # on the system's clock, because a thread reads it
        self.draining = asyncio.Event()
        self.stop_request = stop or StopRequest()
        self.face = service.face(self.metrics, self.readiness, clock)
        self._service = service
        self._clock = clock
        self._resources = AsyncExitStack()

    @property
    def address(self) -> BindAddress:
        """The face's first address, from `open` on."""
        return next(iter(self.face.addresses.values()))

    async def open(self) -> None:
        """Opens the ports and the resources, and serves. Raises StartError when that is impossible."""
        self.readiness.block("startup", "the service is starting")
        if problems := [*tls_problems(self._service.settings.tls, key="tls"), *self._service.problems()]:
            raise StartError("; ".join(problems))
        await self.face.open()
        self._open_http()
        await self._resources.enter_async_context(beside(self.liveness.beat()))
        face = self.face
        host = Host(
            face.server, self.metrics, self.readiness, self.liveness, self.draining, face.calls, self._clock, face.addresses
        )
        self._warm_up = await self._resources.enter_async_context(self._service.open(host))
        await self.face.start()

    async def warm_up(self) -> None:
        """Does the work after which the service is ready."""
        await self._warm_up()
        self.readiness.clear("startup")

    async def drain(self) -> None:
        """Announces the end, and serves for drain_seconds more, until load balancers have noticed."""
        log.info("draining", extra={"running_calls": self.face.calls.running})
        self.readiness.block("shutdown", "the service is shutting down")
        self.draining.set()
        await self.face.announce_drain()
        await _first_of(self.stop_request.hurry.wait(), self._clock.sleep(self._service.settings.server.drain_seconds))

    async def finish(self) -> None:
        """Lets running calls end within grace_seconds, then cuts them off."""
        grace_s = self._service.settings.server.grace_seconds
        await _first_of(self.face.finish(), self.stop_request.hurry.wait(), self._clock.sleep(grace_s))
        if self.face.calls.running:
            log.warning("%d running calls are cut off", self.face.calls.running)
        await self.face.close()

    async def close(self) -> None:
        """Closes everything in reverse order."""
        await self.face.close()
        await self._resources.aclose()

    async def startup(self) -> None:
        """Opens and warms up. Closes everything when that fails."""
        try:
            await self.open()
            await self.warm_up()
        except BaseException:
            await self.close()
            raise

    async def stop(self) -> None:
        """Finishes the running calls and closes."""
        await self.finish()
        await self.close()

    async def __aenter__(self) -> Self:
        await self.startup()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.drain()
        await self.stop()

    def _open_http(self) -> None:
        section = self._service.settings.metrics
        if section.enabled:
            live, ready = (lambda: self.liveness.reason), (lambda: self.readiness.reason)
            open_at = partial(HttpEndpoint, registry=self.metrics.registry, live=live, ready=ready)
            endpoint = open_metrics_port(section.port, self.address, open_at)
            self._resources.callback(endpoint.close)
            self.metrics_address = endpoint.address


def run_service(service: Service[Any]) -> int:
    """Runs one service in this process, as `run_services` does."""
    settings = service.settings
    return run_services([service], name=service.name, section=settings.logging, traces=settings.tracing)


def run_services(services: Sequence[Service[Any]], *, name: str, section: LoggingSection, traces: TracingSection) -> int:
    """Runs services in this process until SIGTERM or SIGINT. Returns the exit code.

    They open one after the other, warm up at the same time, drain and finish their calls at the same time, and close in reverse
    order. One that cannot start ends all. Each that is ready prints a line for each port to stdout: `ready <name> <host>:<port>
    metrics <host>:<port>` (or `metrics off`). `name` and `section` are of the log, which they share, as they do `traces`.

    Call it last: a process that lives longer than THREADS_SECONDS after it is ended by force.
    """
    tune_malloc()
    _allow_open_files()
    logs = partial(configure_logging, section, name)
    end = ProcessEnd(logs)
    with logs():
        for service in services:
            log.info("starting", extra={"settings": chosen(service.settings)})
            log.debug("settings in force", extra={"settings": effective(service.settings)})
            for warning in service.settings.warnings:
                log.warning("%s", warning)
        try:
            with tracing.exporting(traces, name):
                asyncio.run(_life(services, end))
        except StartError as error:
            log.error("cannot start: %s", error)
            return 1
        except Exception:
            log.exception("ended by an error")
            return 1
        log.info("stopped")
        return 0


def _allow_open_files() -> None:
    """Raises the limit of open files to the largest allowed one: each loaded avatar keeps its folder open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _life(services: Sequence[Service[Any]], end: ProcessEnd) -> None:
    stop = StopRequest()
    _listen(
        end, stop, longest_s=max(each.settings.server.drain_seconds + each.settings.server.grace_seconds for each in services)
    )

    async def wanted() -> None:
        await stop.wanted.wait()
        end.within(CLOSE_SECONDS)

    try:
        async with AsyncExitStack() as opened:
            await opened.enter_async_context(beside(trim_when_idle(SYSTEM_CLOCK)))
            running = [RunningService(service, stop=stop) for service in services]
            if await _first_of(_start(running, opened), wanted()):
                await stop.wanted.wait()
                await _all(each.drain() for each in running)
                await _all(each.finish() for each in running)
            end.within(CLOSE_SECONDS)
        end.exit_code = 0
    finally:
        end.within(THREADS_SECONDS)


def _listen(end: ProcessEnd, stop: StopRequest, *, longest_s: float) -> None:
    """Lets signals ask for the stop, and ends the process when the stop takes too long."""
    loop = asyncio.get_running_loop()
    signals = count()

    def heard() -> None:
        end.within(CLOSE_SECONDS if next(signals) else longest_s + CLOSE_SECONDS)
        with suppress(RuntimeError):  # the loop is closed: only threads are left
            loop.call_soon_threadsafe(stop.ask)

    end.listen(heard)


async def _start(running: Iterable[RunningService[Any]], opened: AsyncExitStack) -> None:
    for each in running:
        opened.push_async_callback(each.close)
        await each.open()
    await _all(map(_warm_up, running))
    spare_what_stays()


async def _warm_up(running: RunningService[Any]) -> None:
    """Warms up and prints the lines for the scripts that started this process."""
    await running.warm_up()
    metrics = running.metrics_address.reachable if running.metrics_address else "off"
    for name, address in running.face.addresses.items():
        log.info("ready", extra={"serves": name, "address": str(address), "metrics": metrics})
        with suppress(OSError):
            print(f"ready {name} {address.reachable} metrics {metrics}", flush=True)  # noqa: T201


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs all at the same time. The first error cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for each in work:
                tasks.create_task(each)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _first_of(work: Coroutine[Any, Any, Any], *ends: Coroutine[Any, Any, Any]) -> bool:
    """Waits until one has ended, and cancels the others. Returns True when `work` has ended by itself, and raises its error."""
    tasks = [asyncio.create_task(each) for each in (work, *ends)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            return False
        await tasks[0]
        return True
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
