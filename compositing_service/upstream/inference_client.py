"""Calls the inference service for the compositing service.

A batch is one stream. When the service is lost on the way, the missing tail is requested again, from another endpoint if there
is one: frames have their place, and the tail of a batch has the same bytes alone. Only a lost service is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from grpc import aio
from numpy.typing import NDArray

from avatar_kit.geometry import MOUTH_SIZE
from compositing_service.metrics import CompositingMetrics
from compositing_service.mouth_source import MOUTH_BYTES, GrowingSound, MouthOrder, Mouths, Rows, Sound
from compositing_service.upstream.channels import Endpoint, Endpoints
from compositing_service.upstream.errors import InferenceFailed, as_service_error, is_lost, without_rows
from compositing_service.upstream.session_streams import MESSAGE_BYTES, Metadata, Order
from service_kit import request_context
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.deadline import Deadline
from service_kit.errors import DeadlineExceeded, ServiceError
from service_kit.tls import ClientTls
from shared_proto import inference_pb2
from shared_proto.mouth_region import MouthMessage
from shared_proto.timing import ROW_BYTES

if TYPE_CHECKING:  # the class exists for type checkers only
    from shared_proto.inference_pb2_grpc import InferenceServiceAsyncStub

_FIRST_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 0.5
_HEALTH_FRESH_S = 1.0
_HEALTH_TIMEOUT_S = 1.0

log = logging.getLogger(__name__)
_Reply = TypeVar("_Reply")
MouthCall: TypeAlias = "aio.UnaryStreamCall[bytes, MouthMessage]"
_Method: TypeAlias = "Callable[[InferenceServiceAsyncStub], aio.UnaryUnaryMultiCallable[Any, _Reply]]"
# Room in a message of mouths for its other fields.
_REGION_OVERHEAD_BYTES = 64 << 10


class InferenceClient:
    """The inference service as a `MouthSource`: lasting channels, retries, deadlines.

    Use it from one event loop. Calls send the ids of `service_kit.request_context`.
    """

    def __init__(
        self,
        targets: Sequence[str],
        *,
        timeout_s: float,
        max_retries: int,
        max_frames: int,
        metrics: CompositingMetrics,
        tls: ClientTls | None = None,
        clock: Clock = SYSTEM_CLOCK,
        credential: Callable[[], Metadata] = tuple,
    ) -> None:
        """`max_frames`: the most frames of one order, which limits the size of accepted answers.

        `credential` gives the metadata by which the service knows this one.
        """
        max_message_bytes = max_frames * MOUTH_BYTES + _REGION_OVERHEAD_BYTES
        self._endpoints = Endpoints(targets, max_message_bytes=max_message_bytes, clock=clock, tls=tls, credential=credential)
        self._asking_health = asyncio.Lock()
        self._health_until_s = -math.inf
        self._healthy = False
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._metrics = metrics
        self._clock = clock

    def connect(self) -> None:
        """Starts connecting to all endpoints, so that the first request need not wait."""
        for endpoint in self._endpoints.all:
            endpoint.rank()

    async def reconnect(self) -> None:
        """Opens new connections for later calls, with the current certificates; calls under way finish on the old ones."""
        await self._endpoints.reconnect(grace_s=self._timeout_s)

    async def close(self) -> None:
        """Ends all connections."""
        await self._endpoints.close()

    async def mouths(self, order: MouthOrder, *, deadline: Deadline) -> AsyncGenerator[Mouths, None]:
        """Does `MouthSource.mouths`. `timeout_s` limits the wait for each next group, retries included; `deadline` the whole."""
        attempts = self._attempts(deadline)
        patience = Deadline.after(self._timeout_s)
        frame_count, received = len(order.frames), 0
        while received < frame_count:
            first = received
            endpoint = self._endpoints.pick(avoid=attempts.failed_at)
            call: MouthCall | Order | None = None
            try:
                call = await self._call(endpoint, order.tail(first) if first else order, patience, deadline)
                while isinstance(reply := await self._next(call, patience, deadline), MouthMessage):
                    mouths = _read_mouths(reply, due=received - first, end=frame_count - first)
                    if received == 0 and isinstance(order.speech, GrowingSound):
                        mouths = replace(mouths, rows=_read_rows(reply.fields, order.speech.unknown_rows(frame_count)))
                    received += len(mouths.pixels)
                    yield mouths
                    if received == frame_count and isinstance(call, Order):
                        return  # it ends with its last mouth
                    patience = Deadline.after(self._timeout_s)
                if received < frame_count:
                    raise InferenceFailed(f"the inference service sent {received} of {frame_count} frames")
            except aio.AioRpcError as error:
                if received < frame_count:
                    await attempts.failed(error, endpoint, until=min(patience, deadline))
            except (DeadlineExceeded, InferenceFailed) as error:
                self._metrics.upstream_errors.labels(error.code.name).inc()
                raise
            finally:
                if call:
                    call.cancel()

    async def _call(self, endpoint: Endpoint, order: MouthOrder, patience: Deadline, deadline: Deadline) -> MouthCall | Order:
        """Sends an order: of a live session over the endpoint's stream, if the service has such. Raises grpc.aio.AioRpcError."""
        message = await _message(order)
        if order.due_in_ms and request_context.session_id.get() and len(message) <= MESSAGE_BYTES:
            asks_for_place = order.admission != inference_pb2.ADMITTED
            stream = None if asks_for_place else endpoint.sessions.ready(order.avatar_id)
            if not stream:
                async with self._progress_within(patience):
                    stream = await endpoint.sessions.pick(order.avatar_id, for_new_session=asks_for_place)
            if stream:
                timeout_s = deadline.remaining_s()
                return stream.order(message, frames=len(order.frames), due_in_ms=order.due_in_ms, timeout_s=timeout_s)
        return endpoint.infer_stream(message, timeout=deadline.remaining_s(), metadata=endpoint.metadata())

    async def rows(
        self,
        sound: Sound,
        *,
        first_row: int,
        count: int,
        avatar_id: str,
        avatar_version: str,
        deadline: Deadline,
        due_in_ms: int = 0,
    ) -> Rows:
        """Does `MouthSource.rows`, within `timeout_s`."""
        request = sound.rows_message(
            first_row=first_row, count=count, avatar_id=avatar_id, avatar_version=avatar_version, due_in_ms=due_in_ms
        )
        reply = await self._ask(lambda stub: stub.EncodeAudio, request, min(deadline, Deadline.after(self._timeout_s)))
        return Rows(reply.feature_rows, audio_ms=reply.audio_processing_ms, silent=reply.silent)

    async def load(self, avatar_id: str, *, force_reload: bool, deadline: Deadline) -> list[ServiceError | None]:
        """Does `MouthSource.load` on every endpoint."""
        request = inference_pb2.LoadModelRequest(model_id=avatar_id, force_reload=force_reload)
        return await self._ask_all(lambda stub: stub.LoadModel, request, deadline)

    async def unload(self, avatar_id: str, *, deadline: Deadline) -> list[ServiceError | None]:
        """Does `MouthSource.unload` on every endpoint."""
        request = inference_pb2.UnloadModelRequest(model_id=avatar_id)
        return await self._ask_all(lambda stub: stub.UnloadModel, request, deadline)

    async def healthy(self) -> bool:
        """Does `MouthSource.healthy`, with at most one check a second."""
        async with self._asking_health:
            if self._clock.now() >= self._health_until_s:
                self._healthy = any(await asyncio.gather(*map(_is_healthy, self._endpoints.all)))
                self._health_until_s = self._clock.now() + _HEALTH_FRESH_S
                self._metrics.inference_up.set(self._healthy)
        return self._healthy

    async def _ask_all(self, method: _Method[Any], request: object, deadline: Deadline) -> list[ServiceError | None]:
        async def ask(endpoint: Endpoint) -> ServiceError | None:
            try:
                await self._ask(method, request, deadline, at=endpoint)
            except ServiceError as refusal:
                return refusal
            return None

        return list(await asyncio.gather(*map(ask, self._endpoints.all)))

    async def _ask(self, method: _Method[_Reply], request: object, deadline: Deadline, *, at: Endpoint | None = None) -> _Reply:
        """Returns the answer of endpoint `at`, or of the next one in turn."""
        attempts = self._attempts(deadline)
        while True:
            endpoint = at or self._endpoints.pick(avoid=attempts.failed_at)
            try:
                return await method(endpoint.stub)(request, timeout=deadline.remaining_s(), metadata=endpoint.metadata())
            except aio.AioRpcError as error:
                await attempts.failed(error, endpoint, until=deadline)

    async def _next(self, call: MouthCall | Order, patience: Deadline, deadline: Deadline) -> object:
        """Returns the next message, or gRPC's mark of the end. Raises DeadlineExceeded when none comes in time."""
        async with self._progress_within(min(patience, deadline) if isinstance(call, Order) else patience):
            return await call.read()

    @asynccontextmanager
    async def _progress_within(self, patience: Deadline) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(patience.remaining_s()):
                yield
        except TimeoutError:
            raise DeadlineExceeded(
                f"the inference service made no progress for {self._timeout_s:.3g} s; allow more time or ask for fewer frames"
            ) from None

    def _attempts(self, deadline: Deadline) -> _Attempts:
        return _Attempts(deadline, max_retries=self._max_retries, metrics=self._metrics, clock=self._clock)


