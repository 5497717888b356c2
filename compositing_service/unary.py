"""Answers a request for a batch of frames: collects one frame stream into a reply."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from time import perf_counter

from avatar_kit.avatar import Avatar
from avatar_kit.errors import AvatarError, AvatarReplaced
from avatar_kit.timeline import IdleMouth, frame_at, idle_positions, period
from compositing_service.backgrounds.resting import RestingPictures
from compositing_service.backgrounds.store import AvatarLease, BackgroundStore
from compositing_service.frame_stream import Frame, FrameMaker, Times, ms_since
from compositing_service.metrics import STAGE_INFERENCE_WAIT, STAGE_LOAD, CompositingMetrics
from compositing_service.mouth_source import MouthOrder, Mouths, MouthSource
from compositing_service.outputs import Output, RawOutput
from compositing_service.request import CompositeOrder, Idle
from service_kit import tracing
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
class BatchReply:
    """A CompositeBatchResponse: its pictures, and its other fields."""

    fields: pb.CompositeBatchResponse
    pictures: list[bytes] = field(default_factory=list)
    wait_ms: float = 0.0
    """Time until all mouths had come, for the log."""

    def add(self, frame: Frame) -> None:
        """Adds one frame and its share of the times."""
        self.pictures.append(frame.picture)
        self.fields.inference_time_ms += frame.times.inference_ms
        self.fields.audio_processing_ms = max(self.fields.audio_processing_ms, frame.times.audio_ms)
        self.fields.composite_time_ms += frame.times.composite_ms
        self.fields.gpu_id = frame.times.gpu_id

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
    resting: RestingPictures
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
            reply = await self._made_of_one_version(order, deadline)
        self.inference_ms[order.avatar_id] = self.inference_ms.get(order.avatar_id, 0.0) + reply.fields.inference_time_ms
        total_ms = reply.fields.total_time_ms = (self.clock.now() - started_s) * 1000
        if total_ms > order.frame_count / FRAME_RATE * 1000:
            self.metrics.late_requests.inc()
        _log_times(reply)
        return reply

    async def _made_of_one_version(self, order: CompositeOrder, deadline: Deadline) -> BatchReply:
        """Makes the reply without the total time. Begins again, once, if the avatar's files were replaced."""
        started = perf_counter()
        must_load = self.store.find(order.avatar_id) is None
        renewed = False
        while True:
            async with self.store.acquire(order.avatar_id) as lease:
                load_ms = 0.0
                if must_load:
                    load_ms = ms_since(started)
                    self.metrics.stages[STAGE_LOAD].observe(load_ms / 1000)
                    tracing.past("load", load_ms / 1000)
                try:
                    reply = await self._reply(order, lease, deadline)
                except (AvatarReplaced, Aborted):
                    started = perf_counter()
                    if renewed or not await self.store.renew(lease):
                        raise
                    renewed = must_load = True
                else:
                    reply.fields.model_loaded, reply.fields.model_load_time_ms = must_load, load_ms
                    return reply

    async def _reply(self, order: CompositeOrder, lease: AvatarLease, deadline: Deadline) -> BatchReply:
        avatar = lease.value.avatar
        self._check_raw_size(order, avatar)
        positions, following = _positions(order, avatar)
        indices = [frame_at(position, avatar.frame_count, avatar.loop) for position in positions]
        reply = BatchReply(
            pb.CompositeBatchResponse(
                success=True,
                gpu_id=-1,
                output_format=order.output.wire_format,
                width=avatar.width,
                height=avatar.height,
                frame_indices=indices,
                next_start_frame_idx=following,
            )
        )
        ordered = order.mouths(indices, avatar_version=avatar.version, paste=avatar.paste)
        if ordered is None and avatar.idle_mouth is IdleMouth.REST:
            stream = self._at_rest(lease, positions, indices, order.output, deadline)
        else:
            mouths = self._mouths(ordered, deadline, reply) if ordered else None
            stream = self.maker.frame_stream(lease.value, positions, mouths, order.output, ahead=len(positions))
        await self._collect(stream, order, reply)
        return reply

    async def _at_rest(
        self, lease: AvatarLease, positions: Sequence[int], indices: Sequence[int], output: Output, deadline: Deadline
    ) -> AsyncGenerator[Frame, None]:
        """Yields the frames of an avatar that does not speak, with the mouth of silence."""
        pictures = await self.resting.pictures(lease, indices, output, deadline=deadline)
        for picture, position, index in zip(pictures, positions, indices, strict=True):
            yield Frame(picture, position, index, Times())

    async def _mouths(self, order: MouthOrder, deadline: Deadline, reply: BatchReply) -> AsyncGenerator[Mouths, None]:
        """Yields the mouths of an order, and notes in `reply` the time that they all took."""
        started = perf_counter()
        with tracing.span("mouths", frames=len(order.frames)):
            async with aclosing(self.source.mouths(order, deadline=deadline)) as mouths:
                async for group in mouths:
                    yield group
        reply.wait_ms = ms_since(started)
        self.metrics.stages[STAGE_INFERENCE_WAIT].observe(reply.wait_ms / 1000)

    async def _collect(self, stream: AsyncGenerator[Frame, None], order: CompositeOrder, reply: BatchReply) -> None:
        """Collects all frames of a stream. Raises ResourceExhausted as soon as they exceed a reply's size."""
        left = self.max_reply_bytes - _REPLY_OVERHEAD_BYTES
        async with aclosing(stream):
            async for frame in stream:
                reply.add(frame)
                left -= len(frame.picture)
                if left < 0:
                    raise ResourceExhausted(
                        f"{order.frame_count} frames are more than a reply holds; ask for fewer, or for a lower quality",
                        fitting_batch_size=self._fitting(max(map(len, reply.pictures))),
                    )
        self.metrics.frames.inc(len(reply.pictures))

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


def _log_times(reply: BatchReply) -> None:
    wanted = COMPOSITING_TIMES.isEnabledFor(logging.INFO), INFERENCE_TIMES.isEnabledFor(logging.INFO)
    if not any(wanted) or not request_is_sampled():
        return
    told, frames = reply.fields, len(reply.pictures)
    if wanted[0]:
        fields = {"composite_ms": told.composite_time_ms, "load_ms": told.model_load_time_ms, "total_ms": told.total_time_ms}
        COMPOSITING_TIMES.info("composited", extra={"frames": frames, **fields})
    if wanted[1]:
        fields = {"inference_ms": told.inference_time_ms, "audio_ms": told.audio_processing_ms, "wait_ms": reply.wait_ms}
        INFERENCE_TIMES.info("inferred", extra={"frames": frames, "gpu_id": told.gpu_id, **fields})
