"""Sends the orders of live sessions to one replica over a lasting call, and gives each order its mouths."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from itertools import count
from typing import Any, TypeAlias

import grpc
from grpc import aio

from compositing_service.mouth_source import MOUTH_BYTES
from compositing_service.upstream.errors import lost, of_broken_stream
from compositing_service.upstream.numerics import KnownNumerics
from service_kit import request_context
from shared_proto import inference_pb2 as pb
from shared_proto import mouth_region
from shared_proto.mouth_region import MouthMessage
from shared_proto.wire import bytes_field_header

# Orders that are due later wait so long for others, to go in one message with them.
_GATHER_S = 0.01
_HURRY_S = 0.04
# The service limits the size of a message, and ends the call over a larger one. So what is larger than this goes in several
# messages, and a larger order in a call of its own.
MESSAGE_BYTES = 512 << 10

_END: Any = aio.EOF  # type: ignore[attr-defined]  # missing in the stubs
_CODES = {code.value[0]: code for code in grpc.StatusCode}

log = logging.getLogger(__name__)

StreamCall: TypeAlias = Any
"""A grpc.aio.StreamStreamCall of bytes: the stubs want an iterator of requests, and know no type of its messages."""


class Order:
    """An order under way, read as the call of its own that it replaces."""

    def __init__(self, stream: OrderStream, order_id: int, mouths: int) -> None:
        self.stream = stream
        self._id, self._left = order_id, mouths
        self._replies: deque[MouthMessage | aio.AioRpcError] = deque()
        self._came = asyncio.Event()

    async def read(self) -> object:
        """Returns the next mouths, or gRPC's mark of the end. Raises grpc.aio.AioRpcError."""
        if not self._left and not self._replies:
            return _END
        while not self._replies:
            self._came.clear()
            await self._came.wait()
        reply = self._replies.popleft()
        if isinstance(reply, MouthMessage):
            return reply
        raise reply

    def cancel(self) -> None:
        """Gives up the mouths that have not come."""
        self.stream.drop(self._id)

    def take(self, reply: MouthMessage | aio.AioRpcError) -> bool:
        """Takes what has come for it. Returns True if nothing more will come."""
        self._replies.append(reply)
        self._came.set()
        self._left = max(0, self._left - reply.fields.frame_count) if isinstance(reply, MouthMessage) else 0
        return not self._left


class OrderStream:
    """One lasting call. `replica` is the process that answers it."""

    def __init__(self, call: StreamCall, replica: str, ended: Callable[[OrderStream], None]) -> None:
        self.replica = replica
        self.numerics = KnownNumerics()
        self._call = call
        self._ended = ended
        self._ids = count(1)
        self._orders: dict[int, Order] = {}
        self._unsent: list[bytes] = []
        self._cancelled: list[int] = []
        self._sending: asyncio.TimerHandle | None = None
        self._may_send = asyncio.Event()
        self._is_retired = False
        # Of all sessions: their ids must not be those of the session that came first.
        self._writing = asyncio.create_task(self._write(), context=Context())
        self._reading = asyncio.create_task(self._read(), context=Context())

    def order(self, request: bytes, *, mouths: int, due_in_ms: int, timeout_s: float) -> Order:
        """Sends an encoded InferBatchRequest for so many mouths."""
        order_id = next(self._ids)
        fields = pb.SessionOrder(
            id=order_id,
            session_id=request_context.session_id.get(),
            request_id=request_context.request_id.get(),
            traceparent=request_context.traceparent.get(),
            timeout_ms=max(1, round(timeout_s * 1000)),
        ).SerializeToString()
        header = bytes_field_header(pb.SessionOrder.REQUEST_FIELD_NUMBER, len(request))
        size = len(fields) + len(header) + len(request)
        whole = bytes_field_header(pb.SessionOrders.ORDERS_FIELD_NUMBER, size), fields, header, request
        self._unsent.append(b"".join(whole))
        order = self._orders[order_id] = Order(self, order_id, mouths)
        self._send_in(min(_GATHER_S, due_in_ms / 1000 - _HURRY_S))
        return order

    def drop(self, order_id: int) -> None:
        """Gives up an order."""
        if self._orders.pop(order_id, None):
            self._cancelled.append(order_id)
            self._send_in(0.0)

    def retire(self) -> None:
        """Lets the call end when its orders have ended; it gets no others."""
        self._is_retired = True
        self._may_send.set()

    def close(self) -> None:
        """Ends the call now; what is under way fails."""
        self._call.cancel()

    def _send_in(self, seconds: float) -> None:
        if seconds <= 0:
            if self._sending:
                self._sending.cancel()
                self._sending = None
            self._may_send.set()
        elif not self._sending and not self._may_send.is_set():
            self._sending = asyncio.get_running_loop().call_later(seconds, self._send_in, 0.0, context=Context())

    async def _write(self) -> None:
        with suppress(aio.AioRpcError, asyncio.InvalidStateError):  # the call has ended, which the reader sees
            while not (self._is_retired and not self._orders and not self._cancelled):
                await self._may_send.wait()
                self._may_send.clear()
                while self._unsent or self._cancelled:
                    await self._call.write(self._message())
            await self._call.done_writing()

    def _message(self) -> bytes:
        """Takes what is unsent, as far as it fits: the parts of a message may be encoded one by one."""
        orders: list[bytes] = []
        nbytes = 0
        for order in self._unsent:
            if orders and nbytes + len(order) > MESSAGE_BYTES:
                break
            orders.append(order)
            nbytes += len(order)
        del self._unsent[: len(orders)]
        cancelled, self._cancelled = self._cancelled, []
        return b"".join((*orders, pb.SessionOrders(cancelled=cancelled).SerializeToString()))

    async def _read(self) -> None:
        error = lost("the call has ended")
        try:
            while (data := await self._call.read()) is not _END:
                self._take(mouth_region.decode_replies(data))
            log.debug("a stream of orders has ended")
        except aio.AioRpcError as failure:
            error = of_broken_stream(failure)
        except Exception:
            log.exception("a stream of orders broke")
        finally:
            self._ended(self)
            self._call.cancel()
            self._writing.cancel()
            orders, self._orders = self._orders, {}
            for order in orders.values():
                order.take(error)

    def _take(self, message: mouth_region.RepliesMessage) -> None:
        at = 0
        for reply in message.fields.replies:
            order = self._orders.get(reply.id)
            if reply.HasField("failure"):
                taken: MouthMessage | aio.AioRpcError = _error(reply.failure)
            else:
                end = at + _nbytes(reply.region)
                taken, at = MouthMessage(reply.region, message.mouths[at:end]), end
            if order and order.take(taken):
                del self._orders[reply.id]
        if self._is_retired and not self._orders:
            self._may_send.set()


def _nbytes(region: pb.MouthRegion) -> int:
    if not region.widths:
        return region.frame_count * MOUTH_BYTES
    return sum(3 * width * height for width, height in zip(region.widths, region.heights, strict=False))


def _error(failure: pb.SessionFailure) -> aio.AioRpcError:
    """Returns the error that a call of its own would have raised."""
    trailing = [(each.key, each.value if each.key.endswith("-bin") else each.value.decode()) for each in failure.trailing]
    code = _CODES.get(failure.code, grpc.StatusCode.UNKNOWN)
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(*trailing), failure.message, "")
