"""A call of the API as a value, and a call under way: the parts that both faces share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import grpc

from lipsync_client.errors import LipsyncError, from_rpc_error
from lipsync_client.headers import Headers
from lipsync_client.results import Batch, parse_batch
from shared_proto import compositing_pb2 as pb

Request = TypeVar("Request")
Response = TypeVar("Response")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Call(Generic[Request, Response, Result]):
    """A call that is not sent yet: its message, the reader of the reply, the deadline in seconds, the metadata."""

    request: Request
    parse: Callable[[Response], Result]
    timeout: float
    headers: Headers

    def error(self, error: grpc.RpcError) -> LipsyncError:
        """Turns gRPC's error into the one that the caller sees."""
        return from_rpc_error(error, self.headers.request_id)


BatchCall = Call[pb.CompositeBatchRequest, pb.CompositeBatchResponse, Batch]


def batch_call(request: pb.CompositeBatchRequest, timeout: float, headers: Headers) -> BatchCall:
    """Makes the call of one batch."""
    return Call(request, partial(parse_batch, request), timeout, headers)


class UnderWay(Generic[Request, Response, Result]):
    """A call that was sent."""

    def __init__(self, call: Call[Request, Response, Result], send: Callable[..., Any]) -> None:
        """Sends it by `send`, a method of a stub that returns at once."""
        self._call = call
        self._started = time.monotonic()
        self._ended: float | None = None
        headers = call.headers
        self._reply = send(call.request, timeout=call.timeout, metadata=headers.metadata(), credentials=headers.credentials)
        self._reply.add_done_callback(self._note_end)

    @property
    def seconds(self) -> float:
        """Time from sending to the reply, however late the caller waited for it."""
        # gRPC may deliver the reply before it says that the call is done.
        return (time.monotonic() if self._ended is None else self._ended) - self._started

    def cancel(self) -> None:
        """Cancels the call. Has no effect once it has ended."""
        self._reply.cancel()

    def _note_end(self, _: object) -> None:
        self._ended = time.monotonic()
