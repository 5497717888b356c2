"""Feeds one device: turns waiting requests into batches, runs them on worker threads, hands each request its frames in order.

Everything but the runs happens on the event loop, so no locks are needed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference_service.engines.devices import Device
from inference_service.engines.engine import NO_PICTURES, Engine, EngineError, EngineInput, EngineOutput
from inference_service.metrics import InferenceMetrics
from inference_service.scheduling.fair_queue import FairQueue, Slice
from service_kit.errors import DeadlineExceeded, FailedPrecondition, ServiceError, Unavailable

log = logging.getLogger(__name__)

NOT_FINITE = "the avatar's network gives values that are not finite; the avatar must be mended"
RUN_FAILED = "the avatar's network failed while running; the avatar must be mended or unloaded"
STOPPING = "the inference service is shutting down"

# A batch of a quick network may hold more frames than others, as long as it takes no longer than this: handing a batch over costs
# as much as several of its frames.
QUICK_RUN_S = 0.01


@dataclass(frozen=True)
class MouthGroup:
    """Consecutive frames of one request."""

    first: int
    mouths: NDArray[np.float32] | NDArray[np.uint8]  # [count, 3, 320, 320] float32 or [count, 320, 320, 3] uint8
    run_seconds: float
    queue_seconds: float
    worker_id: int


@dataclass(eq=False)
class Job:
    """A request's frames on their way through one engine."""

    engine: Engine
    windows: NDArray[np.float32]  # [frames, 16, 512]
    frames: NDArray[np.int64] | None  # [frames], into the avatar's own crops
    pictures: NDArray[np.float32] | None  # [1 or frames, 6, 320, 320], sent by the caller instead
    want_float: bool
    deadline: float | None  # time.monotonic
    on_run: Callable[[float], None] = lambda _seconds: None
    queued_at: float = field(default_factory=time.monotonic)
    results: asyncio.Queue[MouthGroup | ServiceError] = field(default_factory=asyncio.Queue)

    @property
    def count(self) -> int:
        """Frames of the whole request."""
        return len(self.windows)

    def pictures_of(self, start: int, count: int) -> NDArray[np.float32]:
        """The sent pictures of a slice, [count, 6, 320, 320]."""
        if self.pictures is None:
            return NO_PICTURES
        if len(self.pictures) == 1:
            return np.broadcast_to(self.pictures, (count, *self.pictures.shape[1:]))
        return self.pictures[start : start + count]


