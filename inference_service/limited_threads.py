"""Threads for work that may never end by itself. A step that takes too long is cut short, and its thread given up if that fails.

Python ends no thread from outside, and an avatar's network is a program that its author wrote. ONNX Runtime can be told to end a
run between two operators, and a load between its steps; so each such step of the work names a function that ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from queue import SimpleQueue
from threading import Lock, Thread, local
from typing import Any, TypeVar

from service_kit.clock import SYSTEM_CLOCK, Clock

T = TypeVar("T")

CHECK_SECONDS = 0.5
# How long a step may take to end once it is told to: some operators look only when they are through.
GRACE_SECONDS = 5.0

log = logging.getLogger(__name__)


class Overrun(Exception):
    """A step of the work took longer than it may. The text names the step."""


class Interrupted(RuntimeError):
    """The work was cut short before it began another step."""


@contextmanager
def interruptible(name: str, end: Callable[[], None]) -> Iterator[None]:
    """Surrounds a step of this thread's work, which `end` makes return early, called from another thread.

    Raises Interrupted when the work has been cut short already. On a thread without limits it does nothing.
    """
    work = _THREAD.work
    if work:
        work.mark_step(name, end)
    try:
        yield
    finally:
        if work:
            work.mark_step(name, None)


class LimitedThreads:
    """A pool of threads. Lives on the event loop; `close` must be called."""

    def __init__(self, count: int, name: str, *, on_lost: Callable[[str], None], clock: Clock = SYSTEM_CLOCK) -> None:
        """`on_lost` is called with the reason for each thread that does not return from its work. Another takes its place."""
        self._count = count
        self._name = name
        self._on_lost = on_lost
        self._clock = clock
        self._threads = 0
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._under_way: set[_Work] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._is_closed = False

    async def run(self, function: Callable[[], T], *, limit_s: float | None = None) -> T:
        """Runs a function on a thread, in the caller's context. Raises what it raises.

        Raises Overrun when a step of it takes longer than `limit_s`. When the caller is cancelled, the work is cut short.
        """
        if self._is_closed:
            raise RuntimeError(f"{self._name}: the threads have ended")
        work = _Work(function, limit_s)
        self._under_way.add(work)
        work.ended.add_done_callback(lambda _: self._under_way.discard(work))
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(), name=f"watch-{self._name}", context=Context())
        if self._threads < self._count:
            self._add_thread()
        self._queue.put(work)
        try:
            result: T = await asyncio.shield(work.ended)
        except asyncio.CancelledError:
            work.ended.add_done_callback(_look_at_error)
            work.cut_short()
            raise
        return result

    async def close(self) -> None:
        """Cuts short all work under way and ends the threads. A thread that does not return is left behind."""
        self._is_closed = True
        for work in self._under_way:
            if not work.cut_short():
                work.ended.cancel()
        for _ in range(self._threads):
            self._queue.put(None)
        running = [work.ended for work in self._under_way if not work.ended.done()]
        if running and (await asyncio.wait(running, timeout=GRACE_SECONDS))[1]:
            log.error("%s: a thread does not return and is left behind", self._name)
        if self._watcher:
            self._watcher.cancel()

    def _add_thread(self) -> None:
        self._threads += 1
        Thread(target=self._serve, name=f"{self._name}-{self._threads}").start()

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            _THREAD.work = work
            work.run()
            _THREAD.work = None
            if work.is_lost:  # another thread has taken this one's place
                return
            del work  # its result is not for this thread to keep

    async def _watch(self) -> None:
        before_s = self._clock.now()
        while self._under_way:
            await self._clock.sleep(CHECK_SECONDS)
            # A process that was stopped, or on a machine that slept, has not worked all the time that has passed.
            now_s = self._clock.now()
            passed_s, before_s = min(now_s - before_s, 2 * CHECK_SECONDS), now_s
            for work in list(self._under_way):
                if not work.ended.done() and work.is_hopeless(passed_s):
                    work.is_lost = True
                    work.end(error=work.overrun)
                    self._add_thread()
                    self._on_lost(f"{work.overrun} and does not end: one thread of {self._name} is lost")
        self._watcher = None


def _look_at_error(ended: asyncio.Future[Any]) -> None:
    """Takes the error, so that asyncio does not report it as forgotten: nobody waits for this work any more."""
    if not ended.cancelled():
        ended.exception()


class _Work:
    """One call of a function on a thread. `ended` is resolved when the thread returns from it, or is given up."""

    def __init__(self, function: Callable[[], Any], limit_s: float | None) -> None:
        self.ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_lost = False
        self._function = function
        self._limit_s = limit_s
        self._context = copy_context()
        self._lock = Lock()
        self._has_begun = self._is_cut_short = self._is_over = False
        self._step_name = "its work"
        self._end_step: Callable[[], None] | None = None
        self._steps = 0  # beginnings and ends of steps so far
        self._steps_seen, self._step_s = 0, 0.0

    @property
    def overrun(self) -> Overrun:
        return Overrun(f"{self._step_name} has taken longer than {self._limit_s:g} s")

    def run(self) -> None:
        """Calls the function, on a thread."""
        with self._lock:
            self._has_begun = not self._is_cut_short
        result: Any = None
        error: BaseException | None = None
        try:
            result = self._context.run(self._function) if self._has_begun else None
        except StopIteration as raised:  # no future takes it
            error = RuntimeError(f"the work raised {raised!r}")
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the event loop has been closed
            self.ended.get_loop().call_soon_threadsafe(self.end, result, error)

    def end(self, result: Any = None, error: BaseException | None = None) -> None:
        """Resolves `ended`, on the event loop."""
        if self.ended.done():
            return
        if self._is_over:
            overrun = self.overrun
            overrun.__cause__, error = error, overrun
        if error is None:
            self.ended.set_result(result)
        else:
            self.ended.set_exception(error)

    def mark_step(self, name: str, end: Callable[[], None] | None) -> None:
        """Marks the beginning of a step, or with `end` None its end."""
        with self._lock:
            if end and self._is_cut_short:
                raise Interrupted(name)
            self._step_name, self._end_step = name, end
            self._steps += 1

    def cut_short(self) -> bool:
        """Ends the step under way and lets none begin. Returns False when the work itself has not begun, and never will."""
        with self._lock:
            self._is_cut_short = True
            if self._end_step:
                self._end_step()
            return self._has_begun

    def is_hopeless(self, passed_s: float) -> bool:
        """Tells if the thread must be given up. Cuts the work short first. Called after every `passed_s`."""
        if self._limit_s is None or not self._has_begun:
            return False
        if self._steps != self._steps_seen and not self._is_over:
            self._steps_seen, self._step_s = self._steps, 0.0
        self._step_s += passed_s
        if self._is_over:
            return self._step_s >= GRACE_SECONDS
        if self._step_s >= self._limit_s:
            self._is_over, self._step_s = True, 0.0
            self.cut_short()
        return False


class _OfThread(local):
    """The work of the thread that reads it."""

    # Not a context variable: the work holds its context, and a ring of references would keep results until a collection.
    work: _Work | None = None


_THREAD = _OfThread()