async def _is_healthy(endpoint: Endpoint) -> bool:
    try:
        reply = await endpoint.stub.Health(inference_pb2.HealthRequest(), timeout=_HEALTH_TIMEOUT_S)
    except aio.AioRpcError:
        return False
    return reply.healthy


class _Attempts:
    """Counts the retries of one request, and keeps the failed endpoints and the wait before the next try."""

    def __init__(self, deadline: Deadline, *, max_retries: int, metrics: CompositingMetrics, clock: Clock) -> None:
        self.failed_at: set[Endpoint] = set()
        self._deadline = deadline
        self._given_s = deadline.remaining_s()
        self._retries = 0
        self._max_retries = max_retries
        self._metrics = metrics
        self._clock = clock

    async def failed(self, error: aio.AioRpcError, endpoint: Endpoint, *, until: Deadline) -> None:
        """Waits until the next try, which must come before `until`, or raises the ServiceError for the caller."""
        self._metrics.upstream_errors.labels(error.code().name).inc()
        self.failed_at.add(endpoint)
        spread = random.uniform(0.8, 1.2)  # noqa: S311 - keeps callers from coming back all at once
        backoff_s = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2**self._retries) * spread
        if not is_lost(error) or self._retries >= self._max_retries or backoff_s >= until.remaining_s():
            log.warning("inference call failed after %d retries: %s %s", self._retries, error.code().name, error.details())
            raise as_service_error(error, waited_s=self._given_s - self._deadline.remaining_s()) from None
        self._retries += 1
        self._metrics.upstream_retries.inc()
        await self._clock.sleep(backoff_s)


