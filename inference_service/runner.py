"""Takes a checked request to its mouths: leases the avatar, computes features and crops, and queues for the device."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import TypeVar

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
from inference_service.metrics import AUDIO, CROPS, QUEUE, InferenceMetrics
from inference_service.models.model import LoadedModel, ModelLoader
from inference_service.models.registry import ModelRegistry
from inference_service.mouths import Mouths, fitted
from inference_service.request import EncodeRequest, MouthRequest, Speech
from inference_service.scheduling.dispatcher import Dispatcher, Job, MouthGroup
from service_kit.errors import Aborted, FailedPrecondition, OutOfRange, ResourceExhausted, as_service_errors
from shared_proto import inference_pb2 as pb
from shared_proto.timing import SAMPLE_RATE_HZ

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
        *,
        threads: LimitedThreads,
        run_limit_s: float,
        max_requests: int,
        metrics: InferenceMetrics,
    ) -> None:
        self.registry = registry
        self._dispatchers = dispatchers
        self._loader = loader
        self._threads = threads
        self._run_limit_s = run_limit_s
        self._max_requests = max_requests
        self._requests = 0
        self._metrics = metrics

    @property
    def requests(self) -> int:
        """Number of requests that run or wait."""
        return self._requests

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Takes a place for one request. Raises ResourceExhausted when there is none."""
        if self._requests >= self._max_requests:
            self._metrics.dropped.labels("full").inc()
            raise ResourceExhausted(
                f"the queue is full: {self._requests} requests are under way; try again shortly", retry_after_ms=100
            )
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def on_thread(self, work: Callable[[], T]) -> T:
        """Runs `work` on a worker thread that knows the request's id."""
        return await self._threads.run(work)

    async def checked(self, check: Callable[[], T], request: pb.InferBatchRequest | pb.EncodeAudioRequest) -> T:
        """Runs `check` of a request, on a thread where it takes longer than the hand-over."""
        if request.ByteSize() <= QUICK_CHECK_BYTES and request.sample_rate in (0, SAMPLE_RATE_HZ):
            return check()
        return await self.on_thread(check)

    async def mouths(self, request: MouthRequest, *, deadline_s: float) -> AsyncGenerator[tuple[MouthGroup, Mouths]]:
        """Yields the request's mouths in order, in groups, as they are made: as the network gives them, and as they are sent.

        `deadline_s` is on the clock. Raises ServiceError.

        All are of one version of the avatar: when its files have been replaced, it is loaded again first, once.
        """
        renewed = False
        while True:
            async with self.registry.acquire(request.model_id, version=request.avatar_version) as lease:
                try:
                    job = await self._job(request, lease.value, deadline_s)
                except Aborted:
                    if renewed:
                        raise
                    renewed = True
                    await self.registry.renew(lease)
                    continue
                async with aclosing(self._dispatchers[job.engine.device.gpu_id].submit(job)) as groups:
                    async for group in groups:
                        self._metrics.stages[QUEUE].observe(group.queue_seconds)
                        yield group, await self._formed(group, job, request.fit)
                return

    async def _formed(self, group: MouthGroup, job: Job, fit: pb.MouthFit.ValueType) -> Mouths:
        """Makes the mouths as they are sent. Not on the device's thread, so that its next run need not wait."""
        if fit == pb.FIT_NONE or job.frames is None:
            return Mouths(group.mouths)
        pixels = np.asarray(group.mouths, np.uint8)  # they are: a fit is of no floats
        frames = job.frames[group.first : group.first + len(pixels)].tolist()
        return await self.on_thread(functools.partial(fitted, pixels, frames, job.engine.bank, fit))

    async def _job(self, request: MouthRequest, model: LoadedModel, deadline_s: float) -> Job:
        """Prepares the request for its device. Raises ServiceError."""
        indices = _frame_indices(request, model.avatar)
        frames = None if request.pictures is not None else np.array(indices, np.int64)
        started = time.monotonic()
        windows = await self._windows(request, model, indices)
        audio_seconds = time.monotonic() - started
        self._metrics.stages[AUDIO].observe(audio_seconds)
        engine = min(model.engines, key=lambda engine: self._dispatchers[engine.device.gpu_id].waiting_frames)
        if frames is not None:
            await self._make_crops(engine, frames)
        return Job(
            engine=engine,
            windows=windows,
            frames=frames,
            pictures=request.pictures,
            want_float=request.want_float,
            deadline_s=deadline_s,
            audio_seconds=audio_seconds,
            on_run=model.note_run,
        )

    async def _windows(self, request: MouthRequest, model: LoadedModel, frames: Sequence[int]) -> FrameWindows:
        """Returns the windows for the engine, [batch_size, 16, 512], with stored features those of `frames` of the clip."""
        source = request.source
        if isinstance(source, Speech):
            work = functools.partial(
                model.features.frame_windows,
                source.sound,
                batch_size=request.batch_size,
                lead_in_frames=source.lead_in_frames,
                audio_start_frame=source.audio_start_frame,
                edges=source.edges,
            )
            return await self._encoded(work, model.features, request.model_id)
        if source is None:
            with as_service_errors(AvatarError, field="model_id"):
                return await self.on_thread(functools.partial(model.stored_features.windows, frames))
        return source

    async def encode(self, request: EncodeRequest) -> tuple[EncodedRows, float]:
        """Returns the feature rows and the seconds that they took. Raises ServiceError."""
        if request.model_id:
            async with self.registry.acquire(request.model_id) as lease:
                return await self._encode(request, lease.value.features)
        return await self._encode(request, await self.registry.shared_features())

    async def _encode(self, request: EncodeRequest, features: AudioFeatures) -> tuple[EncodedRows, float]:
        started = time.monotonic()
        rows = await self._encoded(functools.partial(request.rows, features), features, request.model_id)
        seconds = time.monotonic() - started
        self._metrics.stages[AUDIO].observe(seconds)
        return rows, seconds

    async def _encoded(self, work: Callable[[], T], features: AudioFeatures, model_id: str) -> T:
        """Runs an encoder on a thread. When it takes too long, refuses all its sound and raises FailedPrecondition."""
        try:
            return await self._threads.run(work, limit_s=self._run_limit_s)
        except Overrun as error:
            reason = f"avatar {model_id}: {error}" if model_id else f"the shared audio encoder: {error}"
            log.error("%s; no sound is encoded with it until an avatar is loaded with force_reload", reason)
            self._loader.refuse(features, reason)
            raise FailedPrecondition(reason) from error

    async def _make_crops(self, engine: Engine, frames: NDArray[np.int64]) -> None:
        missing = engine.bank.missing(frames.tolist())
        if missing:
            started = time.monotonic()
            with as_service_errors(AvatarError, field="model_id"):
                await self.on_thread(functools.partial(engine.bank.ensure, missing))
            self._metrics.stages[CROPS].observe(time.monotonic() - started)


def _frame_indices(request: MouthRequest, avatar: Avatar) -> Sequence[int]:
    """Returns the indices of the request's frames in the avatar's clip. Raises OutOfRange."""
    indices: Sequence[int] = request.frame_indices or [
        frame_at(position, avatar.frame_count, avatar.loop) for position in range(request.batch_size)
    ]
    if (highest := max(indices)) >= avatar.frame_count:
        raise OutOfRange(f"frame_indices: has {highest}; this avatar has frames 0 to {avatar.frame_count - 1}")
    return indices
