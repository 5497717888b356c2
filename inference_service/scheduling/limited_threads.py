"""Threads for work that may never end by itself: it has a time limit, is cut short then, and given up if that does not help."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context, copy_context
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from inference_service.engines.interrupt import CURRENT, Interrupt
from service_kit.clock import SYSTEM_CLOCK, Clock

T = TypeVar("T")

CHECK_SECONDS = 0.5
# How long a step may take to end once it is told to: some operators look only when they are through.
GRACE_SECONDS = 5.0

log = logging.getLogger(__name__)


class Overrun(Exception):
    """A step of the work took longer than it may. The text names the step."""


class LimitedThreads:
    """A pool of threads. Lives on the event loop; `close` must be called."""

    def __init__(self, count: int, name: str, *, on_lost: Callable[[str], None], clock: Clock = SYSTEM_CLOCK) -> None:
        """`on_lost` is told of each thread that does not come back from its work. Another takes its place."""
        self._count = count
        self._name = name
        self._on_lost = on_lost
        self._clock = clock
        self._threads = 0
        self._queue: SimpleQueue[_Piece | None] = SimpleQueue()
        self._under_way: set[_Piece] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._is_closed = False

    async def run(self, work: Callable[[], T], *, limit_s: float | None = None) -> T:
        """Runs `work` on a thread that knows the request's id. Raises what it raises.

        Raises Overrun when a step of it takes longer than `limit_s`. When the caller is cancelled, the work is cut short.
        """
        if self._is_closed:
            raise RuntimeError(f"{self._name}: the threads have ended")
        piece = _Piece(work, limit_s)
        self._under_way.add(piece)
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(), name=f"watch-{self._name}", context=Context())
        if self._threads < self._count:
            self._add_thread()
        self._queue.put(piece)
        piece.waiter = asyncio.wrap_future(piece.future)
        try:
            result: T = await piece.waiter
        except asyncio.CancelledError:
            if piece.is_lost:
                raise piece.overrun from None
            piece.interrupt.set()
            raise
        except Exception as error:
            if piece.is_over:
                raise piece.overrun from error
            raise
        finally:
            if piece.future.done():
                self._under_way.discard(piece)
        if piece.is_over:
            raise piece.overrun
        return result

    async def close(self) -> None:
        """Cuts short what is under way and ends the threads; one that does not come back is left."""
        self._is_closed = True
        for piece in self._under_way:
            piece.future.cancel()
            piece.interrupt.set()
        for _ in range(self._threads):
            self._queue.put(None)
        running = [asyncio.wrap_future(piece.future) for piece in self._under_way if not piece.future.done()]
        if running and (await asyncio.wait(running, timeout=GRACE_SECONDS))[1]:
            log.error("%s: a thread does not come back and is left behind", self._name)
        if self._watcher:
            self._watcher.cancel()

    def _add_thread(self) -> None:
        self._threads += 1
        Thread(target=self._serve, name=f"{self._name}-{self._threads}").start()

    def _serve(self) -> None:
        while (piece := self._queue.get()) is not None:
            piece.run()
            if piece.is_lost:  # another thread has taken this one's place
                return
            del piece  # what it made is not for this thread to keep

    async def _watch(self) -> None:
        before_s = self._clock.now()
        while self._under_way:
            await self._clock.sleep(CHECK_SECONDS)
            # A process that was stopped, or on a machine that slept, has not worked all the time that has passed.
            now_s = self._clock.now()
            passed_s, before_s = min(now_s - before_s, 2 * CHECK_SECONDS), now_s
            for piece in list(self._under_way):
                if piece.future.done():  # nobody waits for it any more
                    self._under_way.discard(piece)
                elif piece.is_overdue(passed_s):
                    self._lose(piece)
        self._watcher = None

    def _lose(self, piece: _Piece) -> None:
        self._under_way.discard(piece)
        self._add_thread()
        piece.is_lost = True
        piece.waiter.cancel()
        self._on_lost(f"{piece.overrun} and does not end: one thread of {self._name} is lost")


class _Piece:
    """One piece of work."""

    waiter: asyncio.Future[Any]  # of the caller

    def __init__(self, work: Callable[[], Any], limit_s: float | None) -> None:
        self.future: Future[Any] = Future()
        self.interrupt = Interrupt()
        self.is_over = self.is_lost = False
        self._work = work
        self._limit_s = limit_s
        self._context: Context = copy_context()
        self._begun = False
        self._step, self._step_s = 0, 0.0

    @property
    def overrun(self) -> Overrun:
        return Overrun(f"{self.interrupt.step_name or 'its work'} has taken longer than {self._limit_s:g} s")

    def run(self) -> None:
        """Does the work, on a thread."""
        if not self.future.set_running_or_notify_cancel():
            return
        self._begun = True
        try:
            result = self._context.run(self._do)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def _do(self) -> Any:
        CURRENT.set(self.interrupt)
        return self._work()

    def is_overdue(self, passed_s: float) -> bool:
        """Tells whether the work must be given up, and cuts it short first. Called after every `passed_s`."""
        if self._limit_s is None or not self._begun:
            return False
        if self.interrupt.steps != self._step and not self.is_over:
            self._step, self._step_s = self.interrupt.steps, 0.0
        self._step_s += passed_s
        if self.is_over:
            return self._step_s >= GRACE_SECONDS
        if self._step_s >= self._limit_s:
            self.is_over, self._step_s = True, 0.0
            self.interrupt.set()
        return False
