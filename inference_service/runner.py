"""Takes a checked request to its mouths: leases the avatar, computes features and crops, and queues for the device."""

from __future__ import annotations

import functools
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.errors import AvatarError
from avatar_kit.timeline import frame_at
from inference_service.audio.encoder import EncodedRows
from inference_service.audio.features import AudioFeatures
from inference_service.audio.windows import FrameWindows
from inference_service.engines.engine import Engine
from inference_service.limited_threads import LimitedThreads, Overrun
from inference_service.metrics import AUDIO, CROPS, DUE, QUEUE, InferenceMetrics
from inference_service.models.model import LoadedModel, ModelLoader
from inference_service.models.registry import ModelRegistry
from inference_service.mouths import Mouths, fitted
from inference_service.readers import Readers
from inference_service.request import EncodeRequest, GrowingSpeech, MouthRequest, Speech
from inference_service.scheduling.dispatcher import Dispatcher
from inference_service.scheduling.jobs import Job, MouthGroup
from inference_service.session_admission import SessionAdmission
from service_kit import request_context, tracing
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.errors import Aborted, FailedPrecondition, OutOfRange, ResourceExhausted, as_service_errors
from service_kit.gathering import Gathered
from shared_proto import inference_pb2 as pb
from shared_proto.timing import SAMPLE_RATE_HZ

# Of one live session, under way at the same time: more than one that keeps to the contract needs, and a bound on its memory.
MAX_SESSION_REQUESTS = 16
# Requests with a due time whose sound or mouths are handed to a thread together: a millisecond or two of work.
_GATHERED = 8

log = logging.getLogger(__name__)

# Less is checked in some ten microseconds; at another rate sound is resampled too.
QUICK_CHECK_BYTES = 256 << 10

T = TypeVar("T")