async def _message(order: MouthOrder) -> bytes:
    """Encodes the order. Older clients' own pictures, up to 59 MB, are copied twice: on a thread."""

    def write() -> bytes:
        return order.message().SerializeToString()

    return await asyncio.to_thread(write) if order.pictures else write()


def _read_mouths(message: MouthMessage, *, due: int, end: int) -> Mouths:
    """Reads the mouths of one message, which must begin with frame `due` and stay below `end`. Raises InferenceFailed."""
    region, data = message.fields, message.data
    count = region.frame_count
    if region.first_frame != due or not 1 <= count <= end - due:
        raise _unfit(f"{count} frames from {region.first_frame} on, where {due} to {end - 1} were due")
    if region.mouth_format != inference_pb2.UINT8_BGR:
        raise _unfit(f"mouth_format {region.mouth_format}")
    return Mouths(
        pixels=_pictures(data, _shapes(region)),
        queue_ms=region.queue_time_ms,
        inference_ms=region.inference_time_ms,
        audio_ms=region.audio_processing_ms,
        gpu_id=region.gpu_id,
    )


def _read_rows(region: inference_pb2.MouthRegion, count: int) -> Rows:
    """Reads the rows of an order that were not known.

    Raises InferenceFailed, and for an older service that sends none an error as of one that is lost.
    """
    rows, silent = region.feature_rows, region.silent
    if count and not silent:
        raise without_rows()
    if (len(rows), len(silent)) != (ROW_BYTES * count, count):
        raise _unfit(f"{len(rows)} bytes of rows and {len(silent)} of their silence, where {count} rows were due")
    return Rows(rows, silent=silent)


def _shapes(region: inference_pb2.MouthRegion) -> list[tuple[int, int, int]]:
    """Returns the shape of each mouth. Raises InferenceFailed."""
    count, widths, heights = region.frame_count, region.widths, region.heights
    if not widths and not heights:
        return [(MOUTH_SIZE, MOUTH_SIZE, 3)] * count
    if len(widths) != count or len(heights) != count or min(*widths, *heights) < 1:
        raise _unfit(f"widths {list(widths)} and heights {list(heights)} for {count} frames")
    return [(height, width, 3) for width, height in zip(widths, heights, strict=True)]


def _pictures(data: memoryview, shapes: Sequence[tuple[int, int, int]]) -> list[NDArray[np.uint8]]:
    """Returns views of the pictures of these shapes, one after the other in `data`. Raises InferenceFailed."""
    ends = list(accumulate(map(prod, shapes)))
    if len(data) != ends[-1]:
        raise _unfit(f"{len(data)} bytes for {len(shapes)} frames of {ends[-1]}")
    pixels = np.frombuffer(data, np.uint8)
    return [pixels[end - prod(shape) : end].reshape(shape) for shape, end in zip(shapes, ends, strict=True)]


def _unfit(what: str) -> InferenceFailed:
    return InferenceFailed(f"the inference service sent what does not fit: {what}; are both services of the same version?")
