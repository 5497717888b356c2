"""Serves the requests of many live sessions over one lasting call, `InferSessions`, each as if it had come in its own."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import grpc.aio
from prometheus_client import Counter

from service_kit import request_context, tracing
from service_kit.admission import RunningCalls
from service_kit.deadline import HasTimeRemaining
from service_kit.errors import InvalidRequest, Violation
from service_kit.request_context import REQUEST_ID_KEY, SESSION_ID_KEY, TRACEPARENT_KEY
from service_kit.statuses import Status, status_of
from shared_proto import inference_pb2 as pb
from shared_proto import mouth_region

# Replies that are ready together go in one message of up to so many bytes, unless one alone is larger.
_MESSAGE_BYTES = 1 << 20
# Replies that the caller has not taken yet. Beyond that orders wait with theirs, each in its place of the queue.
_MOST_UNSENT_BYTES = 32 << 20
REPLICA: Final = uuid.uuid4().hex
"""Names this process."""

_METHOD = "inference.InferenceService/InferSessions"
_END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the stubs

log = logging.getLogger(__name__)

SendMouths: TypeAlias = Callable[[pb.MouthRegion, memoryview], Awaitable[None]]
MakeMouths: TypeAlias = Callable[[pb.InferBatchRequest, HasTimeRemaining, SendMouths], Awaitable[None]]


class Duplex(Protocol):
    """The part of a gRPC servicer context that the call needs."""

    async def read(self) -> Any:
        """Returns the next message, or gRPC's mark of the end."""

    async def write(self, message: bytes) -> None:
        """Sends a message."""


@dataclass(frozen=True, slots=True)
class _TimeLeft:
    """Counts down the time that an order's caller waits."""

    until_s: float | None

    def time_remaining(self) -> float | None:
        """Returns the seconds left; None: there is no limit."""
        return None if self.until_s is None else self.until_s - time.monotonic()


@dataclass(frozen=True, slots=True)
class OrderRules:
    """The parts of the process that calls of InferSessions share."""

    calls: RunningCalls
    """Orders count as running calls in it; the calls that they come over do not."""
    sample_rate: int
    """Info lines are written for one order of so many."""
    drained: Callable[[], Awaitable[None]]
    """Returns when the service has drained, and calls that last must end."""
    orders: Counter
    """Counts orders that have ended, by status."""


@dataclass(eq=False, slots=True)
class OrderCall:
    """One call of InferSessions. `make` makes the mouths of a request and sends them."""

    call: Duplex
    make: MakeMouths
    rules: OrderRules
    _orders: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _unsent: list[tuple[pb.SessionReply, memoryview]] = field(default_factory=list)
    _unsent_bytes: int = 0
    _has_unsent: asyncio.Event = field(default_factory=asyncio.Event)
    _has_room: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self) -> None:
        """Serves until the caller has sent all its orders, or the service has drained, and then the orders that are under way."""
        with self.rules.calls.apart():
            await self._serve_all()

    async def _serve_all(self) -> None:
        await self.call.write(pb.SessionReplies(replica=REPLICA).SerializeToString())
        writing = asyncio.ensure_future(self._write())
        reading, ending = asyncio.ensure_future(self._read()), asyncio.ensure_future(self.rules.drained())
        try:
            await asyncio.wait([writing, reading, ending], return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
            reading.cancel()
            while self._orders and not writing.done():
                await asyncio.wait([writing, *self._orders.values()], return_when=asyncio.FIRST_COMPLETED)
            while self._unsent and not writing.done():
                self._has_room.clear()
                room = asyncio.ensure_future(self._has_room.wait())
                await asyncio.wait([writing, room], return_when=asyncio.FIRST_COMPLETED)
                room.cancel()
            if writing.done():
                writing.result()
        finally:
            tasks = [writing, reading, ending, *self._orders.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        while (data := await self.call.read()) is not _END:
            try:
                message = pb.SessionOrders.FromString(data)
            except Exception:
                raise InvalidRequest([Violation("", "the message cannot be decoded: it is no SessionOrders")]) from None
            for order_id in message.cancelled:
                if order := self._orders.get(order_id):
                    order.cancel()
            for each in message.orders:
                self._begin(each)

    def _begin(self, order: pb.SessionOrder) -> None:
        if order.id in self._orders:
            raise InvalidRequest([Violation("orders.id", f"{order.id} is of an order that has not ended")])
        task = asyncio.create_task(self._serve(order))
        self._orders[order.id] = task
        task.add_done_callback(lambda _: self._orders.pop(order.id, None))

    async def _serve(self, order: pb.SessionOrder) -> None:
        """Serves one order. Whatever happens to it is told in a reply, and happens to no other."""
        ids: Mapping[str, str] = {
            REQUEST_ID_KEY: order.request_id,
            SESSION_ID_KEY: order.session_id,
            TRACEPARENT_KEY: order.traceparent,
        }
        request_context.take_over(ids, sample_rate=self.rules.sample_rate)
        left = _TimeLeft(time.monotonic() + order.timeout_ms / 1000 if order.timeout_ms > 0 else None)

        async def send(region: pb.MouthRegion, mouths: memoryview) -> None:
            await self._reply(pb.SessionReply(id=order.id, region=region), mouths)

        try:
            with self.rules.calls.admit(), tracing.call(_METHOD, **{"rpc.system.name": "grpc"}):
                await self.make(order.request, left, send)
            self._count(grpc.StatusCode.OK)
        except asyncio.CancelledError:
            self._count(grpc.StatusCode.CANCELLED)
            raise
        except Exception as error:
            status = status_of(error)
            if status.code is grpc.StatusCode.INTERNAL:
                log.exception("an order of a live session failed")
            self._count(status.code)
            await self._reply(pb.SessionReply(id=order.id, failure=_failure(status)), memoryview(b""))

    def _count(self, code: grpc.StatusCode) -> None:
        self.rules.orders.labels(code.name).inc()

    async def _reply(self, reply: pb.SessionReply, mouths: memoryview) -> None:
        while self._unsent_bytes > _MOST_UNSENT_BYTES:
            self._has_room.clear()
            await self._has_room.wait()
        self._unsent.append((reply, mouths))
        self._unsent_bytes += mouths.nbytes
        self._has_unsent.set()

    async def _write(self) -> None:
        """Sends replies, those that have become ready together in one message."""
        while True:
            await self._has_unsent.wait()
            replies: list[tuple[pb.SessionReply, memoryview]] = []
            nbytes = 0
            for reply, mouths in self._unsent:
                if replies and nbytes + mouths.nbytes > _MESSAGE_BYTES:
                    break
                replies.append((reply, mouths))
                nbytes += mouths.nbytes
            del self._unsent[: len(replies)]
            self._unsent_bytes -= nbytes
            if not self._unsent:
                self._has_unsent.clear()
            fields = pb.SessionReplies(replies=[reply for reply, _ in replies])
            await self.call.write(mouth_region.encode_replies(fields, (mouths for _, mouths in replies)))
            self._has_room.set()


def _failure(status: Status) -> pb.SessionFailure:
    code: int = status.code.value[0]
    trailing = [
        pb.TrailingMetadata(key=key, value=value if isinstance(value, bytes) else value.encode())
        for key, value in status.trailing_metadata
    ]
    return pb.SessionFailure(code=code, message=status.message, trailing=trailing)
