"""The asyncio face of the client. `blocking` is generated from it: `make client`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from copy import copy
from dataclasses import replace
from types import TracebackType
from typing import Self, Unpack

from lipsync_client.aio_calls import Method, Sent, close_channel, open_channel, sleep
from lipsync_client.calls import Call, Calls, Request, Response, Result
from lipsync_client.clips import Clip, FrameSource, Piece
from lipsync_client.errors import LipsyncError
from lipsync_client.headers import Headers, Metadata
from lipsync_client.pacing import Pace
from lipsync_client.requests import BatchOptions, FrameOptions, IdleOptions, SpokenFrames, StoredFrames
from lipsync_client.results import AvatarInfo, Batch, Health, Loaded, ServerStats
from lipsync_client.sound import Sound
from lipsync_client.tls import TlsOptions
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

SentBatch = Sent[pb.CompositeBatchRequest, pb.CompositeBatchResponse, Batch]


class AsyncClient:
    """Client of `compositing.CompositingService`. It holds one connection and is meant to live long.

    `Client` is for any number of threads; `AsyncClient` has the same methods for asyncio, and is made and used inside one running
    event loop.

    `target` is host:port, or a gRPC target such as dns:///compositors:50052. Without `tls` the connection is plaintext.

    The client does by itself:

    - **Deadlines.** Every call has one, in seconds: `timeout`, `load_timeout` for loading an avatar, or the call's own.
    - **Retries.** A call that ends UNAVAILABLE (the server is starting, draining or gone), or CANCELLED without having been
      cancelled here (a load balancer lost the server), is sent again: up to 4 attempts, 50 to 500 ms between them, never past
      the deadline, whatever the size of the call. When most calls fail, retries stop until calls succeed again. Nothing else is
      repeated for single calls.
    - **Pace.** The clips of `batches`, `frames` and `stored_batches` ask for as much at a time as the server makes promptly, and
      for less where it is slow, refuses, lets a deadline pass, or where a reply would be too large: see `batches`.
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
        self._channel = open_channel(target, tls, max_message_mb=max_message_mb)
        self._stub = CompositingServiceStub(self._channel)
        self._calls = Calls(timeout=timeout, load_timeout=load_timeout)
        self._max_message_bytes = max_message_mb << 20

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection; calls under way are cancelled."""
        await close_channel(self._channel)

    def with_metadata(self, *, request_id: str = "", session_id: str = "", more: Metadata = ()) -> Self:
        """Returns this client, on the same connection, with ids and further metadata for its calls.

        Ids that are left out are made up, one for each call and each clip. The batches of a clip append "/" and their first frame
        to a given request id. Close the client that this was called on, not this one.
        """
        same = copy(self)
        same._calls = replace(self._calls, headers=Headers(request_id, session_id, more))
        return same

    async def composite(
        self, avatar: str, audio: Sound, *, batch_size: int, timeout: float | None = None, **options: Unpack[BatchOptions]
    ) -> Batch:
        """Sends one request, for `batch_size` frames. Sound beyond the last one is look-ahead; `options`: see BatchOptions."""
        return await self._run(self._stub.InferBatchComposite, self._calls.composite(avatar, audio, batch_size, timeout, options))

    async def idle(self, avatar: str, frames: int, *, timeout: float | None = None, **options: Unpack[IdleOptions]) -> Batch:
        """Gives frames for times without speech, within the avatar's idle range; `options`: see IdleOptions.

        The server sends stored pictures and does not ask the inference service. Hand `Batch.next_start_frame` on as
        `start_frame`, from idle frames to idle frames, to speech and back, and the picture goes on without a jump (an
        avatar that loops forward jumps from the end of its idle range to its beginning).
        """
        return await self._run(self._stub.InferBatchComposite, self._calls.idle(avatar, frames, timeout, options))

    async def stored(self, avatar: str, frames: int, *, timeout: float | None = None, **options: Unpack[IdleOptions]) -> Batch:
        """Sends one request without sound; each frame hears the sound of the avatar's own clip. `options`: see IdleOptions.

        The avatar must have stored features (`aud_ave.npy` or `.bin`); LipsyncError FAILED_PRECONDITION says when it has none.
        """
        return await self._run(self._stub.InferBatchComposite, self._calls.stored(avatar, frames, timeout, options))

    def stored_batches(
        self,
        avatar: str,
        frames: int,
        *,
        batch_size: int = 24,
        in_flight: int = 4,
        timeout: float | None = None,
        **options: Unpack[IdleOptions],
    ) -> AsyncGenerator[Batch, None]:
        """Gives any number of the frames of `stored`, in order, at the pace of `batches`."""
        pace = self._pace(batch_size, in_flight, timeout)
        return self._in_order(StoredFrames(avatar, frames, options), pace, timeout)

    def batches(
        self,
        avatar: str,
        sound: Sound | Iterator[Sound],
        *,
        batch_size: int = 24,
        in_flight: int = 4,
        timeout: float | None = None,
        **options: Unpack[FrameOptions],
    ) -> AsyncGenerator[Batch, None]:
        """Gives the frames of a sound in batches, in order: ceil(duration x 25) frames. `options`: see FrameOptions.

        The sound may come in pieces, from an iterator: it is read here as frames are asked for, and only the part in use is held.
        Each request carries the sound around it that its frames depend on, so at 16 kHz any way to cut it gives the same bytes;
        at other rates the server resamples batch by batch, which is the same to the ear.

        A clip begins with one request of 4 frames. A prompt reply doubles the frames, up to `batch_size`, and allows one more
        request under way, up to `in_flight`; a late one halves both. A request whose deadline (`timeout`) passes is asked for
        again frame by frame, one whose reply would be too large in smaller parts; a refusal that says when to come back is
        obeyed, for up to ten times `timeout` without any reply. What fails even so ends the clip.

        Closing the generator cancels what is under way; leaving a loop early, close it with `contextlib.aclosing`.
        """
        pace = self._pace(batch_size, in_flight, timeout)
        return self._in_order(SpokenFrames(avatar, sound, options), pace, timeout)

    def frames(
        self,
        avatar: str,
        sound: Sound | Iterator[Sound],
        *,
        batch_size: int = 24,
        in_flight: int = 4,
        timeout: float | None = None,
        **options: Unpack[FrameOptions],
    ) -> AsyncGenerator[bytes, None]:
        """Gives the pictures of `batches` one by one, one for every 40 ms of the sound."""
        return _pictures(self.batches(avatar, sound, batch_size=batch_size, in_flight=in_flight, timeout=timeout, **options))

    async def list_avatars(self, *, timeout: float | None = None) -> list[AvatarInfo]:
        """Lists the avatars of the server; those that cannot be served come with the reason."""
        return await self._run(self._stub.ListModels, self._calls.list_avatars(timeout))

    async def load(self, avatar: str, *, force_reload: bool = False, timeout: float | None = None) -> Loaded:
        """Loads an avatar into both services; `force_reload` reads its files again."""
        return await self._run(self._stub.LoadModel, self._calls.load(avatar, force_reload, timeout))

    async def unload(self, avatar: str, *, timeout: float | None = None) -> None:
        """Drops an avatar from both services; requests under way finish."""
        await self._run(self._stub.UnloadModel, self._calls.unload(avatar, timeout))

    async def stats(self, avatar: str = "", *, timeout: float | None = None) -> ServerStats:
        """Reports memory and use of one avatar, or of all that are loaded."""
        return await self._run(self._stub.GetModelStats, self._calls.stats(avatar, timeout))

    async def health(self, *, timeout: float | None = None) -> Health:
        """Reports the state of the compositing service and of the inference service behind it."""
        return await self._run(self._stub.Health, self._calls.health(timeout))

    async def _run(self, method: Method[Request, Response], call: Call[Request, Response, Result]) -> Result:
        return await Sent(method, call).result()

    def _pace(self, batch_size: int, in_flight: int, timeout: float | None) -> Pace:
        return Pace(
            batch_size=batch_size,
            in_flight=in_flight,
            timeout_s=self._calls.limit(timeout),
            max_reply_bytes=self._max_message_bytes,
        )

    async def _in_order(self, source: FrameSource, pace: Pace, timeout: float | None) -> AsyncGenerator[Batch, None]:
        clip = Clip(source, self._calls.of_clip(timeout), pace, timeout_s=self._calls.limit(timeout))
        under_way: dict[Piece, SentBatch] = {}
        try:
            self._send_due(clip, under_way)
            while (head := clip.head) is not None:
                sent = under_way.pop(head)
                try:
                    batch = await sent.result()
                except LipsyncError as error:
                    await sleep(clip.failed(error))
                    self._send_due(clip, under_way)
                else:
                    clip.arrived(batch, seconds=sent.seconds)
                    self._send_due(clip, under_way)
                    yield batch
        finally:
            for sent in under_way.values():
                sent.cancel()

    def _send_due(self, clip: Clip, under_way: dict[Piece, SentBatch]) -> None:
        while (due := clip.due()) is not None:
            piece, call = due
            under_way[piece] = Sent(self._stub.InferBatchComposite, call)


async def _pictures(batches: AsyncGenerator[Batch, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(batches):
        async for batch in batches:
            for frame in batch.frames:
                yield frame
