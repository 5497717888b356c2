"""Feeds one device: turns waiting requests into batches, runs them on threads, and gives each request its frames in order.

Everything but the runs is done on the event loop, so no locks are needed.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from inference_service.audio.encoder import EncodedRows
from inference_service.engines.devices import Device
from inference_service.engines.engine import NO_PICTURES, Engine, EngineError, EngineInput, EngineOutput
from inference_service.limited_threads import LimitedThreads, Overrun
from inference_service.metrics import NETWORK, InferenceMetrics
from inference_service.scheduling.admission import CARRIED_S, Admission
from inference_service.scheduling.fair_queue import Slice
from inference_service.scheduling.work_queue import WorkQueue
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.errors import DeadlineExceeded, FailedPrecondition, ServiceError, Unavailable

log = logging.getLogger(__name__)

NO_FRAMES = np.empty(0, np.int64)
STOPPING = "the inference service is shutting down"


@dataclass(frozen=True)
class MouthGroup:
    """Mouths of consecutive frames of one request, and the times that they took."""

    first: int
    mouths: NDArray[np.float32] | NDArray[np.uint8]  # [count, 3, 320, 320] float32 or [count, 320, 320, 3] uint8
    audio_seconds: float
    queue_seconds: float
    run_seconds: float
    worker_id: int
    gpu_id: int


@dataclass(eq=False)
class Job:
    """A request's frames on their way through one engine."""

    engine: Engine
    windows: NDArray[np.float32]  # [frames, 16, 512]
    frames: NDArray[np.int64] | None  # [frames], indices of the avatar's own crops
    pictures: NDArray[np.float32] | None  # [1 or frames, 6, 320, 320], sent by the caller instead
    want_float: bool
    deadline_s: float | None = None  # on the dispatcher's clock
    due_s: float | None = None  # when the first frame is due, on the same clock; None: batch work
    audio_seconds: float = 0.0
    new_rows: EncodedRows | None = None  # computed for the request, for its caller to keep
    on_run: Callable[[float], None] = lambda _seconds: None
    queued_at_s: float = field(default=0.0, init=False)
    context: Context = field(default_factory=copy_context, init=False)  # of the request, for log lines
    results: asyncio.Queue[MouthGroup | ServiceError] = field(default_factory=asyncio.Queue, init=False)

    @property
    def count(self) -> int:
        """Frames of the whole request."""
        return len(self.windows)

    def part(self, start: int, count: int) -> EngineInput:
        """Returns the input for `count` frames from `start` on."""
        frames, pictures, here = self.frames, self.pictures, slice(start, start + count)
        if pictures is not None:
            pictures = np.broadcast_to(pictures, (count, *pictures.shape[1:])) if len(pictures) == 1 else pictures[here]
        return EngineInput(
            windows=self.windows[here],
            frames=NO_FRAMES if frames is None else frames[here],
            pictures=NO_PICTURES if pictures is None else pictures,
            want_float=self.want_float,
            want_uint8=not self.want_float,
        )


