"""One batch from order to answer: the avatar from the store, mouths from the inference service, pictures from the thread pool.

Pictures are made while later mouths are still being inferred.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor, Future
from contextlib import aclosing
from dataclasses import dataclass, field
from time import perf_counter

from avatar_kit.avatar import Avatar
from avatar_kit.errors import AvatarReplaced
from avatar_kit.timeline import frame_at, idle_positions, period
from compositing_service.avatar_errors import avatar_errors_as_status
from compositing_service.backgrounds.composer import AvatarComposer
from compositing_service.backgrounds.store import BackgroundStore
from compositing_service.frame_jobs import FrameJobs, Painter
from compositing_service.metrics import STAGE_COMPOSITE, STAGE_INFERENCE_WAIT, STAGE_LOAD, CompositingMetrics
from compositing_service.request import FRAME_RATE, CompositeOrder
from compositing_service.upstream.inference_client import InferenceClient
from compositing_service.upstream.mouths import Mouths
from service_kit.deadline import Deadline
from service_kit.errors import Aborted, ResourceExhausted
from service_kit.logs import request_is_sampled, topic
from shared_proto import compositing_pb2

COMPOSITING_TIMES = topic("compositing_times")
INFERENCE_TIMES = topic("inference_times")
# Room in a reply for what is not pictures.
_REPLY_OVERHEAD_BYTES = 4096
_MAX_POSITION = 2**31 - 1  # of an int32, as positions are on the wire


@dataclass(slots=True)
class _Times:
    """What a batch took, in milliseconds."""

    load: float = 0.0
    wait: float = 0.0
    inference: float = 0.0
    audio: float = 0.0
    gpu_id: int = -1

    def note(self, mouths: Mouths) -> None:
        self.inference += mouths.inference_ms
        # Every message says what the sound of the whole request took.
        self.audio = max(self.audio, mouths.audio_ms)
        self.gpu_id = mouths.gpu_id


@dataclass(slots=True)
class BatchCompositor:
    """Composites batches; any number at the same time, on one event loop."""

    store: BackgroundStore
    client: InferenceClient
    pool: Executor
    metrics: CompositingMetrics
    max_reply_bytes: int
    inference_ms: dict[str, float] = field(default_factory=dict)
    """Time of the network by avatar, since the start of the service."""

    async def run(self, order: CompositeOrder, deadline: Deadline) -> compositing_pb2.CompositeBatchResponse:
        """The frames of an order. Raises ServiceError; cancelling it cancels the inference call and drops waiting work."""
        started = perf_counter()
        self.metrics.batch_frames.observe(order.batch_size)
        with avatar_errors_as_status():
            reply, times = await self._made_of_one_version(order, deadline)
        self.inference_ms[order.model_id] = self.inference_ms.get(order.model_id, 0.0) + times.inference
        reply.total_time_ms = _ms_since(started)
        if reply.total_time_ms > order.batch_size / FRAME_RATE * 1000:
            self.metrics.late_requests.inc()
        _log_times(reply, times)
        return reply

    async def _made_of_one_version(
        self, order: CompositeOrder, deadline: Deadline
    ) -> tuple[compositing_pb2.CompositeBatchResponse, _Times]:
        """The reply but for the total time. Begins again, once, when the avatar's files turn out to have been replaced."""
        started = perf_counter()
        must_load = not self.store.is_loaded(order.model_id)
        renewed = False
        while True:
            times = _Times()
            async with self.store.acquire(order.model_id) as composer:
                if must_load:
                    times.load = _ms_since(started)
                    self.metrics.stages.observe(STAGE_LOAD, times.load / 1000)
                try:
                    reply = await self._reply(order, composer, deadline, times)
                except (AvatarReplaced, Aborted):
                    started = perf_counter()
                    if renewed or not await self.store.renew(composer):
                        raise
                    renewed = must_load = True
                else:
                    reply.model_loaded, reply.model_load_time_ms = must_load, times.load
                    return reply, times

    async def _reply(
        self, order: CompositeOrder, composer: AvatarComposer, deadline: Deadline, times: _Times
    ) -> compositing_pb2.CompositeBatchResponse:
        avatar = composer.avatar
        self._check_raw_size(order, avatar)
        positions, following = _positions(order, avatar)
        indices = [frame_at(position, avatar.frame_count, avatar.loop) for position in positions]
        pictures, composite_ms = await self._composite(order, composer, indices, deadline, times)
        self._check_reply_size(pictures)
        return compositing_pb2.CompositeBatchResponse(
            composited_frames=pictures,
            inference_time_ms=times.inference,
            composite_time_ms=composite_ms,
            audio_processing_ms=times.audio,
            success=True,
            gpu_id=times.gpu_id,
            output_format=order.output_format,
            width=avatar.width,
            height=avatar.height,
            frame_indices=indices,
            next_start_frame_idx=following,
        )

    async def _composite(
        self, order: CompositeOrder, composer: AvatarComposer, indices: list[int], deadline: Deadline, times: _Times
    ) -> tuple[list[bytes], float]:
        """The pictures, and the milliseconds that painting them took on all threads together."""
        raw = order.output_format == compositing_pb2.FORMAT_RAW_BGR
        painter = Painter(composer, indices, jpeg_quality=None if raw else order.jpeg_quality)
        ready = composer.wish(indices, quality=painter.jpeg_quality)
        jobs = FrameJobs(self.pool)
        try:
            if order.idle:
                await _granted(ready)
                jobs.add(painter.idle())
            else:
                await self._speak(order, painter, jobs, ready, deadline, times)
            pictures = await jobs.pictures()
        finally:
            jobs.drop()
        if not order.idle:
            for seconds in jobs.seconds:
                self.metrics.stages.observe(STAGE_COMPOSITE, seconds)
        self.metrics.frames.inc(len(pictures))
        return pictures, sum(jobs.seconds) * 1000

    async def _speak(
        self,
        order: CompositeOrder,
        painter: Painter,
        jobs: FrameJobs,
        ready: Future[None] | None,
        deadline: Deadline,
        times: _Times,
    ) -> None:
        """Starts on each group of frames as its mouths come from the inference service, once the backgrounds are `ready`."""
        started = perf_counter()
        version = painter.composer.avatar.version
        mouths = self.client.mouths(
            lambda first: order.inference_request(painter.indices, first=first, avatar_version=version),
            order.batch_size,
            deadline=deadline,
        )
        async with aclosing(mouths):
            async for group in mouths:
                times.note(group)
                await _granted(ready)
                jobs.add(painter.speaking(group))
        times.wait = _ms_since(started)
        self.metrics.stages.observe(STAGE_INFERENCE_WAIT, times.wait / 1000)

    def _check_raw_size(self, order: CompositeOrder, avatar: Avatar) -> None:
        """Raw pictures have a known size, so one that no reply can hold is refused before it is made."""
        if order.output_format != compositing_pb2.FORMAT_RAW_BGR:
            return
        fitting = self._fitting(avatar.width * avatar.height * 3)
        if order.batch_size > fitting:
            raise ResourceExhausted(
                f"a reply holds at most {fitting} raw frames of {avatar.width}x{avatar.height}; ask for fewer, or for JPEG",
                fitting_batch_size=fitting,
            )

    def _check_reply_size(self, pictures: list[bytes]) -> None:
        if sum(map(len, pictures)) + _REPLY_OVERHEAD_BYTES > self.max_reply_bytes:
            raise ResourceExhausted(
                f"{len(pictures)} frames are more than a reply holds; ask for fewer, or for a lower quality",
                fitting_batch_size=self._fitting(max(map(len, pictures))),
            )

    def _fitting(self, frame_bytes: int) -> int:
        """Frames of that size that a reply holds."""
        return (self.max_reply_bytes - _REPLY_OVERHEAD_BYTES) // frame_bytes


