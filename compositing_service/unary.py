"""Answers a request for a batch of frames: collects one frame stream into a reply."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from time import perf_counter

from avatar_kit.avatar import Avatar
from avatar_kit.errors import AvatarError, AvatarReplaced
from avatar_kit.timeline import frame_at, idle_positions, period
from compositing_service.backgrounds.store import AvatarLease, BackgroundStore
from compositing_service.frame_stream import Frame, FrameMaker
from compositing_service.metrics import STAGE_INFERENCE_WAIT, STAGE_LOAD, CompositingMetrics
from compositing_service.mouth_source import MouthOrder, Mouths, MouthSource
from compositing_service.outputs import RawOutput
from compositing_service.request import CompositeOrder, Idle
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.deadline import Deadline
from service_kit.errors import Aborted, ResourceExhausted, as_service_errors
from service_kit.logs import request_is_sampled, topic
from shared_proto import compositing_pb2 as pb
from shared_proto.timing import FRAME_RATE
from shared_proto.wire import bytes_field_header

COMPOSITING_TIMES = topic("compositing_times")
INFERENCE_TIMES = topic("inference_times")
# Room in a reply for all fields but the pictures.
_REPLY_OVERHEAD_BYTES = 4096
_MAX_POSITION = 2**31 - 1  # the largest int32, the type of positions on the wire


@dataclass(slots=True)
class _Times:
    """The time that a batch took, in milliseconds."""

    load: float = 0.0
    wait: float = 0.0
    inference: float = 0.0
    audio: float = 0.0
    composite: float = 0.0
    gpu_id: int = -1

    def add(self, frame: Frame) -> None:
        times = frame.times
        self.inference += times.inference_ms
        self.audio = max(self.audio, times.audio_ms)
        self.composite += times.composite_ms
        self.gpu_id = times.gpu_id


@dataclass(frozen=True, slots=True)
class BatchReply:
    """A CompositeBatchResponse: its pictures, and its other fields."""

    pictures: list[bytes]
    fields: pb.CompositeBatchResponse

    def encode(self) -> bytes:
        """Encodes the message. Copies the pictures once; protobuf would copy them when they are set and when serialised."""
        pieces = [self.fields.SerializeToString()]
        for picture in self.pictures:
            pieces += (bytes_field_header(pb.CompositeBatchResponse.COMPOSITED_FRAMES_FIELD_NUMBER, len(picture)), picture)
        return b"".join(pieces)


@dataclass(slots=True)
class BatchCompositor:
    """Composites any number of batches at the same time, on one event loop."""

    store: BackgroundStore
    source: MouthSource
    maker: FrameMaker
    metrics: CompositingMetrics
    max_reply_bytes: int
    clock: Clock = SYSTEM_CLOCK
    inference_ms: dict[str, float] = field(default_factory=dict)
    """Time of the network by avatar, since the start of the service."""

    async def run(self, order: CompositeOrder, deadline: Deadline) -> BatchReply:
        """Makes the frames of an order. Raises ServiceError. Cancelling cancels the inference call and drops waiting work."""
        started_s = self.clock.now()
        self.metrics.batch_frames.observe(order.frame_count)
        with as_service_errors(AvatarError, field="model_id"):
            reply, times = await self._made_of_one_version(order, deadline)
        self.inference_ms[order.avatar_id] = self.inference_ms.get(order.avatar_id, 0.0) + times.inference
        total_ms = reply.fields.total_time_ms = (self.clock.now() - started_s) * 1000
        if total_ms > order.frame_count / FRAME_RATE * 1000:
            self.metrics.late_requests.inc()
        _log_times(reply.fields, times)
        return reply

    async def _made_of_one_version(self, order: CompositeOrder, deadline: Deadline) -> tuple[BatchReply, _Times]:
        """Makes the reply without the total time. Begins again, once, if the avatar's files were replaced."""
        started = perf_counter()
        must_load = self.store.find(order.avatar_id) is None
        renewed = False
        while True:
            times = _Times()
            async with self.store.acquire(order.avatar_id) as lease:
                if must_load:
                    times.load = _ms_since(started)
                    self.metrics.stages[STAGE_LOAD].observe(times.load / 1000)
                try:
                    reply = await self._reply(order, lease, deadline, times)
                except (AvatarReplaced, Aborted):
                    started = perf_counter()
                    if renewed or not await self.store.renew(lease):
                        raise
                    renewed = must_load = True
                else:
                    reply.fields.model_loaded, reply.fields.model_load_time_ms = must_load, times.load
                    return reply, times

    async def _reply(self, order: CompositeOrder, lease: AvatarLease, deadline: Deadline, times: _Times) -> BatchReply:
        avatar = lease.value.avatar
        self._check_raw_size(order, avatar)
        positions, following = _positions(order, avatar)
        indices = [frame_at(position, avatar.frame_count, avatar.loop) for position in positions]
        ordered = order.mouths(indices, avatar_version=avatar.version)
        mouths = self._mouths(ordered, deadline, times) if ordered else None
        stream = self.maker.frame_stream(lease.value, positions, mouths, order.output, ahead=len(positions))
        pictures = await self._collected(stream, order, times)
        fields = pb.CompositeBatchResponse(
            inference_time_ms=times.inference,
            composite_time_ms=times.composite,
            audio_processing_ms=times.audio,
            success=True,
            gpu_id=times.gpu_id,
            output_format=order.output.wire_format,
            width=avatar.width,
            height=avatar.height,
            frame_indices=indices,
            next_start_frame_idx=following,
        )
        return BatchReply(pictures, fields)

    async def _mouths(self, order: MouthOrder, deadline: Deadline, times: _Times) -> AsyncGenerator[Mouths, None]:
        """Yields the mouths of an order, and notes in `times` the time that they all took."""
        started = perf_counter()
        async with aclosing(self.source.mouths(order, deadline=deadline)) as mouths:
            async for group in mouths:
                yield group
        times.wait = _ms_since(started)
        self.metrics.stages[STAGE_INFERENCE_WAIT].observe(times.wait / 1000)

    async def _collected(self, stream: AsyncGenerator[Frame, None], order: CompositeOrder, times: _Times) -> list[bytes]:
        """Collects all pictures of a stream. Raises ResourceExhausted as soon as they exceed a reply's size."""
        pictures: list[bytes] = []
        left = self.max_reply_bytes - _REPLY_OVERHEAD_BYTES
        async with aclosing(stream):
            async for frame in stream:
                pictures.append(frame.picture)
                times.add(frame)
                left -= len(frame.picture)
                if left < 0:
                    raise ResourceExhausted(
                        f"{order.frame_count} frames are more than a reply holds; ask for fewer, or for a lower quality",
                        fitting_batch_size=self._fitting(max(map(len, pictures))),
                    )
        self.metrics.frames.inc(len(pictures))
        return pictures

    def _check_raw_size(self, order: CompositeOrder, avatar: Avatar) -> None:
        """Refuses raw pictures too large for a reply before they are made, as their size is known."""
        if not isinstance(order.output, RawOutput):
            return
        fitting = self._fitting(avatar.width * avatar.height * 3)
        if order.frame_count > fitting:
            raise ResourceExhausted(
                f"a reply holds at most {fitting} raw frames of {avatar.width}x{avatar.height}; ask for fewer, or for JPEG",
                fitting_batch_size=fitting,
            )

    def _fitting(self, frame_bytes: int) -> int:
        """Returns the number of frames of that size that fit in a reply."""
        return (self.max_reply_bytes - _REPLY_OVERHEAD_BYTES) // frame_bytes


def _positions(order: CompositeOrder, avatar: Avatar) -> tuple[list[int], int]:
    """Returns the positions of an order's frames on the timeline, and the next position, which fits an int32."""
    start, count, frame_count, loop = order.start_position, order.frame_count, avatar.frame_count, avatar.loop
    if isinstance(order.source, Idle):
        positions, following = idle_positions(start, count, frame_count=frame_count, loop=loop, idle=avatar.idle)
    else:
        positions, following = list(range(start, start + count)), start + count
    return positions, following if following <= _MAX_POSITION else following % period(frame_count, loop)


def _ms_since(started: float) -> float:
    return (perf_counter() - started) * 1000


def _log_times(reply: pb.CompositeBatchResponse, times: _Times) -> None:
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
