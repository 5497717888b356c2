"""Holds a conversation whose voice must not be lost: in sessions one after the other, and without any while none can be had.

For adapters to other protocols, on asyncio.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic

import grpc

from lipsync_client.aio import AsyncClient
from lipsync_client.aio_session import AsyncSession
from lipsync_client.errors import LipsyncError
from lipsync_client.headers import ApiKey
from lipsync_client.session_config import SessionOptions
from lipsync_client.session_events import Frame, SessionEvent
from lipsync_client.tls import TlsOptions
from lipsync_client.utterances import Utterances, UtteranceT
from shared_proto.timing import SAMPLE_RATE_HZ

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 10.0
# With so much sound ahead a frame can be made, at any rate and look-ahead.
_ENOUGH_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server, and the ways to reach it and to call it."""

    address: str
    """host:port, or a gRPC target."""
    api_key: ApiKey
    tls: TlsOptions | None
    session_id: str
    """Empty: made up for each session."""
    options: SessionOptions
    patience_s: float
    """The longest time without an event of a session, or with sound that could be shown and is not."""


class Silent(Exception):
    """The session gave no sign of life for too long, or said nothing. It is still held: it may come back."""


class Conversation(Generic[UtteranceT]):
    """A conversation by way of sessions. `take` gets each event, `lose` each failure; `run` it as a task."""

    def __init__(
        self,
        server: Server,
        utterances: Utterances[UtteranceT],
        *,
        take: Callable[[SessionEvent], Awaitable[None]],
        lose: Callable[[Exception], Awaitable[bool]],
    ) -> None:
        """`lose` tells if another session is of use."""
        self._server = server
        self._utterances = utterances
        self._take, self._lose = take, lose
        self._session: AsyncSession | None = None
        self._more = asyncio.Event()
        self._position = 0
        """On the avatar's timeline, for the next session."""
        self._wait_s = _FIRST_WAIT_S
        self._waits_since_s: float | None = None

    async def run(self, avatar: Callable[[], str]) -> None:
        """Holds sessions with the avatar of that moment until `lose` says that none is of use."""
        while True:
            try:
                await self._talk(avatar())
            except Exception as error:  # whatever it is, the voice goes on
                if not await self._lose(error):
                    return
            await asyncio.sleep(self._wait_s)
            self._wait_s = min(self._wait_s * 2, _LONGEST_WAIT_S)

    async def _talk(self, avatar: str) -> None:
        """Holds one session. Raises LipsyncError at its end, ValueError for options that no session has."""
        server = self._server
        options: SessionOptions = {**server.options, "start_frame": self._position}
        async with AsyncClient(server.address, tls=server.tls, api_key=server.api_key) as client:
            own = client.with_metadata(session_id=server.session_id)
            async with own.session(avatar, **options) as session:
                await self._hold(session)

    async def interrupt(self) -> None:
        """Drops all sound that the session has."""
        if self._session:
            with suppress(LipsyncError):  # whoever reads the session hears of it
                await self._session.interrupt()

    async def switch(self, avatar: str) -> None:
        """Asks the session that runs for another avatar."""
        if self._session:
            with suppress(LipsyncError):
                await self._session.switch(avatar)

    def more(self) -> None:
        """Says that there is something to push."""
        self._more.set()

    async def _hold(self, session: AsyncSession) -> None:
        """Reads a session to its end. Raises LipsyncError."""
        self._session = session
        pushing = asyncio.create_task(self._push(session))
        try:
            while not pushing.done():
                await self._read(session)
            await pushing
        except StopAsyncIteration:
            raise LipsyncError(grpc.StatusCode.UNAVAILABLE, "the session has ended") from None
        finally:
            self._session = None
            pushing.cancel()
            await asyncio.wait([pushing])

    async def _read(self, session: AsyncSession) -> None:
        try:
            async with asyncio.timeout(self._server.patience_s):
                event = await anext(session)
        except TimeoutError:
            await self._lose(Silent(f"no picture for {self._server.patience_s:g} s"))
            return
        if isinstance(event, Frame):
            self._position = event.next_position
            self._wait_s = _FIRST_WAIT_S
            if self._is_stuck(event):
                await self._lose(Silent(f"nothing said for {self._server.patience_s:g} s"))
        await self._take(event)

    def _is_stuck(self, frame: Frame) -> bool:
        """Tells if the server has had all that it needs for too long, and shows the avatar idle."""
        enough = self._server.options.get("sample_rate", SAMPLE_RATE_HZ) * _ENOUGH_S
        waits = any(each.end_pushed or each.pushed - each.shown > enough for each in self._utterances)
        if frame.audio is not None or not waits:
            self._waits_since_s = None
            return False
        now_s = time.monotonic()
        self._waits_since_s = self._waits_since_s or now_s
        return now_s - self._waits_since_s > self._server.patience_s

    async def _push(self, session: AsyncSession) -> None:
        """Brings a session the sound of the utterances, for as long as it runs."""
        with suppress(LipsyncError):
            while True:
                self._more.clear()
                while utterance := self._utterances.next_to_push():
                    utterance.segment = session.next_segment if utterance.segment is None else utterance.segment
                    if utterance.pushed < utterance.received:
                        await session.push(utterance.to_push())
                    if utterance.ended and utterance.pushed == utterance.received:
                        utterance.end_pushed = True
                        await session.end_segment()
                await self._more.wait()
