"""Feeds one device: runs batches of waiting requests on threads, and gives each request its frames in order.

Everything but the runs is done on the event loop, so no locks are needed.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from weakref import WeakSet

from inference_service.engines.device_errors import is_device_lost, is_out_of_memory
from inference_service.engines.devices import Device
from inference_service.engines.engine import Engine, EngineError, EngineOutput
from inference_service.limited_threads import LimitedThreads, Overrun
from inference_service.metrics import NETWORK, InferenceMetrics
from inference_service.scheduling.admission import Admission
from inference_service.scheduling.fair_queue import Slice
from inference_service.scheduling.jobs import Job, MouthGroup, run_batch
from inference_service.scheduling.overload import Overload
from inference_service.scheduling.waiting import WaitingJobs
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.errors import DeadlineExceeded, FailedPrecondition, ResourceExhausted, ServiceError, Unavailable
from shared_proto import inference_pb2 as pb

log = logging.getLogger(__name__)

STOPPING = "the inference service is shutting down"


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
        overload: Overload,
        metrics: InferenceMetrics,
        on_overrun: Callable[[Engine, str], None],
        on_lost: Callable[[str], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`on_overrun` is called with an engine whose run took longer than `run_limit_s`, and the reason. That engine gets no
        other batch. `on_lost` is called with the reason when the thread of a run does not return, or the device is lost.
        """
        self.device = device
        self._run_limit_s = run_limit_s
        self._workers = workers
        self._admission = admission
        self._metrics = metrics
        metrics.queued.labels(device.gpu_id).set_function(lambda: self.waiting_frames)
        self._on_overrun = on_overrun
        self._on_lost = on_lost
        self._clock = clock
        self._waiting = WaitingJobs(
            max_delay_s=max_delay_s,
            clock=clock,
            is_overloaded=lambda: overload.level != pb.OVERLOAD_NONE,
            on_late=self._fail_late,
        )
        self._threads = LimitedThreads(workers, f"device{device.gpu_id}", on_lost=on_lost, clock=clock)
        self._overrun: WeakSet[Engine] = WeakSet()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def waiting_frames(self) -> int:
        """Frames that no batch has taken yet."""
        return self._waiting.frames

    def start(self) -> None:
        """Starts the workers. Called once, on the event loop."""
        self._tasks = [
            asyncio.create_task(self._serve(worker), name=f"device{self.device.gpu_id}-{worker}")
            for worker in range(self._workers)
        ]

    async def stop(self) -> None:
        """Cuts running batches short and refuses the rest."""
        self._stopping = True
        await self._waiting.close()
        await self._threads.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in self._waiting.remove_all():
            job.results.put_nowait(Unavailable(STOPPING))

    async def submit(self, job: Job) -> AsyncGenerator[MouthGroup]:
        """Runs `job` and yields its frames in order, as they are made.

        Frames that no batch has taken are dropped as soon as the iterator is closed or the deadline passes. Raises ServiceError.
        """
        if self._stopping:
            raise Unavailable(STOPPING)
        if job.engine in self._overrun:
            raise FailedPrecondition(f"avatar {job.engine.avatar_id}: its network has taken too long for another request")
        try:
            await self._waiting.add(job)  # wakes all workers: one batch may not hold all frames
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
            self._waiting.remove(job)

    async def _serve(self, worker: int) -> None:
        while not self._stopping:
            if pieces := await self._waiting.next_batch():
                await self._run(worker, pieces)

    async def _run(self, worker: int, pieces: Sequence[Slice[Job]]) -> None:
        """Runs one batch, and each request of it alone where that fails: only those that cannot run fail."""
        started_s = self._clock.now()
        try:
            output = await self._threads.run(functools.partial(run_batch, pieces), limit_s=self._run_limit_s)
        except asyncio.CancelledError:
            self._fail(pieces, Unavailable(STOPPING))
            raise
        except Overrun as error:
            self._fail_engine(pieces, error)
        except Exception as error:
            if self._stopping:
                self._fail(pieces, Unavailable(STOPPING))
            elif isinstance(error, EngineError) and is_device_lost(error):
                self._on_lost(f"{self.device.name} fails every run: {error}")
                self._fail(pieces, Unavailable("the device of the networks is lost; the service must be restarted"))
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

    def _fail_late(self, job: Job) -> None:
        self._metrics.dropped.labels("deadline").inc()
        self._fail_job(job, DeadlineExceeded("the deadline passed while the request waited for its turn"))

    def _fail(self, pieces: Sequence[Slice[Job]], error: ServiceError) -> None:
        for piece in pieces:
            self._fail_job(piece.request, error)

    def _fail_job(self, job: Job, error: ServiceError) -> None:
        self._waiting.remove(job)
        job.results.put_nowait(error)

    def _fail_engine(self, pieces: Sequence[Slice[Job]], overrun: Overrun) -> None:
        engine = pieces[0].request.engine
        self._overrun.add(engine)
        reason = f"avatar {engine.avatar_id}: {overrun}"
        pieces[0].request.context.run(self._on_overrun, engine, reason)
        for job in {*(piece.request for piece in pieces), *self._waiting.remove_engine(engine)}:
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
        if is_out_of_memory(error):
            return ResourceExhausted("the device has no memory for this run; ask for less, or later", retry_after_ms=1000)
        return FailedPrecondition(
            f"avatar {engine.avatar_id}: its network failed while running; the avatar must be mended or unloaded"
        )
    log.error("a batch failed in our own code", exc_info=error)
    return ServiceError("internal error")
