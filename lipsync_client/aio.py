"""The asyncio face of the client."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
import grpc.aio

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

SentBatch = grpc.aio.UnaryUnaryCall[pb.CompositeBatchRequest, pb.CompositeBatchResponse]


class AsyncClient:
    """`Client` for asyncio: the same methods, deadlines, retries and errors. Make and use it inside one running event loop."""

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
            self._channel = grpc.aio.insecure_channel(target, options=options)
        else:
            options += tls.channel_options()
            self._channel = grpc.aio.secure_channel(target, tls.credentials(), options=options)
        self._stub = CompositingServiceStub(self._channel)
        self._calls = Calls(timeout=timeout, load_timeout=load_timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection; calls under way are cancelled."""
        await self._channel.close(grace=None)

    async def composite(
        self, avatar: str, audio: Sound, *, batch_size: int, timeout: float | None = None, **options: Unpack[BatchOptions]
    ) -> Batch:
        """One request: see `Client.composite`."""
        call = self._calls.composite(avatar, audio, batch_size, timeout, options)
        return await self._run(self._stub.InferBatchComposite, call)

    async def idle(self, avatar: str, frames: int, *, timeout: float | None = None, **options: Unpack[IdleOptions]) -> Batch:
        """Frames while nobody speaks: see `Client.idle`."""
        return await self._run(self._stub.InferBatchComposite, self._calls.idle(avatar, frames, timeout, options))

    async def stored(self, avatar: str, frames: int, *, timeout: float | None = None, **options: Unpack[IdleOptions]) -> Batch:
        """One request without sound: see `Client.stored`."""
        return await self._run(self._stub.InferBatchComposite, self._calls.stored(avatar, frames, timeout, options))

    def stored_batches(
        self, avatar: str, frames: int, *, in_flight: int = 4, timeout: float | None = None, **options: Unpack[StoredOptions]
    ) -> AsyncGenerator[Batch, None]:
        """Any number of the frames of `stored`: see `Client.stored_batches`."""
        check_in_flight(in_flight)
        return self._in_order(self._calls.stored_clip(avatar, frames, timeout, options), in_flight)

    def batches(
        self, avatar: str, sound: Sound, *, in_flight: int = 4, timeout: float | None = None, **options: Unpack[ClipOptions]
    ) -> AsyncGenerator[Batch, None]:
        """A whole sound in batches: see `Client.batches`. Leaving the loop early, close it with `contextlib.aclosing`."""
        check_in_flight(in_flight)
        return self._in_order(self._calls.clip(avatar, sound, timeout, options), in_flight)

    def frames(
        self, avatar: str, sound: Sound, *, in_flight: int = 4, timeout: float | None = None, **options: Unpack[ClipOptions]
    ) -> AsyncGenerator[bytes, None]:
        """The pictures of `batches` one by one, one for every 40 ms of the sound."""
        return _pictures(self.batches(avatar, sound, in_flight=in_flight, timeout=timeout, **options))

    async def list_avatars(self, *, timeout: float | None = None) -> list[AvatarInfo]:
        """Every avatar of the server: see `Client.list_avatars`."""
        return await self._run(self._stub.ListModels, self._calls.list_avatars(timeout))

    async def load(self, avatar: str, *, force_reload: bool = False, timeout: float | None = None) -> Loaded:
        """Loads an avatar into both services: see `Client.load`."""
        return await self._run(self._stub.LoadModel, self._calls.load(avatar, force_reload, timeout))

    async def unload(self, avatar: str, *, timeout: float | None = None) -> None:
        """Drops an avatar from both services: see `Client.unload`."""
        await self._run(self._stub.UnloadModel, self._calls.unload(avatar, timeout))

    async def stats(self, avatar: str = "", *, timeout: float | None = None) -> ServerStats:
        """Memory and use: see `Client.stats`."""
        return await self._run(self._stub.GetModelStats, self._calls.stats(avatar, timeout))

    async def health(self, *, timeout: float | None = None) -> Health:
        """State of both services: see `Client.health`."""
        return await self._run(self._stub.Health, self._calls.health(timeout))

    async def _run(
        self, method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], call: Call[Request, Response, Result]
    ) -> Result:
        return await _finish(call, _start(method, call))

    async def _in_order(self, calls: Iterator[BatchCall], in_flight: int) -> AsyncGenerator[Batch, None]:
        pending: deque[tuple[BatchCall, SentBatch]] = deque()
        try:
            for call in calls:
                pending.append((call, _start(self._stub.InferBatchComposite, call)))
                if len(pending) == in_flight:
                    yield await _finish(*pending.popleft())
            while pending:
                yield await _finish(*pending.popleft())
        finally:
            for _, sent in pending:
                sent.cancel()


def _start(
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], call: Call[Request, Response, Result]
) -> grpc.aio.UnaryUnaryCall[Request, Response]:
    return method(call.request, timeout=call.timeout, metadata=call.headers.metadata())


async def _finish(call: Call[Request, Response, Result], sent: grpc.aio.UnaryUnaryCall[Request, Response]) -> Result:
    try:
        return call.parse(await sent)
    except grpc.RpcError as error:
        raise call.error(error) from error


async def _pictures(batches: AsyncGenerator[Batch, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(batches):
        async for batch in batches:
            for frame in batch.frames:
                yield frame
