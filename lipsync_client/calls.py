"""Every call of the API as a value: the message, how to read the answer, the deadline and the headers.

The two faces differ only in how they send one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import grpc

from lipsync_client import requests, results
from lipsync_client.channel import Headers, new_id
from lipsync_client.errors import LipsyncError, from_rpc_error
from lipsync_client.requests import BatchOptions, ClipOptions, IdleOptions, StoredOptions
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
        """What the caller sees when the call failed."""
        return from_rpc_error(error, self.headers.request_id)


BatchCall = Call[pb.CompositeBatchRequest, pb.CompositeBatchResponse, Batch]


@dataclass(frozen=True, slots=True)
class Calls:
    """Builds calls; holds the deadlines, in seconds, of those that bring none of their own."""

    timeout: float
    load_timeout: float

    def composite(self, avatar: str, audio: Sound, batch_size: int, timeout: float | None, options: BatchOptions) -> BatchCall:
        """One batch."""
        request = requests.composite_request(avatar, audio, batch_size=batch_size, **options)
        return self._batch(request, Headers(avatar), timeout)

    def idle(self, avatar: str, frames: int, timeout: float | None, options: IdleOptions) -> BatchCall:
        """One batch without speech."""
        return self._batch(requests.idle_request(avatar, batch_size=frames, **options), Headers(avatar), timeout)

    def stored(self, avatar: str, frames: int, timeout: float | None, options: IdleOptions) -> BatchCall:
        """One batch from stored features."""
        return self._batch(requests.stored_request(avatar, batch_size=frames, **options), Headers(avatar), timeout)

    def stored_clip(self, avatar: str, frames: int, timeout: float | None, options: StoredOptions) -> Iterator[BatchCall]:
        """The batches of so many frames from stored features, all with one session id."""
        return self._batches(avatar, requests.stored_requests(avatar, frames, **options), timeout)

    def clip(self, avatar: str, sound: Sound, timeout: float | None, options: ClipOptions) -> Iterator[BatchCall]:
        """The batches of a whole sound, all with one session id."""
        return self._batches(avatar, requests.clip_requests(avatar, sound, **options), timeout)

    def list_avatars(self, timeout: float | None) -> Call[pb.ListModelsRequest, pb.ListModelsResponse, list[AvatarInfo]]:
        """Every avatar."""
        return Call(pb.ListModelsRequest(), results.parse_avatars, self._limit(timeout), Headers())

    def load(
        self, avatar: str, force_reload: bool, timeout: float | None
    ) -> Call[pb.LoadModelRequest, pb.LoadModelResponse, Loaded]:
        """Load one."""
        request = pb.LoadModelRequest(model_id=avatar, force_reload=force_reload)
        return Call(request, results.parse_loaded, self.load_timeout if timeout is None else timeout, Headers(avatar))

    def unload(self, avatar: str, timeout: float | None) -> Call[pb.UnloadModelRequest, pb.UnloadModelResponse, None]:
        """Unload one."""
        return Call(pb.UnloadModelRequest(model_id=avatar), results.parse_unloaded, self._limit(timeout), Headers(avatar))

    def stats(self, avatar: str, timeout: float | None) -> Call[pb.GetModelStatsRequest, pb.GetModelStatsResponse, ServerStats]:
        """Use and memory."""
        return Call(pb.GetModelStatsRequest(model_id=avatar), results.parse_stats, self._limit(timeout), Headers(avatar))

    def health(self, timeout: float | None) -> Call[pb.HealthRequest, pb.HealthResponse, Health]:
        """State of both services."""
        return Call(pb.HealthRequest(), results.parse_health, self._limit(timeout), Headers())

    def _batches(self, avatar: str, clip: Iterator[pb.CompositeBatchRequest], timeout: float | None) -> Iterator[BatchCall]:
        session_id = new_id()
        return (self._batch(request, Headers(avatar, session_id), timeout) for request in clip)

    def _batch(self, request: pb.CompositeBatchRequest, headers: Headers, timeout: float | None) -> BatchCall:
        return Call(request, partial(results.parse_batch, request), self._limit(timeout), headers)

    def _limit(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout
