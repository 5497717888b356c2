"""Shows avatars at rest: one session an avatar, shared by all who watch it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager

import grpc

from gateway_service.watching import Watched
from lipsync_client import AsyncSession, Frame, LipsyncError

OpenSession = Callable[[str], AbstractAsyncContextManager[AsyncSession]]
_RETRY_MS = 5000

log = logging.getLogger(__name__)


class _Show(Watched):
    """The frames of one avatar, and the reason for their end."""

    def __init__(self) -> None:
        super().__init__()
        self.running: asyncio.Task[None] | None = None
        self.error = LipsyncError(grpc.StatusCode.UNAVAILABLE, "the session has ended")


class RestShows:
    """Opens a session when the first viewer of an avatar comes, and ends it when the last one has gone."""

    def __init__(self, open_session: OpenSession, *, most: int) -> None:
        self._open_session = open_session
        self._most = most
        self._shows: dict[str, _Show] = {}

    async def watch(self, avatar: str) -> AsyncGenerator[bytes, None]:
        """Yields JPEG files, the newest one when one is asked for. Raises LipsyncError; close it to leave."""
        show = self._shows.get(avatar) or self._begin(avatar)
        try:
            with show.watched() as watcher:
                while (frame := await watcher.next()) is not None:
                    yield frame.picture
            raise show.error
        finally:
            if not show.watchers:
                self._end(avatar, show)

    async def close(self) -> None:
        """Ends all shows."""
        tasks = [show.running for show in self._shows.values() if show.running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, avatar: str) -> _Show:
        if len(self._shows) >= self._most:
            text = "as many avatars are shown at rest as may be"
            raise LipsyncError(grpc.StatusCode.RESOURCE_EXHAUSTED, text, retry_after_ms=_RETRY_MS)
        show = self._shows[avatar] = _Show()
        show.running = asyncio.create_task(self._run(avatar, show))
        return show

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
                        show.show(event)
        except LipsyncError as error:
            show.error = error
        except Exception:
            log.exception("showing %s at rest failed", avatar)
            show.error = LipsyncError(grpc.StatusCode.INTERNAL, "internal error; the operators find it in the log")
        finally:
            show.end()
            if self._shows.get(avatar) is show:
                del self._shows[avatar]