class Dispatcher:
    """The queue and the workers of one device."""

    def __init__(
        self,
        device: Device,
        *,
        workers: int,
        max_batch: int,
        quick_batch: int = 0,
        max_delay_s: float,
        metrics: InferenceMetrics,
    ) -> None:
        """`quick_batch`: the most frames of a batch where so many take no longer than QUICK_RUN_S, if more than `max_batch`."""
        self.device = device
        self.max_batch = max_batch
        self._quick_batch = quick_batch
        self._max_delay_s = max_delay_s
        self._workers = workers
        self._metrics = metrics
        self._queue: FairQueue[Job] = FairQueue()
        self._work = asyncio.Condition()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=f"device{device.gpu_id}")
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
        """Lets running batches end and refuses the rest."""
        self._stopping = True
        async with self._work:
            self._work.notify_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while (batch := self._queue.take(self.max_batch)) is not None:
            for piece in batch[1]:
                piece.request.results.put_nowait(Unavailable(STOPPING))
        self._threads.shutdown()

    async def submit(self, job: Job) -> AsyncGenerator[MouthGroup]:
        """Runs `job` and yields its frames in order, as they are made.

        Frames that no batch has taken are dropped as soon as the iterator is closed or the deadline passes. Raises ServiceError.
        """
        if self._stopping:
            raise Unavailable(STOPPING)
        self._queue.push(job.engine, job, job.count)
        self._metrics.queued_frames(self.device.gpu_id, self.waiting_frames)
        try:
            async with self._work:
                self._work.notify()
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
            self._metrics.dropped_request("cancelled")
            raise
        finally:
            self._queue.remove(job)

    async def _serve(self, worker: int) -> None:
        while not self._stopping:
            pieces = await self._next_batch()
            if pieces and not await self._run_and_deliver(worker, pieces):
                for piece in pieces:  # together they failed: each alone, so that only those that cannot run fail
                    if len(pieces) == 1 or not await self._run_and_deliver(worker, [piece]):
                        self._fail(piece.request, FailedPrecondition(RUN_FAILED))

    async def _run_and_deliver(self, worker: int, pieces: Sequence[Slice[Job]]) -> bool:
        """Runs one batch; False when the network failed."""
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        try:
            output = await loop.run_in_executor(self._threads, _run, pieces)
        except EngineError as error:
            log.warning("a batch of %d requests failed on %s: %s", len(pieces), self.device.name, error)
            return False
        except Exception:
            log.exception("a batch failed in our own code")
            for piece in pieces:
                self._fail(piece.request, ServiceError("internal error"))
            return True
        self._deliver(worker, pieces, output, started)
        return True

    async def _next_batch(self) -> Sequence[Slice[Job]]:
        """The next slices to run together, those with the avatar's own frames first; empty when stopping or all were dropped."""
        async with self._work:
            await self._work.wait_for(lambda: self._stopping or len(self._queue))
            if self._max_delay_s and not self._stopping and self._queue.frames_at_head() < self.max_batch:
                await self._wait_for_more()
        taken = None if self._stopping else self._queue.take(self._room())
        if taken is None:
            return []
        self._metrics.queued_frames(self.device.gpu_id, self.waiting_frames)
        pieces = [piece for piece in taken[1] if self._still_wanted(piece)]
        return sorted(pieces, key=lambda piece: piece.request.frames is None)

    def _room(self) -> int:
        """Frames that the next batch may hold."""
        engine = self._queue.head
        if not self._quick_batch or not isinstance(engine, Engine):
            return self.max_batch
        return max(self.max_batch, min(self._quick_batch, int(QUICK_RUN_S / engine.seconds_a_frame)))

    async def _wait_for_more(self) -> None:
        enough = self._work.wait_for(lambda: self._stopping or self._queue.frames_at_head() >= self.max_batch)
        with suppress(TimeoutError):
            await asyncio.wait_for(enough, self._max_delay_s)

    def _still_wanted(self, piece: Slice[Job]) -> bool:
        job = piece.request
        if job.deadline is None or time.monotonic() < job.deadline:
            return True
        self._metrics.dropped_request("deadline")
        self._fail(job, DeadlineExceeded("the deadline passed while the request waited for its turn"))
        return False

    def _fail(self, job: Job, error: ServiceError) -> None:
        self._queue.remove(job)
        job.results.put_nowait(error)

    def _deliver(self, worker: int, pieces: Sequence[Slice[Job]], output: EngineOutput, started: float) -> None:
        self._metrics.ran_batch(self.device.gpu_id, sum(piece.count for piece in pieces), output.seconds)
        at = 0
        for piece in pieces:
            job, end = piece.request, at + piece.count
            if not output.finite[at:end].all():
                self._fail(job, FailedPrecondition(NOT_FINITE))
            else:
                mouths = output.mouths_float if job.want_float else output.mouths_uint8
                if mouths is not None:
                    group = MouthGroup(piece.start, mouths[at:end], output.seconds, started - job.queued_at, worker)
                    job.results.put_nowait(group)
                job.on_run(output.seconds)
            at = end


def _run(pieces: Sequence[Slice[Job]]) -> EngineOutput:
    """One batch, on a worker thread."""
    engine = pieces[0].request.engine
    own = [piece for piece in pieces if piece.request.frames is not None]
    sent = [piece for piece in pieces if piece.request.frames is None]
    return engine.run(
        EngineInput(
            windows=_joined([piece.request.windows[piece.start : piece.start + piece.count] for piece in pieces]),
            frames=np.concatenate([_frames(piece) for piece in own]) if own else np.empty(0, np.int64),
            pictures=_joined([piece.request.pictures_of(piece.start, piece.count) for piece in sent]) if sent else NO_PICTURES,
            want_float=any(piece.request.want_float for piece in pieces),
            want_uint8=any(not piece.request.want_float for piece in pieces),
        )
    )


def _frames(piece: Slice[Job]) -> NDArray[np.int64]:
    frames = piece.request.frames
    return np.empty(0, np.int64) if frames is None else frames[piece.start : piece.start + piece.count]


def _joined(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))
