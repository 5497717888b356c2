"""Calls the inference service for the compositing service.

A batch is one stream. When the service is lost on the way, the missing tail is requested again, from another endpoint if there
is one: frames have their place, and the tail of a batch has the same bytes alone. Only a lost service is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from grpc import aio

from compositing_service.metrics import CompositingMetrics
from compositing_service.mouth_source import MOUTH_BYTES, GrowingSound, MouthOrder, Mouths, Rows, RowsOrder
from compositing_service.upstream.attempts import Attempts
from compositing_service.upstream.channels import Endpoint, Endpoints
from compositing_service.upstream.errors import InferenceFailed
from compositing_service.upstream.numerics import NumericsWatch
from compositing_service.upstream.order_stream import MESSAGE_BYTES, Order
from compositing_service.upstream.replies import read_mouths, read_rows
from compositing_service.upstream.session_streams import Metadata
from service_kit import request_context
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.deadline import Deadline
from service_kit.errors import DeadlineExceeded, ServiceError
from service_kit.tls import ClientTls
from shared_proto import inference_pb2
from shared_proto.aio_reading import Reply, read_message
from shared_proto.mouth_region import MouthMessage

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
        asks_for_place = order.admission != inference_pb2.ADMITTED
        attempts = self._attempts(deadline, for_place=asks_for_place)
        patience = Deadline.after(self._timeout_s)
        count, received = order.mouths, 0
        # The mouths that ask for a place are no part of the speech: their way is looked at, and another replica may be found.
        watch = NumericsWatch(order.avatar_id, "" if asks_for_place else order.numerics, self._metrics.numerics_changes)
        while received < count:
            first = received
            wanted = watch.numerics or order.numerics
            endpoint = self._endpoints.pick(avoid=attempts.failed_at, avatar_id=order.avatar_id, numerics=wanted)
            call: MouthCall | Order | None = None
            try:
                rest = replace(order.tail(first), numerics=watch.numerics) if first else order
                call = await self._call(endpoint, rest, patience, deadline)
                while isinstance(reply := await self._next(call, patience, deadline), MouthMessage):
                    mouths = read_mouths(reply, due=received - first, end=count - first)
                    if received == 0 and isinstance(order.speech, GrowingSound):
                        mouths = replace(mouths, rows=read_rows(reply.fields, order.speech.unknown_rows(len(order.frames))))
                    watch.see(mouths.numerics, endpoint.numerics, *([call.stream.numerics] if isinstance(call, Order) else []))
                    received += len(mouths.pixels)
                    yield mouths
                    if received == count and isinstance(call, Order):
                        return  # it ends with its last mouth
                    patience = Deadline.after(self._timeout_s)
                if received < count:
                    raise InferenceFailed(f"the inference service sent {received} of {count} mouths")
            except aio.AioRpcError as error:
                if received < count:
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
            stream = None if asks_for_place else endpoint.sessions.ready(order.avatar_id, order.numerics)
            if not stream:
                async with self._progress_within(patience):
                    stream = await endpoint.sessions.pick(
                        order.avatar_id, for_new_session=asks_for_place, numerics=order.numerics
                    )
            if stream:
                timeout_s = deadline.remaining_s()
                return stream.order(message, mouths=order.mouths, due_in_ms=order.due_in_ms, timeout_s=timeout_s)
        return endpoint.infer_stream(message, timeout=deadline.remaining_s(), metadata=endpoint.metadata())

    async def rows(self, order: RowsOrder, *, deadline: Deadline) -> Rows:
        """Does `MouthSource.rows`, within `timeout_s`."""
        reply = await self._ask(lambda stub: stub.EncodeAudio, order.message(), min(deadline, Deadline.after(self._timeout_s)))
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
                call = method(endpoint.stub)(request, timeout=deadline.remaining_s(), metadata=endpoint.metadata())
                return await Reply(call)
            except aio.AioRpcError as error:
                await attempts.failed(error, endpoint, until=deadline)

    async def _next(self, call: MouthCall | Order, patience: Deadline, deadline: Deadline) -> object:
        """Returns the next message, or gRPC's mark of the end. Raises DeadlineExceeded when none comes in time."""
        async with self._progress_within(min(patience, deadline) if isinstance(call, Order) else patience):
            return await (call.read() if isinstance(call, Order) else read_message(call))

    @asynccontextmanager
    async def _progress_within(self, patience: Deadline) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(patience.remaining_s()):
                yield
        except TimeoutError:
            raise DeadlineExceeded(
                f"the inference service made no progress for {self._timeout_s:.3g} s; allow more time or ask for fewer frames"
            ) from None

    def _attempts(self, deadline: Deadline, *, for_place: bool = False) -> Attempts:
        return Attempts(
            deadline,
            self._endpoints.all,
            for_place=for_place,
            max_retries=self._max_retries,
            metrics=self._metrics,
            clock=self._clock,
        )


async def _is_healthy(endpoint: Endpoint) -> bool:
    try:
        reply = await Reply(endpoint.stub.Health(inference_pb2.HealthRequest(), timeout=_HEALTH_TIMEOUT_S))
    except aio.AioRpcError:
        return False
    return reply.healthy


async def _message(order: MouthOrder) -> bytes:
    """Encodes the order. Older clients' own pictures, up to 59 MB, are copied twice: on a thread."""

    def write() -> bytes:
        return order.message().SerializeToString()

    return await asyncio.to_thread(write) if order.pictures else write()
