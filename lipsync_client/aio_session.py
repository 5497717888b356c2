"""A live session for asyncio. `blocking_session` is generated from it: `make client`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Self

import grpc

from lipsync_client.aio_calls import Condition, SessionMethod, Stream, until
from lipsync_client.errors import LipsyncError
from lipsync_client.headers import Headers
from lipsync_client.reconnecting import Reconnecting
from lipsync_client.session_config import SessionSetup
from lipsync_client.session_events import Resumed, SessionEvent, read_started
from lipsync_client.session_sending import HalfClose
from lipsync_client.session_sound import read_pushed
from lipsync_client.session_state import SessionState
from lipsync_client.sound import Sound
from shared_proto import compositing_pb2 as pb

# A server ends a session whose client says nothing for as long as it tells at the start. Before, this often is enough for any.
_SIGN_OF_LIFE_S = 15.0


class AsyncSession:
    """A live session: push sound as it comes, and iterate over its events, of which most are frames. Use it as a context.

    Push and iterate in two tasks (two threads with `Session`): `push` waits while the server has as much sound as it takes ahead
    of the frames that were read, and a server waits for a client that does not read. Leaving the context ends the session at
    once; to see it to its end, `close` it and iterate until there is nothing more.

    A lost connection, and a server that goes away, are followed by a new stream, on another replica where the target has
    several. It goes on with the frame after the last one that came, from the sound that this session keeps: `Resumed` says so,
    and no frame is lost or comes twice. If no stream runs for `resume_timeout` seconds, or the server ends the session for a
    reason that another stream would not mend, iterating raises LipsyncError, and so does every push from then on.
    """

    def __init__(self, method: SessionMethod, setup: SessionSetup, headers: Headers, reconnecting: Reconnecting) -> None:
        """Use `client.session`."""
        self._method = method
        self._headers = headers
        self._state = SessionState(setup)
        self._reconnecting = reconnecting
        self._changed = Condition()
        self._events: deque[SessionEvent] = deque()
        self._stream: Stream | None = None
        self._streams = 0
        self._cause = ""
        self._going_away = False
        self._sign_of_life_s = _SIGN_OF_LIFE_S
        self._dtype: object = None
        self._over = False
        self._failure: LipsyncError | None = None

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._end(LipsyncError(grpc.StatusCode.CANCELLED, "the session was left"))

    @property
    def session_id(self) -> str:
        """Finds the session in the logs of all replicas, and in their lists of sessions."""
        return self._headers.session_id

    @property
    def next_segment(self) -> int:
        """The number of the segment that the next sound belongs to."""
        return self._state.next_segment

    async def push(self, sound: Sound, *, wait: bool = True) -> None:
        """Sends sound, of any length, in the session's sample rate. It begins a segment if none is open.

        Waits until the server has room for it; without `wait` the sound waits here. Raises LipsyncError when the session has
        failed, ValueError when it was closed and for sound that is no row of finite numbers, TypeError for samples that are
        neither int16 nor floats, or not as before.
        """
        samples = read_pushed(sound)
        if self._dtype not in (None, samples.dtype):
            raise TypeError(f"the session's sound is {self._dtype}, this is {samples.dtype}")
        self._dtype = samples.dtype
        async with self._changed:
            self._check_open()
            mark = self._state.push(samples)
            self._changed.notify_all()
            if not wait:
                return
            await self._changed.wait_for(lambda: self._failure or self._state.is_sent(mark))
            if self._failure:
                raise self._failure

    async def end_segment(self) -> None:
        """Says that the sound so far is a whole utterance: silence follows it. Does nothing if no segment is open."""
        async with self._changed:
            self._check_open()
            self._state.end_segment()
            self._changed.notify_all()

    async def interrupt(self) -> None:
        """Drops all sound that was pushed and not shown; pushes that wait return. `Interrupted` answers it."""
        async with self._changed:
            self._check_open()
            self._state.interrupt()
            self._changed.notify_all()

    async def switch(self, avatar: str, *, start_frame: int = 0) -> None:
        """Shows another avatar as soon as it is loaded, from this position on. `AvatarSwitched` or `SwitchFailed` answers it."""
        async with self._changed:
            self._check_open()
            self._state.switch(avatar, start_frame)
            self._changed.notify_all()

    async def request_key_frame(self) -> None:
        """Has the next frame that the server encodes made a key frame, for a viewer who joins or has lost one. H.264 alone."""
        async with self._changed:
            self._check_open()
            self._state.request_key_frame()
            self._changed.notify_all()

    async def close(self) -> None:
        """Ends the open segment, and says that nothing more comes. The iteration ends after the last frame of the sound."""
        async with self._changed:
            self._state.close()
            self._changed.notify_all()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionEvent:
        while not self._events:
            if self._over:
                raise StopAsyncIteration
            if self._failure:
                raise self._failure
            await self._advance()
        return self._events.popleft()

    def _check_open(self) -> None:
        if self._failure:
            raise self._failure
        if self._state.closed:
            raise ValueError("the session was closed")

    # Streams

    async def _open(self) -> Stream:
        async with self._changed:
            first = self._state.start()
        headers = self._headers.of_stream(self._state.avatar, self._streams)
        self._stream = Stream(self._method, self._messages(self._streams, first), headers)
        return self._stream

    async def _messages(self, number: int, first: pb.SessionRequest) -> AsyncGenerator[pb.SessionRequest, None]:
        """Yields what one stream sends; it ends with the half-close, or when another stream has taken its place."""
        yield first
        while (message := await self._next_message(number)) is not None:
            yield message

    async def _next_message(self, number: int) -> pb.SessionRequest | None:
        async with self._changed:
            await until(self._changed, lambda: number != self._streams or self._state.has_message, within_s=self._sign_of_life_s)
            if number != self._streams:
                return None
            message = self._state.take()
            self._changed.notify_all()
        if isinstance(message, HalfClose):
            return None
        return message or pb.SessionRequest()

    async def _advance(self) -> None:
        """Takes the next event of the stream, or a new stream."""
        stream = self._stream or await self._open()
        try:
            event = await stream.next()
        except LipsyncError as error:
            await self._go_on(error)
            return
        if event is not None:
            await self._take(event)
        elif self._state.is_over:
            await self._finish()
        else:
            await self._go_on(LipsyncError(grpc.StatusCode.UNAVAILABLE, "the server ended the session early"))

    async def _take(self, event: pb.SessionEvent) -> None:
        async with self._changed:
            if event.HasField("started"):
                self._start(event.started)
            else:
                self._reconnecting.ran()
                self._going_away = self._going_away or event.HasField("going_away")
                self._events += self._state.receive(event)
                if event.HasField("frames") and not self._state.has_message:
                    return  # nobody waits for this
            self._changed.notify_all()

    def _start(self, message: pb.SessionStarted) -> None:
        now_s = time.monotonic()
        if self._reconnecting.is_new:
            self._events.append(read_started(message))
        else:
            since_s = self._reconnecting.since_s
            seconds = 0.0 if since_s is None else now_s - since_s
            self._events.append(Resumed(self._state.next_number, seconds, self._cause))
        self._reconnecting.started(now_s)
        self._state.started(message)
        if message.idle_timeout_ms:
            self._sign_of_life_s = min(_SIGN_OF_LIFE_S, message.idle_timeout_ms / 3000)

    async def _go_on(self, error: LipsyncError) -> None:
        """Prepares the stream that takes the place of one that ended with this error. Raises it if none can."""
        async with self._changed:
            self._drop_stream()
            self._events += self._state.broken()
            self._changed.notify_all()
        if self._state.is_over:
            await self._finish()
            return
        try:
            wait_s = self._reconnecting.failed(error, time.monotonic(), going_away=self._going_away)
        except LipsyncError:
            await self._end(error)
            return
        self._going_away, self._cause = False, str(error)
        async with self._changed:
            await until(self._changed, lambda: self._failure, within_s=wait_s)

    def _drop_stream(self) -> None:
        if self._stream:
            self._stream.cancel()
        self._stream = None
        self._streams += 1

    async def _finish(self) -> None:
        self._over = True
        await self._end(LipsyncError(grpc.StatusCode.CANCELLED, "the session has ended"))

    async def _end(self, error: LipsyncError) -> None:
        """Ends the session; pushes fail from now on."""
        async with self._changed:
            self._drop_stream()
            self._failure = self._failure or error
            self._changed.notify_all()
