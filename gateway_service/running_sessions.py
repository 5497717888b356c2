"""The sessions of this gateway, by their secrets, and those who watch their frames."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lipsync_client import Frame


class Watcher:
    """Sees a session's frames as far as it keeps up: only the newest one waits for it, so a slow watcher holds up nobody."""

    def __init__(self) -> None:
        self._newest: Frame | None = None
        self._over = False
        self._changed = asyncio.Event()

    async def next(self) -> Frame | None:
        """Waits for a frame that it has not seen. Returns None when the session is over."""
        while self._newest is None and not self._over:
            self._changed.clear()
            await self._changed.wait()
        frame, self._newest = self._newest, None
        return frame

    def show(self, frame: Frame) -> None:
        """Gives it a frame; one that still waits is dropped."""
        self._newest = frame
        self._changed.set()

    def end(self) -> None:
        """Says that no frame follows."""
        self._over = True
        self._changed.set()


@dataclass(eq=False, slots=True)
class RunningSession:
    """A session that a socket holds."""

    secret: str
    session_id: str
    newest: Frame | None = None
    _watchers: set[Watcher] = field(default_factory=set)

    def show(self, frame: Frame) -> None:
        """Gives a frame to all watchers."""
        self.newest = frame
        for watcher in self._watchers:
            watcher.show(frame)

    @contextmanager
    def watched(self) -> Iterator[Watcher]:
        """Watches the session during the block, from its newest frame on."""
        watcher = Watcher()
        if self.newest:
            watcher.show(self.newest)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def end(self) -> None:
        """Tells all watchers that it is over."""
        for watcher in self._watchers:
            watcher.end()


class RunningSessions:
    """All sessions of this gateway."""

    def __init__(self) -> None:
        self._by_secret: dict[str, RunningSession] = {}

    def __len__(self) -> int:
        return len(self._by_secret)

    @contextmanager
    def running(self, session_id: str) -> Iterator[RunningSession]:
        """Lists a session during the block, under a new secret."""
        session = RunningSession(secrets.token_urlsafe(24), session_id)
        self._by_secret[session.secret] = session
        try:
            yield session
        finally:
            del self._by_secret[session.secret]
            session.end()

    def find(self, secret: str) -> RunningSession | None:
        """Returns the session with this secret, if it runs here."""
        return self._by_secret.get(secret)
