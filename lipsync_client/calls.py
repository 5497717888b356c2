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
from lipsync_client.retrying import Retries
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

    def __init__(self, call: Call[Request, Response, Result], send: Callable[..., Any], retries: Retries) -> None:
        """Sends it by `send`, a method of a stub that returns at once."""
        self._call = call
        self._method = send
        self._retries = retries
        self._deadline = time.monotonic() + call.timeout
        self._attempts = 0
        self._cancelled = False
        self._send()

    @property
    def seconds(self) -> float:
        """Time from sending to the reply, however late the caller waited for it; of a call that was sent again, the last time."""
        # gRPC may deliver the reply before it says that the call is done.
        return (time.monotonic() if self._ended is None else self._ended) - self._started

    def cancel(self) -> None:
        """Cancels the call. Has no effect once it has ended."""
        self._cancelled = True
        self._reply.cancel()

    def _send(self) -> None:
        self._attempts += 1
        self._started = time.monotonic()
        self._ended: float | None = None
        headers, left_s = self._call.headers, self._deadline - self._started
        self._reply = self._method(
            self._call.request, timeout=left_s, metadata=headers.metadata(), credentials=headers.credentials
        )
        self._reply.add_done_callback(partial(self._note_end, self._attempts))

    def _read(self, reply: Response) -> Result:
        self._retries.succeeded()
        return self._call.parse(reply)

    def _wait_s(self, error: grpc.RpcError) -> float:
        """Returns the seconds to wait before the call is sent again. Raises LipsyncError if it is not."""
        failure = self._call.error(error)
        left_s = self._deadline - time.monotonic()
        wait_s = None if self._cancelled else self._retries.wait_s(failure, attempts=self._attempts, left_s=left_s)
        if wait_s is None:
            raise failure from error
        return wait_s

    def _note_end(self, attempt: int, _: object) -> None:
        if attempt == self._attempts:
            self._ended = time.monotonic()