def _positions(order: CompositeOrder, avatar: Avatar) -> tuple[list[int], int]:
    """Where on the timeline the frames of an order lie, and the position that follows them, which fits an int32."""
    start, count, frame_count, loop = order.start_position, order.batch_size, avatar.frame_count, avatar.loop
    if order.idle:
        positions, following = idle_positions(start, count, frame_count=frame_count, loop=loop, idle=avatar.idle)
    else:
        positions, following = list(range(start, start + count)), start + count
    return positions, following if following <= _MAX_POSITION else following % period(frame_count, loop)


async def _granted(wish: Future[None] | None) -> None:
    """Waits for frames that are being prepared, without a thread that waits."""
    if wish is not None:
        await asyncio.wrap_future(wish)


def _ms_since(started: float) -> float:
    return (perf_counter() - started) * 1000


def _log_times(reply: compositing_pb2.CompositeBatchResponse, times: _Times) -> None:
    wanted = COMPOSITING_TIMES.isEnabledFor(logging.INFO), INFERENCE_TIMES.isEnabledFor(logging.INFO)
    if not any(wanted) or not request_is_sampled():
        return
    frames = len(reply.frame_indices)
    if wanted[0]:
        fields = {"composite_ms": reply.composite_time_ms, "load_ms": times.load, "total_ms": reply.total_time_ms}
        COMPOSITING_TIMES.info("composited", extra={"frames": frames, **_rounded(fields)})
    if wanted[1]:
        fields = {"inference_ms": times.inference, "audio_ms": times.audio, "wait_ms": times.wait}
        INFERENCE_TIMES.info("inferred", extra={"frames": frames, "gpu_id": times.gpu_id, **_rounded(fields)})


def _rounded(fields: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in fields.items()}
