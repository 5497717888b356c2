"""Shows avatars at rest: one session an avatar, shared by all who watch it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import grpc

from gateway_service.watching import Watched, Watcher
from lipsync_client import AsyncSession, Frame, LipsyncError

OpenSession = Callable[[str], AbstractAsyncContextManager[AsyncSession]]
_RETRY_MS = 5000

log = logging.getLogger(__name__)


class _Show(Watched):
    """The frames of one avatar."""

    def __init__(self) -> None:
        super().__init__()
        self.running: asyncio.Task[None] | None = None


class RestShows:
    """Opens a session when the first viewer of an avatar comes, and ends it when the last one has gone."""

    def __init__(self, open_session: OpenSession, *, most: int) -> None:
        self._open_session = open_session
        self._most = most
        self._shows: dict[str, _Show] = {}

    @contextmanager
    def watched(self, avatar: str, most: int = 1) -> Iterator[Watcher]:
        """Watches an avatar during the block; at most so many frames wait. Raises LipsyncError, as the watcher does."""
        show = self._shows.get(avatar) or self._begin(avatar)
        try:
            with show.watched(most) as watcher:
                yield watcher
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
        ended = LipsyncError(grpc.StatusCode.UNAVAILABLE, "the session has ended")
        try:
            async with self._open_session(avatar) as session:
                async for event in session:
                    if isinstance(event, Frame):
                        show.show(event)
        except LipsyncError as error:
            ended = error
        except Exception:
            log.exception("showing %s at rest failed", avatar)
            ended = LipsyncError(grpc.StatusCode.INTERNAL, "internal error; the operators find it in the log")
        finally:
            show.end(ended)
            if self._shows.get(avatar) is show:
                del self._shows[avatar]