class Dispatcher:
    """The queue and the workers of one device."""

    def __init__(
        self,
        device: Device,
        *,
        workers: int,
        max_delay_s: float,
        run_limit_s: float,
        admission: Admission,
        metrics: InferenceMetrics,
        on_overrun: Callable[[Engine, str], None],
        on_lost: Callable[[str], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`on_overrun` is called with an engine whose run took longer than `run_limit_s`, and the reason. That engine gets no
        other batch. `on_lost` is called with the reason when the thread of a run does not return.
        """
        self.device = device
        self._max_delay_s = max_delay_s
        self._run_limit_s = run_limit_s
        self._workers = workers
        self._admission = admission
        self._metrics = metrics
        metrics.queued.labels(device.gpu_id).set_function(lambda: self.waiting_frames)
        self._on_overrun = on_overrun
        self._clock = clock
        self._queue: WorkQueue[Engine, Job] = WorkQueue()
        self._due_submitted_s = -math.inf
        self._work = asyncio.Condition()
        self._threads = LimitedThreads(workers, f"device{device.gpu_id}", on_lost=on_lost, clock=clock)
        self._overrun: WeakSet[Engine] = WeakSet()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def waiting_frames(self) -> int:
        """Frames that no batch has taken yet."""
        return self._queue.waiting_frames

    def start(self) -> None:
        """Starts the workers. Called once, on the event loop."""
        self._tasks = [
            asyncio.create_task(self._serve(worker), name=f"device{self.device.gpu_id}-{worker}")
            for worker in range(self._workers)
        ]

    async def stop(self) -> None:
        """Cuts running batches short and refuses the rest."""
        self._stopping = True
        async with self._work:
            self._work.notify_all()
        await self._threads.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while (engine := self._queue.head) is not None:
            for job in self._queue.remove_key(engine):
                job.results.put_nowait(Unavailable(STOPPING))

    async def submit(self, job: Job) -> AsyncGenerator[MouthGroup]:
        """Runs `job` and yields its frames in order, as they are made.

        Frames that no batch has taken are dropped as soon as the iterator is closed or the deadline passes. Raises ServiceError.
        """
        if self._stopping:
            raise Unavailable(STOPPING)
        if job.engine in self._overrun:
            raise FailedPrecondition(f"avatar {job.engine.avatar_id}: its network has taken too long for another request")
        job.queued_at_s = self._clock.now()
        if job.due_s is not None:
            self._due_submitted_s = job.queued_at_s
        self._queue.push(job.engine, job, job.count, due_s=job.due_s)
        try:
            async with self._work:
                self._work.notify_all()  # one batch may not hold all frames: other workers take what is left
            early: dict[int, MouthGroup] = {}
            delivered = 0
            while delivered < job.count:
                group = await job.results.get()
                if isinstance(group, ServiceError):
                    raise group
                early[group.first] = group  # with several workers a later batch may end first
                while (ready := early.pop(delivered, None)) is not None:
                    delivered += len(ready.mouths)
                    yield ready
        except (GeneratorExit, asyncio.CancelledError):
            self._metrics.dropped.labels("cancelled").inc()
            raise
        finally:
            self._queue.remove(job)

    async def _serve(self, worker: int) -> None:
        while not self._stopping:
            if pieces := await self._next_batch():
                await self._run(worker, pieces)

    async def _run(self, worker: int, pieces: Sequence[Slice[Job]]) -> None:
        """Runs one batch, and each request of it alone where that fails: only those that cannot run fail."""
        started_s = self._clock.now()
        try:
            output = await self._threads.run(functools.partial(_run, pieces), limit_s=self._run_limit_s)
        except asyncio.CancelledError:
            self._fail(pieces, Unavailable(STOPPING))
            raise
        except Overrun as error:
            self._fail_engine(pieces, error)
        except Exception as error:
            if self._stopping:
                self._fail(pieces, Unavailable(STOPPING))
            elif len(pieces) == 1:
                job = pieces[0].request
                self._fail(pieces, job.context.run(_logged, job.engine, error))
            else:
                for piece in pieces:
                    await self._run(worker, [piece])
        else:
            engine = pieces[0].request.engine
            frames = sum(piece.count for piece in pieces)
            self._admission.note_run(engine.avatar_id, frames=frames, run_frames=engine.run_frames, seconds=output.seconds)
            self._deliver(worker, pieces, output, started_s)

    async def _next_batch(self) -> Sequence[Slice[Job]]:
        """Takes the slices to run together, those with the avatar's own crops first; none when stopping or all were dropped.

        While sessions speak, every run is short where that helps: what is due next waits for at most one.
        """
        async with self._work:
            await self._work.wait_for(lambda: self._stopping or len(self._queue))
            if self._max_delay_s and not self._stopping:
                await self._wait_for_more()
        engine = self._queue.head
        if engine is None or self._stopping:
            return []
        taken = self._queue.take(self._room(engine), run_frames=engine.run_frames)
        pieces = [piece for piece in taken if self._still_wanted(piece)]
        return sorted(pieces, key=lambda piece: piece.request.frames is None)

    def _room(self, engine: Engine) -> int:
        return engine.short_room if self._clock.now() - self._due_submitted_s < CARRIED_S else engine.room

    async def _wait_for_more(self) -> None:
        until_s = self._clock.now() + self._max_delay_s
        alarm = asyncio.create_task(self._notify_after(self._max_delay_s))
        try:
            await self._work.wait_for(lambda: self._stopping or self._is_full() or self._clock.now() >= until_s)
        finally:
            alarm.cancel()

    async def _notify_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        async with self._work:
            self._work.notify_all()

    def _is_full(self) -> bool:
        """Tells if waiting for more frames is over: the next batch is full, or what it holds is due."""
        engine = self._queue.head
        return self._queue.has_due or (engine is not None and self._queue.frames_at_head() >= self._room(engine))

    def _still_wanted(self, piece: Slice[Job]) -> bool:
        deadline_s = piece.request.deadline_s
        if deadline_s is None or self._clock.now() < deadline_s:
            return True
        self._metrics.dropped.labels("deadline").inc()
        self._fail([piece], DeadlineExceeded("the deadline passed while the request waited for its turn"))
        return False

    def _fail(self, pieces: Sequence[Slice[Job]], error: ServiceError) -> None:
        for piece in pieces:
            self._queue.remove(piece.request)
            piece.request.results.put_nowait(error)

    def _fail_engine(self, pieces: Sequence[Slice[Job]], overrun: Overrun) -> None:
        engine = pieces[0].request.engine
        self._overrun.add(engine)
        reason = f"avatar {engine.avatar_id}: {overrun}"
        pieces[0].request.context.run(self._on_overrun, engine, reason)
        for job in {*(piece.request for piece in pieces), *self._queue.remove_key(engine)}:
            job.results.put_nowait(FailedPrecondition(reason))

    def _deliver(self, worker: int, pieces: Sequence[Slice[Job]], output: EngineOutput, started_s: float) -> None:
        gpu_id = self.device.gpu_id
        frames = sum(piece.count for piece in pieces)
        self._metrics.frames.labels(gpu_id).inc(frames)
        self._metrics.batch_frames.labels(gpu_id).observe(frames)
        self._metrics.stages[NETWORK].observe(output.seconds)
        at = 0
        for piece in pieces:
            job, end = piece.request, at + piece.count
            mouths = output.mouths_float if job.want_float else output.mouths_uint8
            if mouths is None or not output.finite[at:end].all():
                self._fail(
                    [piece], FailedPrecondition(f"avatar {job.engine.avatar_id}: its network gives values that are not finite")
                )
            else:
                waited_s = started_s - job.queued_at_s
                job.results.put_nowait(
                    MouthGroup(piece.start, mouths[at:end], job.audio_seconds, waited_s, output.seconds, worker, gpu_id)
                )
                job.on_run(output.seconds)
            at = end


def _logged(engine: Engine, error: Exception) -> ServiceError:
    """Logs why a request failed alone, and returns the error for its caller."""
    if isinstance(error, EngineError):
        log.warning("avatar %s: its network failed on %s: %s", engine.avatar_id, engine.device.name, error)
        return FailedPrecondition(
            f"avatar {engine.avatar_id}: its network failed while running; the avatar must be mended or unloaded"
        )
    log.error("a batch failed in our own code", exc_info=error)
    return ServiceError("internal error")


def _run(pieces: Sequence[Slice[Job]]) -> EngineOutput:
    """Runs one batch, on a thread."""
    parts = [piece.request.part(piece.start, piece.count) for piece in pieces]
    return pieces[0].request.engine.run(
        EngineInput(
            windows=_joined([part.windows for part in parts]),
            frames=np.concatenate([part.frames for part in parts]),
            pictures=_joined([part.pictures for part in parts]),
            want_float=any(part.want_float for part in parts),
            want_uint8=any(part.want_uint8 for part in parts),
        )
    )


def _joined(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))