class Runner:
    """Runs requests. Lives on the event loop; computing is done on `threads`."""

    def __init__(
        self,
        registry: ModelRegistry,
        dispatchers: Mapping[int, Dispatcher],
        loader: ModelLoader,
        sessions: SessionAdmission,
        *,
        threads: LimitedThreads,
        due_threads: LimitedThreads,
        run_limit_s: float,
        max_requests: int,
        metrics: InferenceMetrics,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`max_requests`: of batch work. `due_threads` are for requests with a due time, which must not wait for `threads`."""
        self.registry = registry
        self._dispatchers = dispatchers
        self._loader = loader
        self._sessions = sessions
        self._threads = threads
        self._due_threads = due_threads
        self._fitting = Gathered(due_threads.run, most=_GATHERED)
        self._encoding: WeakKeyDictionary[AudioFeatures, Gathered] = WeakKeyDictionary()
        self._run_limit_s = run_limit_s
        self._max_requests = max_requests
        self.readers = Readers()
        self._requests: Counter[str] = Counter()  # by session; "": batch work
        self._metrics = metrics
        self._clock = clock

    @property
    def requests(self) -> int:
        """Number of requests that run or wait."""
        return self._requests.total()

    @contextmanager
    def admitted(self, *, due: bool) -> Iterator[None]:
        """Takes a place for one request. Raises ResourceExhausted when there is none.

        A request with a due time takes one of its session's own places, so that batch work does not shut sessions out. Other work
        may take the place of a caller that reads nothing.
        """
        session_id = request_context.session_id.get() if due else ""
        under_way = self._requests[session_id]
        most = MAX_SESSION_REQUESTS if session_id else self._max_requests
        if under_way >= most and not (not session_id and self.readers.give_up_one()):
            self._metrics.dropped.labels("full").inc()
            whose = "this session's queue" if session_id else "the queue"
            raise ResourceExhausted(f"{whose} is full: {under_way} requests are under way; try again shortly", retry_after_ms=100)
        self._requests[session_id] += 1
        try:
            yield
        finally:
            self._requests[session_id] -= 1
            if not self._requests[session_id]:
                del self._requests[session_id]

    async def on_thread(self, work: Callable[[], T], *, due: bool = False) -> T:
        """Runs `work` on a worker thread that knows the request's id."""
        return await (self._due_threads if due else self._threads).run(work)

    async def checked(self, check: Callable[[], T], request: pb.InferBatchRequest | pb.EncodeAudioRequest) -> T:
        """Runs `check` of a request, on a thread where it takes longer than the hand-over."""
        if request.ByteSize() <= QUICK_CHECK_BYTES and request.sample_rate in (0, SAMPLE_RATE_HZ):
            return check()
        return await self.on_thread(check, due=request.due_in_ms > 0)

    async def mouths(self, request: MouthRequest, *, deadline_s: float) -> AsyncGenerator[tuple[MouthGroup, Mouths]]:
        """Yields the request's mouths in order, in groups, as they are made: as the network gives them, and as they are sent.

        `deadline_s` is on the clock. Raises ServiceError.

        All are of one version of the avatar.
        """
        due_s = None if request.due_in_s is None else self._clock.now() + request.due_in_s
        session_id = "" if due_s is None else request_context.session_id.get()
        if session_id:
            await self._sessions.take_on(session_id, request)
        async with (
            self._prepared(request, deadline_s, due_s) as job,
            aclosing(self._dispatchers[job.engine.device.gpu_id].submit(job)) as groups,
        ):
            async for group in groups:
                self._metrics.stages[QUEUE if due_s is None else DUE].observe(group.queue_seconds)
                tracing.past("queue", group.queue_seconds, ended_s_ago=group.run_seconds)
                tracing.past("network", group.run_seconds, frames=len(group.mouths))
                mouths = await self._formed(group, job, request.fit)
                self._sessions.note_made(session_id, request, group, due_s)
                yield group, replace(mouths, overload=self._sessions.overload)

    @asynccontextmanager
    async def _prepared(self, request: MouthRequest, deadline_s: float, due_s: float | None) -> AsyncIterator[Job]:
        """Holds the avatar, and prepares the request for its device. An avatar with new files is loaded again first, once."""
        renewed = False
        while True:
            async with self.registry.acquire(
                request.model_id, version=request.avatar_version, is_live=due_s is not None
            ) as lease:
                try:
                    job = await self._job(request, lease.value, deadline_s, due_s)
                except Aborted:
                    if renewed:
                        raise
                    renewed = True
                    await self.registry.renew(lease)
                else:
                    yield job
                    return

    async def _formed(self, group: MouthGroup, job: Job, fit: pb.MouthFit.ValueType) -> Mouths:
        """Makes the mouths as they are sent. Not on the device's thread, so that its next run need not wait."""
        new_rows = job.new_rows if group.first == 0 else None
        if fit == pb.FIT_NONE or job.frames is None:
            return Mouths(group.mouths, new_rows=new_rows, numerics=job.numerics)
        pixels = np.asarray(group.mouths, np.uint8)  # they are: a fit is of no floats
        frames = job.frames[group.first : group.first + len(pixels)].tolist()
        work = functools.partial(fitted, pixels, frames, job.engine.bank, fit)
        run = self.on_thread if job.due_s is None else self._fitting.run
        return replace(await run(work), new_rows=new_rows, numerics=job.numerics)

    async def _job(self, request: MouthRequest, model: LoadedModel, deadline_s: float, due_s: float | None) -> Job:
        """Prepares the request for its device. Raises ServiceError."""
        indices = _frame_indices(request, model.avatar)
        frames = None if request.pictures is not None else np.array(indices, np.int64)
        started = time.monotonic()
        windows, new_rows = await self._windows(request, model, indices)
        if request.rate == pb.MOUTH_RATE_HALVED and frames is not None:
            windows, frames = windows[::2], frames[::2]
        audio_seconds = time.monotonic() - started
        self._metrics.stages[AUDIO].observe(audio_seconds)
        engine = min(model.engines, key=lambda engine: self._dispatchers[engine.device.gpu_id].waiting_frames)
        if frames is not None:
            await self._make_crops(engine, frames, due=due_s is not None)
        return Job(
            engine=engine,
            windows=windows,
            frames=frames,
            pictures=request.pictures,
            want_float=request.want_float,
            deadline_s=deadline_s,
            due_s=due_s,
            audio_seconds=audio_seconds,
            new_rows=new_rows,
            numerics=model.numerics,
            on_run=model.note_run,
        )

    async def _windows(
        self, request: MouthRequest, model: LoadedModel, frames: Sequence[int]
    ) -> tuple[FrameWindows, EncodedRows | None]:
        """Returns the windows for the engine, [batch_size, 16, 512], and the new rows that the caller wants to know.

        With stored features the windows are those of `frames` of the clip.
        """
        source, due = request.source, request.due_in_s is not None
        if isinstance(source, Speech | GrowingSpeech):
            work = functools.partial(source.windows, model.features, request.batch_size)
            return await self._encoded(work, model.features, request.model_id, due=due)
        if source is None:
            with as_service_errors(AvatarError, field="model_id"):
                return await self.on_thread(functools.partial(model.stored_features.windows, frames), due=due), None
        return source, None

    async def encode(self, request: EncodeRequest) -> tuple[EncodedRows, float]:
        """Returns the feature rows and the seconds that they took. Raises ServiceError."""
        if request.model_id:
            version, is_live = request.avatar_version, request.is_due
            async with self.registry.acquire(request.model_id, version=version, is_live=is_live) as lease:
                return await self._encode(request, lease.value.features)
        return await self._encode(request, await self.registry.shared_features())

    async def _encode(self, request: EncodeRequest, features: AudioFeatures) -> tuple[EncodedRows, float]:
        started = time.monotonic()
        rows = await self._encoded(functools.partial(request.rows, features), features, request.model_id, due=request.is_due)
        seconds = time.monotonic() - started
        self._metrics.stages[AUDIO].observe(seconds)
        return rows, seconds

    async def _encoded(self, work: Callable[[], T], features: AudioFeatures, model_id: str, *, due: bool) -> T:
        """Runs an encoder on a thread. When it takes too long, refuses all its sound and raises FailedPrecondition."""
        try:
            with tracing.span("audio"):
                return await (
                    self._due_encoding(features).run(work) if due else self._threads.run(work, limit_s=self._run_limit_s)
                )
        except Overrun as error:
            reason = f"avatar {model_id}: {error}" if model_id else f"the shared audio encoder: {error}"
            log.error("%s; no sound is encoded with it until an avatar is loaded with force_reload", reason)
            self._loader.refuse(features, reason)
            raise FailedPrecondition(reason) from error

    def _due_encoding(self, features: AudioFeatures) -> Gathered:
        """Returns the way to an encoder's thread for requests with a due time. Only those of one encoder share a limit."""
        gathered = self._encoding.get(features)
        if gathered is None:
            start = functools.partial(self._due_threads.run, limit_s=self._run_limit_s)
            gathered = self._encoding[features] = Gathered(start, most=_GATHERED)
        return gathered

    async def _make_crops(self, engine: Engine, frames: NDArray[np.int64], *, due: bool) -> None:
        missing = engine.bank.missing(frames.tolist())
        if missing:
            started = time.monotonic()
            with tracing.span("crops", frames=len(missing)), as_service_errors(AvatarError, field="model_id"):
                await self.on_thread(functools.partial(engine.bank.ensure, missing), due=due)
            self._metrics.stages[CROPS].observe(time.monotonic() - started)


def _frame_indices(request: MouthRequest, avatar: Avatar) -> Sequence[int]:
    """Returns the indices of the request's frames in the avatar's clip. Raises OutOfRange."""
    indices: Sequence[int] = request.frame_indices or [
        frame_at(position, avatar.frame_count, avatar.loop) for position in range(request.batch_size)
    ]
    if (highest := max(indices)) >= avatar.frame_count:
        raise OutOfRange(f"frame_indices: has {highest}; this avatar has frames 0 to {avatar.frame_count - 1}")
    return indices
