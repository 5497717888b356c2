"""Calls of the API as values: the message, the reader of the answer, the deadline and the headers.

The two faces differ only in how they send one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

import grpc

from lipsync_client import requests, results
from lipsync_client.errors import LipsyncError, from_rpc_error
from lipsync_client.headers import Headers
from lipsync_client.requests import BatchOptions, IdleOptions
from lipsync_client.results import AvatarInfo, Batch, Health, Loaded, ServerStats
from lipsync_client.sound import Sound
from shared_proto import compositing_pb2 as pb

Request = TypeVar("Request")
Response = TypeVar("Response")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Call(Generic[Request, Response, Result]):
    """One call, not yet sent. `timeout` is in seconds."""

    request: Request
    parse: Callable[[Response], Result]
    timeout: float
    headers: Headers

    def error(self, error: grpc.RpcError) -> LipsyncError:
        """Turns gRPC's error into the one that the caller sees."""
        return from_rpc_error(error, self.headers.request_id)


BatchCall = Call[pb.CompositeBatchRequest, pb.CompositeBatchResponse, Batch]


@dataclass(frozen=True, slots=True)
class Calls:
    """Builds calls. Holds their headers, and the deadlines, in seconds, of those that bring none of their own."""

    timeout: float
    load_timeout: float
    headers: Headers = field(default_factory=Headers)

    def composite(self, avatar: str, audio: Sound, batch_size: int, timeout: float | None, options: BatchOptions) -> BatchCall:
        """Builds the call of one batch."""
        return self._one_batch(requests.composite_request(avatar, audio, batch_size=batch_size, **options), timeout)

    def idle(self, avatar: str, frames: int, timeout: float | None, options: IdleOptions) -> BatchCall:
        """Builds the call of one batch without speech."""
        return self._one_batch(requests.idle_request(avatar, batch_size=frames, **options), timeout)

    def stored(self, avatar: str, frames: int, timeout: float | None, options: IdleOptions) -> BatchCall:
        """Builds the call of one batch from stored features."""
        return self._one_batch(requests.stored_request(avatar, batch_size=frames, **options), timeout)

    def of_clip(self, timeout: float | None) -> Callable[[pb.CompositeBatchRequest, int], BatchCall]:
        """Returns a builder of one clip's calls, each from its request and its first frame; they share a session id."""
        headers = self.headers.of_clip()
        return lambda request, first: self._batch(request, headers.of_batch(request.model_id, first), timeout)

    def list_avatars(self, timeout: float | None) -> Call[pb.ListModelsRequest, pb.ListModelsResponse, list[AvatarInfo]]:
        """Builds the call that lists avatars."""
        return Call(pb.ListModelsRequest(), results.parse_avatars, self.limit(timeout), self.headers.of_call())

    def load(
        self, avatar: str, force_reload: bool, timeout: float | None
    ) -> Call[pb.LoadModelRequest, pb.LoadModelResponse, Loaded]:
        """Builds the call that loads one."""
        request = pb.LoadModelRequest(model_id=avatar, force_reload=force_reload)
        limit = self.load_timeout if timeout is None else timeout
        return Call(request, results.parse_loaded, limit, self.headers.of_call(avatar))

    def unload(self, avatar: str, timeout: float | None) -> Call[pb.UnloadModelRequest, pb.UnloadModelResponse, None]:
        """Builds the call that unloads one."""
        request = pb.UnloadModelRequest(model_id=avatar)
        return Call(request, results.parse_unloaded, self.limit(timeout), self.headers.of_call(avatar))

    def stats(self, avatar: str, timeout: float | None) -> Call[pb.GetModelStatsRequest, pb.GetModelStatsResponse, ServerStats]:
        """Builds the call that asks for use and memory."""
        request = pb.GetModelStatsRequest(model_id=avatar)
        return Call(request, results.parse_stats, self.limit(timeout), self.headers.of_call(avatar))

    def health(self, timeout: float | None) -> Call[pb.HealthRequest, pb.HealthResponse, Health]:
        """Builds the call that asks for the state of both services."""
        return Call(pb.HealthRequest(), results.parse_health, self.limit(timeout), self.headers.of_call())

    def limit(self, timeout: float | None) -> float:
        """Returns the deadline of a call that brings `timeout`."""
        return self.timeout if timeout is None else timeout

    def _one_batch(self, request: pb.CompositeBatchRequest, timeout: float | None) -> BatchCall:
        return self._batch(request, self.headers.of_call(request.model_id), timeout)

    def _batch(self, request: pb.CompositeBatchRequest, headers: Headers, timeout: float | None) -> BatchCall:
        return Call(request, partial(results.parse_batch, request), self.limit(timeout), headers)
