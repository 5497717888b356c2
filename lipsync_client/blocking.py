"""The blocking face of the client."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc

from lipsync_client.calls import BatchCall, Call, Calls
from lipsync_client.channel import channel_options, check_in_flight
from lipsync_client.requests import BatchOptions, ClipOptions, IdleOptions, StoredOptions
from lipsync_client.results import AvatarInfo, Batch, Health, Loaded, ServerStats
from lipsync_client.sound import Sound
from lipsync_client.tls import TlsOptions
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")
Result = TypeVar("Result")

Pending = tuple[BatchCall, "grpc.CallFuture[pb.CompositeBatchResponse]"]


class Client:
    """Blocking client of `compositing.CompositingService`. Thread-safe; it holds one connection and is meant to live long.

    `target` is host:port, or a gRPC target such as dns:///compositors:50052. Without `tls` the connection is plaintext.

    What the client does by itself:

    - **Deadlines.** Every call has one, in seconds: `timeout`, `load_timeout` for loading an avatar, or the call's own.
    - **Retries.** A call that ends UNAVAILABLE (the server is starting, draining or gone), or CANCELLED though nobody here did
      (a load balancer lost the server), is sent again: up to 4 attempts, 50 to 500 ms between them, never past the deadline,
      whatever the size of the call. Nothing else is repeated; RESOURCE_EXHAUSTED is the server asking for less. When most calls
      fail, retries stop until calls succeed again.
    - **Connection.** Lost servers are noticed by keepalive pings (after 15 s without traffic while calls are under way, 5 s to
      answer) and connected to again within 0.1 to 2 s.
    - **Balancing.** Targets that begin with dns:, ipv4: or ipv6: spread calls over every healthy server behind them.

    Every failed call raises LipsyncError; arguments that no request can carry raise ValueError or TypeError.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: TlsOptions | None = None,
        timeout: float = 30.0,
        load_timeout: float = 120.0,
        max_message_mb: int = 100,
    ) -> None:
        options = channel_options(target, max_message_mb=max_message_mb)
        if tls is None:
            self._channel = grpc.insecure_channel(target, options=options)
        else:
            options += tls.channel_options()
            self._channel = grpc.secure_channel(target, tls.credentials(), options=options)
        self._stub = CompositingServiceStub(self._channel)
        self._calls = Calls(timeout=timeout, load_timeout=load_timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; calls under way are cancelled."""
        self._channel.close()

    def composite(
        self, avatar: str, audio: Sound, *, batch_size: int, timeout: float | None = None, **options: Unpack[BatchOptions]
    ) -> Batch:
        """One request: `batch_size` frames. Sound beyond the last frame serves as look-ahead; `options`: see BatchOptions."""
        return _finish(self._start(self._calls.composite(avatar, audio, batch_size, timeout, options)))

    def idle(self, avatar: str, frames: int, *, timeout: float | None = None, **options: Unpack[IdleOptions]) -> Batch:
        """So many frames while nobody speaks, kept to the avatar's idle range; `options`: see IdleOptions.

        The server sends stored pictures and does not ask the inference service. Hand `Batch.next_start_frame` on as
        `start_frame`, from idle frames to idle frames, to speech and back, and the picture goes on without a jump (an
        avatar that loops forward jumps from the end of its idle range to its beginning).
        """
        return _finish(self._start(self._calls.idle(avatar, frames, timeout, options)))

    def stored(self, avatar: str, frames: int, *, timeout: float | None = None, **options: Unpack[IdleOptions]) -> Batch:
        """One request without sound: so many frames, each heard as in the avatar's own clip; `options`: see IdleOptions.

        The avatar must have stored features (`aud_ave.npy` or `.bin`); LipsyncError FAILED_PRECONDITION says when it has none.
        """
        return _finish(self._start(self._calls.stored(avatar, frames, timeout, options)))

    def stored_batches(
        self, avatar: str, frames: int, *, in_flight: int = 4, timeout: float | None = None, **options: Unpack[StoredOptions]
    ) -> Generator[Batch, None, None]:
        """Any number of the frames of `stored`, in batches, in order, up to `in_flight` requests at once; see StoredOptions."""
        check_in_flight(in_flight)
        return self._in_order(self._calls.stored_clip(avatar, frames, timeout, options), in_flight)

    def batches(
        self, avatar: str, sound: Sound, *, in_flight: int = 4, timeout: float | None = None, **options: Unpack[ClipOptions]
    ) -> Generator[Batch, None, None]:
        """A whole sound in batches, in order: ceil(duration x 25) frames; `options`: see ClipOptions.

        Up to `in_flight` requests are under way at once. Each carries the sound around it that its frames depend on, so at 16 kHz
        any `batch_size` gives the same bytes; at other rates the server resamples batch by batch, which is the same to the ear.
        Closing the iterator cancels what is under way. `timeout` is each request's.
        """
        check_in_flight(in_flight)
        return self._in_order(self._calls.clip(avatar, sound, timeout, options), in_flight)

    def frames(
        self, avatar: str, sound: Sound, *, in_flight: int = 4, timeout: float | None = None, **options: Unpack[ClipOptions]
    ) -> Generator[bytes, None, None]:
        """The pictures of `batches` one by one, one for every 40 ms of the sound."""
        return _pictures(self.batches(avatar, sound, in_flight=in_flight, timeout=timeout, **options))

    def list_avatars(self, *, timeout: float | None = None) -> list[AvatarInfo]:
        """Every avatar of the server; those that cannot be served come with the reason."""
        return self._run(self._stub.ListModels, self._calls.list_avatars(timeout))

    def load(self, avatar: str, *, force_reload: bool = False, timeout: float | None = None) -> Loaded:
        """Loads an avatar into both services; `force_reload` reads its files again."""
        return self._run(self._stub.LoadModel, self._calls.load(avatar, force_reload, timeout))

    def unload(self, avatar: str, *, timeout: float | None = None) -> None:
        """Drops an avatar from both services; requests under way finish."""
        self._run(self._stub.UnloadModel, self._calls.unload(avatar, timeout))

    def stats(self, avatar: str = "", *, timeout: float | None = None) -> ServerStats:
        """Memory and use of one avatar, or of all that are loaded."""
        return self._run(self._stub.GetModelStats, self._calls.stats(avatar, timeout))

    def health(self, *, timeout: float | None = None) -> Health:
        """State of the compositing service and of the inference service behind it."""
        return self._run(self._stub.Health, self._calls.health(timeout))

    def _run(self, method: grpc.UnaryUnaryMultiCallable[Request, Response], call: Call[Request, Response, Result]) -> Result:
        try:
            return call.parse(method(call.request, timeout=call.timeout, metadata=call.headers.metadata()))
        except grpc.RpcError as error:
            raise call.error(error) from error

    def _start(self, call: BatchCall) -> Pending:
        return call, self._stub.InferBatchComposite.future(call.request, timeout=call.timeout, metadata=call.headers.metadata())

    def _in_order(self, calls: Iterator[BatchCall], in_flight: int) -> Generator[Batch, None, None]:
        pending: deque[Pending] = deque()
        try:
            for call in calls:
                pending.append(self._start(call))
                if len(pending) == in_flight:
                    yield _finish(pending.popleft())
            while pending:
                yield _finish(pending.popleft())
        finally:
            for _, future in pending:
                _cancel(future)


def _pictures(batches: Generator[Batch, None, None]) -> Generator[bytes, None, None]:
    with closing(batches):
        for batch in batches:
            yield from batch.frames


def _finish(pending: Pending) -> Batch:
    call, future = pending
    try:
        return call.parse(future.result())
    except grpc.RpcError as error:
        raise call.error(error) from error
    finally:
        _cancel(future)  # nothing to a call that has ended; else the caller was interrupted while it waited


def _cancel(future: grpc.CallFuture[pb.CompositeBatchResponse]) -> None:
    future.cancel()  # type: ignore[no-untyped-call]
