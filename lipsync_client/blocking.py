"""The blocking face of the client. Generated from `aio`, which is the one to change; then `make client`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from copy import copy
from types import TracebackType
from typing import Self, Unpack

import grpc

from lipsync_client import requests, results
from lipsync_client.blocking_calls import Method, Sent, aside, close_channel, open_channel, sleep
from lipsync_client.blocking_session import Session
from lipsync_client.calls import Call, Request, Response, Result, batch_call
from lipsync_client.clips import Clip, FrameSource, Piece
from lipsync_client.errors import LipsyncError
from lipsync_client.headers import ApiKey, Headers, Metadata, checked_key
from lipsync_client.pacing import Pace
from lipsync_client.reconnecting import Reconnecting
from lipsync_client.requests import BatchOptions, FrameOptions, IdleOptions, SpokenFrames, StoredFrames
from lipsync_client.results import AvatarInfo, Batch, Health, Loaded, RunningSession, ServerStats
from lipsync_client.retrying import Retries
from lipsync_client.session_config import Resume, SessionOptions, SessionSetup
from lipsync_client.sound import Sound
from lipsync_client.tls import TlsOptions
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

SentBatch = Sent[pb.CompositeBatchRequest, pb.CompositeBatchResponse, Batch]


class Client:
    """Client of `compositing.CompositingService`. It holds one connection and is meant to live long.

    `Client` serves any number of threads. `AsyncClient` has the same methods for asyncio; make and use it inside one running
    event loop.

    `target` is host:port, or a gRPC target such as dns:///compositors:50052. Without `tls` the connection is plaintext.

    `api_key` is sent with every call: an API key or a token, or a function that returns the one in use, which is called for each
    call. `credentials` are gRPC's own, which it sends over TLS alone. ValueError for a key that no header can hold.

    The client takes care of:

    - **Deadlines.** Every call has one, in seconds: its own `timeout`, or the client's `timeout`, or `load_timeout` for `load`.
    - **Retries.** A call that ends UNAVAILABLE (the server is starting, draining or gone), or CANCELLED without having been
      cancelled here (a load balancer lost the server), is sent again: up to 4 attempts, 50 to 500 ms between them, never past
      the deadline, whatever the size of the call. When most calls fail, retries stop until calls succeed again. No other
      failure of a single call is retried.
    - **Sessions.** A live session whose stream is lost resumes by itself, on any replica: see `session`.
    - **Pace.** `batches`, `frames` and `stored_batches` ask for as many frames at a time as the server makes promptly, and for
      fewer when it is slow, refuses, misses a deadline, or when a reply would be too large: see `batches`.
    - **Connection.** Each client has its own. Keepalive pings (after 15 s without traffic while calls are under way, 5 s to
      answer) notice a lost server; the client reconnects within 0.1 to 2 s.
    - **Balancing.** Targets that begin with dns:, ipv4: or ipv6: spread calls over every healthy server behind them.

    Every failed call raises LipsyncError; arguments that no request can carry raise ValueError or TypeError.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: TlsOptions | None = None,
        api_key: ApiKey = None,
        credentials: grpc.CallCredentials | None = None,
        timeout: float = 30.0,
        load_timeout: float = 120.0,
        max_message_mb: int = 100,
    ) -> None:
        self._channel = open_channel(target, tls, max_message_mb=max_message_mb)
        self._stub = CompositingServiceStub(self._channel)
        self._retries = Retries()
        self._timeout = timeout
        self._load_timeout = load_timeout
        self._max_message_bytes = max_message_mb << 20
        self._headers = Headers(api_key=checked_key(api_key), credentials=credentials)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; calls under way are cancelled."""
        self._retries.close()
        close_channel(self._channel)

    def with_metadata(
        self,
        *,
        request_id: str = "",
        session_id: str = "",
        more: Metadata = (),
        credentials: grpc.CallCredentials | None = None,
    ) -> Self:
        """Returns this client, on the same connection, with ids, further metadata and credentials for its calls.

        The client makes up the ids that are left out: a request id for each call, a session id for each clip and live session.
        The batches of a clip append "/" and their first frame to a given request id, later streams of a session "/1", "/2".
        gRPC sends call credentials over TLS alone. Close the client that this was called on, not this one.
        """
        same = copy(self)
        own = self._headers
        same._headers = Headers(request_id, session_id, more, credentials=credentials or own.credentials, api_key=own.api_key)
        return same

    def session(
        self,
        avatar: str,
        *,
        resume_timeout: float = 30.0,
        admission_timeout: float | None = None,
        resume: Resume | None = None,
        **options: Unpack[SessionOptions],
    ) -> Session:
        """Opens a live session: sound goes in as it comes, frames come out as they are made. See Session, SessionOptions.

        It has no deadline. `resume_timeout` is the longest time in seconds without a stream that runs. Until the first one
        runs, a server without room is asked again for `admission_timeout` seconds; None: for `resume_timeout`. With 0 its
        refusal is raised at once, with `retry_after_ms`. `resume` goes on with a session of another client. Raises ValueError
        for options that no session has.
        """
        setup = SessionSetup(avatar, options, resume)
        reconnecting = Reconnecting(resume_timeout, resume_timeout if admission_timeout is None else admission_timeout)
        return Session(self._stub.StreamComposite, setup, self._headers.of_clip(), reconnecting)

    def list_sessions(self, *, timeout: float | None = None) -> list[RunningSession]:
        """Lists the live sessions of the replica that answers, the oldest first."""
        return self._run(self._stub.ListSessions, pb.ListSessionsRequest(), results.parse_sessions, timeout)

    def end_session(self, session_id: str, *, timeout: float | None = None) -> int:
        """Ends the sessions with this id on the replica that answers; their clients see CANCELLED. Returns their number."""
        request = pb.EndSessionRequest(session_id=session_id)
        return self._run(self._stub.EndSession, request, results.parse_ended, timeout)

    def composite(
        self, avatar: str, audio: Sound, *, batch_size: int, timeout: float | None = None, **options: Unpack[BatchOptions]
    ) -> Batch:
        """Sends one request, for `batch_size` frames. Sound beyond the last one is look-ahead; `options`: see BatchOptions."""
        return self._batch(requests.composite_request(avatar, audio, batch_size=batch_size, **options), timeout)

    def idle(self, avatar: str, frames: int, *, timeout: float | None = None, **options: Unpack[IdleOptions]) -> Batch:
        """Gets frames without speech, within the avatar's idle range; `options`: see IdleOptions.

        The server sends stored pictures and does not ask the inference service. Pass each reply's `next_start_frame` to the
        next request as `start_frame`, idle or speaking, and the person does not jump. (An avatar that loops forward jumps from
        the end of its idle range to the beginning.)
        """
        return self._batch(requests.soundless_request(avatar, "idle", batch_size=frames, **options), timeout)

    def stored(self, avatar: str, frames: int, *, timeout: float | None = None, **options: Unpack[IdleOptions]) -> Batch:
        """Sends one request without sound; each frame hears the sound of the avatar's own clip. `options`: see IdleOptions.

        The avatar must have stored features (`aud_ave.npy` or `.bin`); without them LipsyncError is FAILED_PRECONDITION.
        """
        request = requests.soundless_request(avatar, "stored_features", batch_size=frames, **options)
        return self._batch(request, timeout)

    def stored_batches(
        self,
        avatar: str,
        frames: int,
        *,
        batch_size: int = 24,
        in_flight: int = 4,
        timeout: float | None = None,
        **options: Unpack[IdleOptions],
    ) -> Generator[Batch, None, None]:
        """Yields any number of the frames of `stored`, in order, at the pace of `batches`."""
        return self._in_order(StoredFrames(avatar, frames, options), batch_size, in_flight, timeout)

    def batches(
        self,
        avatar: str,
        sound: Sound | Iterator[Sound],
        *,
        batch_size: int = 24,
        in_flight: int = 4,
        timeout: float | None = None,
        **options: Unpack[FrameOptions],
    ) -> Generator[Batch, None, None]:
        """Yields the frames of a sound in batches, in order: ceil(duration x 25) frames. `options`: see FrameOptions.

        The sound may come in pieces, from an iterator: it is read here as frames are asked for, and only the part in use is held.
        Each request carries the sound around it that its frames depend on, so at 16 kHz any way to cut it gives the same bytes;
        at other rates the server resamples batch by batch, which is the same to the ear.

        A clip begins with one request of 4 frames. A prompt reply doubles the frames, up to `batch_size`, and allows one more
        request under way, up to `in_flight`; a late one halves both. A request whose deadline (`timeout`) passes is asked for
        again frame by frame, one whose reply would be too large in smaller parts. A refusal that says when to come back is
        obeyed, for up to ten times `timeout` without any reply. Any other failure ends the clip.

        Closing the generator cancels what is under way; to leave a loop early, close it with `contextlib.closing`.
        """
        return self._in_order(SpokenFrames(avatar, sound, options), batch_size, in_flight, timeout)

    def frames(
        self,
        avatar: str,
        sound: Sound | Iterator[Sound],
        *,
        batch_size: int = 24,
        in_flight: int = 4,
        timeout: float | None = None,
        **options: Unpack[FrameOptions],
    ) -> Generator[bytes, None, None]:
        """Yields the frames of `batches` one by one, one for every 40 ms of the sound."""
        return _frames(self.batches(avatar, sound, batch_size=batch_size, in_flight=in_flight, timeout=timeout, **options))

    def list_avatars(self, *, timeout: float | None = None) -> list[AvatarInfo]:
        """Lists the avatars of the server; those that cannot be served come with the reason."""
        listed = self._run(self._stub.ListModels, pb.ListModelsRequest(), lambda response: response, timeout)
        return aside(results.parse_avatars, listed)  # there may be thousands

    def load(self, avatar: str, *, force_reload: bool = False, timeout: float | None = None) -> Loaded:
        """Loads an avatar into both services; `force_reload` reads its files again."""
        request = pb.LoadModelRequest(model_id=avatar, force_reload=force_reload)
        limit = self._load_timeout if timeout is None else timeout
        return self._run(self._stub.LoadModel, request, results.parse_loaded, limit)

    def unload(self, avatar: str, *, timeout: float | None = None) -> None:
        """Unloads an avatar from both services; requests under way finish."""
        self._run(self._stub.UnloadModel, pb.UnloadModelRequest(model_id=avatar), results.parse_unloaded, timeout)

    def stats(self, avatar: str = "", *, timeout: float | None = None) -> ServerStats:
        """Reports memory and use of one avatar, or of all that are loaded."""
        return self._run(self._stub.GetModelStats, pb.GetModelStatsRequest(model_id=avatar), results.parse_stats, timeout)

    def health(self, *, timeout: float | None = None) -> Health:
        """Reports the state of the compositing service and of the inference service behind it."""
        return self._run(self._stub.Health, pb.HealthRequest(), results.parse_health, timeout)

    def _batch(self, request: pb.CompositeBatchRequest, timeout: float | None) -> Batch:
        headers = self._headers.of_call(request.model_id)
        return Sent(self._stub.InferBatchComposite, batch_call(request, self._limit(timeout), headers), self._retries).result()

    def _run(
        self, method: Method[Request, Response], request: Request, parse: Callable[[Response], Result], timeout: float | None
    ) -> Result:
        headers = self._headers.of_call(getattr(request, "model_id", ""))
        return Sent(method, Call(request, parse, self._limit(timeout), headers), self._retries).result()

    def _limit(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout

    def _in_order(
        self, source: FrameSource, batch_size: int, in_flight: int, timeout: float | None
    ) -> Generator[Batch, None, None]:
        limit = self._limit(timeout)
        most = self._max_message_bytes
        pace = Pace(batch_size=batch_size, in_flight=in_flight, timeout_s=limit, max_reply_bytes=most)
        return self._replies(Clip(source, pace, timeout_s=limit), limit)

    def _replies(self, clip: Clip, timeout: float) -> Generator[Batch, None, None]:
        """Sends the requests of a clip as they fall due, and yields the replies in order."""
        headers = self._headers.of_clip()
        under_way: dict[Piece, SentBatch] = {}

        def send_due() -> None:
            while (due := clip.due()) is not None:
                piece, request = due
                call = batch_call(request, timeout, headers.of_batch(request.model_id, piece.first))
                under_way[piece] = Sent(self._stub.InferBatchComposite, call, self._retries)

        try:
            send_due()
            while (head := clip.head) is not None:
                sent = under_way.pop(head)
                try:
                    batch = sent.result()
                except LipsyncError as error:
                    sleep(clip.failed(error))
                    send_due()
                else:
                    clip.arrived(batch, seconds=sent.seconds)
                    send_due()
                    yield batch
        finally:
            for sent in under_way.values():
                sent.cancel()


def _frames(batches: Generator[Batch, None, None]) -> Generator[bytes, None, None]:
    with closing(batches):
        for batch in batches:
            for frame in batch.frames:
                yield frame
