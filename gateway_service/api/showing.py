"""Shows avatars at rest: one session an avatar, shared by all who watch it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager

import grpc

from lipsync_client import AsyncSession, Frame, LipsyncError

log = logging.getLogger(__name__)

OpenSession = Callable[[str], AbstractAsyncContextManager[AsyncSession]]


class _Show:
    """The frames of one avatar. It keeps the newest alone, so a slow viewer misses those between."""

    def __init__(self) -> None:
        self.viewers = 0
        self.running: asyncio.Task[None] | None = None
        self._newest = b""
        self._number = 0
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def put(self, picture: bytes) -> None:
        """Takes a frame."""
        self._newest, self._number = picture, self._number + 1
        due, self._changed = self._changed, asyncio.get_running_loop().create_future()
        due.set_result(None)

    def fail(self, error: LipsyncError) -> None:
        """Ends the show."""
        if not self._changed.done():
            self._changed.set_exception(error)
            self._changed.exception()  # perhaps nobody waits

    async def after(self, number: int) -> tuple[int, bytes]:
        """Waits for a frame later than `number`. Returns its own number and the JPEG. Raises LipsyncError at the end."""
        if self._number <= number:
            await asyncio.shield(self._changed)
        return self._number, self._newest


class RestShows:
    """Opens a session when the first viewer of an avatar comes, and ends it when the last one has gone."""

    def __init__(self, open_session: OpenSession, *, most: int) -> None:
        self._open_session = open_session
        self._most = most
        self._shows: dict[str, _Show] = {}

    @property
    def running(self) -> int:
        """The number of sessions."""
        return len(self._shows)

    async def watch(self, avatar: str) -> AsyncGenerator[bytes, None]:
        """Yields JPEG files, the newest one when one is asked for. Raises LipsyncError; close it to leave."""
        show = self._shows.get(avatar)
        if show is None:
            if len(self._shows) >= self._most:
                raise LipsyncError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "as many avatars are shown at rest as may be", retry_after_ms=5000
                )
            show = self._shows[avatar] = _Show()
            show.running = asyncio.create_task(self._run(avatar, show))
        show.viewers += 1
        try:
            number = 0
            while True:
                number, picture = await show.after(number)
                yield picture
        finally:
            show.viewers -= 1
            if not show.viewers:
                self._end(avatar, show)

    async def close(self) -> None:
        """Ends all shows."""
        tasks = [show.running for show in self._shows.values() if show.running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, avatar: str, show: _Show) -> None:
        if self._shows.get(avatar) is show:
            del self._shows[avatar]
        if show.running:
            show.running.cancel()

    async def _run(self, avatar: str, show: _Show) -> None:
        try:
            async with self._open_session(avatar) as session:
                async for event in session:
                    if isinstance(event, Frame):
                        show.put(event.picture)
            show.fail(LipsyncError(grpc.StatusCode.UNAVAILABLE, "the session has ended"))
        except LipsyncError as error:
            show.fail(error)
        except asyncio.CancelledError:
            show.fail(LipsyncError(grpc.StatusCode.UNAVAILABLE, "the gateway ends"))
            raise
        except Exception:
            log.exception("showing %s at rest failed", avatar)
            show.fail(LipsyncError(grpc.StatusCode.INTERNAL, "internal error; the operators find it in the log"))
        finally:
            if self._shows.get(avatar) is show:
                del self._shows[avatar]
