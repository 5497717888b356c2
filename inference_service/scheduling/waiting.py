"""The jobs that wait for one device, and the batches that they are taken in."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from inference_service.engines.engine import Engine
from inference_service.scheduling.admission import CARRIED_S
from inference_service.scheduling.fair_queue import Slice
from inference_service.scheduling.jobs import Job
from inference_service.scheduling.work_queue import WorkQueue
from service_kit.clock import Clock

# Under overload one run of batch work in so many seconds, so that its callers see that it goes on.
OVERLOAD_PAUSE_S = 0.25


class WaitingJobs:
    """A queue with a way to wait for it. Used from one event loop only."""

    def __init__(
        self, *, max_delay_s: float, clock: Clock, is_overloaded: Callable[[], bool], on_late: Callable[[Job], None]
    ) -> None:
        """`max_delay_s`: how long a batch waits to become fuller. `on_late` is called with a job whose deadline has passed when
        its turn comes; none of its frames are taken. While sessions speak and `is_overloaded`, batch work gets a run in
        OVERLOAD_PAUSE_S.
        """
        self._max_delay_s = max_delay_s
        self._clock = clock
        self._is_overloaded = is_overloaded
        self._on_late = on_late
        self._queue: WorkQueue[Engine, Job] = WorkQueue()
        self._due_submitted_s = self._batch_taken_s = -math.inf
        self._alarm: asyncio.Task[None] | None = None  # for batch work that waits
        self._work = asyncio.Condition()
        self._is_closed = False

    @property
    def frames(self) -> int:
        """Frames that no batch has taken yet."""
        return self._queue.waiting_frames

    async def add(self, job: Job) -> None:
        """Adds a job and wakes who waits for work."""
        job.queued_at_s = self._clock.now()
        if job.due_s is not None:
            self._due_submitted_s = job.queued_at_s
        self._queue.push(job.engine, job, job.count, due_s=job.due_s)
        await self._notify()

    def remove(self, job: Job) -> None:
        """Forgets what is left of a job; does nothing when nothing is left."""
        self._queue.remove(job)

    def remove_engine(self, engine: Engine) -> list[Job]:
        """Forgets all jobs of an engine, and returns them."""
        return self._queue.remove_key(engine)

    def remove_all(self) -> list[Job]:
        """Forgets all jobs, and returns them."""
        removed: list[Job] = []
        while (engine := self._queue.head) is not None:
            removed += self._queue.remove_key(engine)
        return removed

    async def close(self) -> None:
        """Lets no batch be taken any more, and wakes who waits for one."""
        self._is_closed = True
        if self._alarm:
            self._alarm.cancel()
        await self._notify()

    async def next_batch(self) -> Sequence[Slice[Job]]:
        """Takes the slices to run together, those with the avatar's own crops first; none when closed or all were late.

        While sessions speak, every run is short where that helps: what is due next waits for at most one.
        """
        async with self._work:
            await self._work.wait_for(lambda: self._is_closed or self._has_turn())
            if self._max_delay_s and not self._is_closed:
                await self._wait_for_more()
        engine = self._queue.head
        if engine is None or self._is_closed:
            return []
        taken = self._queue.take(self._room(engine), run_frames=engine.run_frames, batch_waits=self._batch_pause_s() > 0)
        if taken and all(piece.request.due_s is None for piece in taken):
            self._batch_taken_s = self._clock.now()
        pieces = [piece for piece in taken if self._is_in_time(piece.request)]
        return sorted(pieces, key=lambda piece: piece.request.frames is None)

    def _has_turn(self) -> bool:
        """Tells if the next batch may be taken now. Else, if only batch work waits, it is looked at again after its pause."""
        if self._queue.has_due or not len(self._queue):
            return self._queue.has_due
        pause_s = self._batch_pause_s()
        if pause_s > 0 and (self._alarm is None or self._alarm.done()):
            self._alarm = asyncio.create_task(self._notify_after(pause_s))
        return pause_s <= 0

    def _batch_pause_s(self) -> float:
        """Returns the seconds for which batch work has to wait. A level of overload holds for longer than there are sessions."""
        if not (self._sessions_speak() and self._is_overloaded()):
            return 0.0
        return self._batch_taken_s + OVERLOAD_PAUSE_S - self._clock.now()

    def _room(self, engine: Engine) -> int:
        return engine.short_room if self._sessions_speak() else engine.room

    def _sessions_speak(self) -> bool:
        return self._clock.now() - self._due_submitted_s < CARRIED_S

    async def _wait_for_more(self) -> None:
        until_s = self._clock.now() + self._max_delay_s
        alarm = asyncio.create_task(self._notify_after(self._max_delay_s))
        try:
            await self._work.wait_for(lambda: self._is_closed or self._is_full() or self._clock.now() >= until_s)
        finally:
            alarm.cancel()

    async def _notify_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        await self._notify()

    async def _notify(self) -> None:
        async with self._work:
            self._work.notify_all()

    def _is_full(self) -> bool:
        """Tells if waiting for more frames is over: the next batch is full, or what it holds is due."""
        engine = self._queue.head
        return self._queue.has_due or (engine is not None and self._queue.frames_at_head() >= self._room(engine))

    def _is_in_time(self, job: Job) -> bool:
        if job.deadline_s is None or self._clock.now() < job.deadline_s:
            return True
        self._on_late(job)
        return False
