"""Lets any number watch frames go by, each as far as it keeps up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from lipsync_client import Frame, LipsyncError


class Watcher:
    """Sees frames as far as it keeps up: only the newest ones wait for it, so a slow watcher holds up nobody."""

    def __init__(self, most: int) -> None:
        self._frames: deque[Frame] = deque(maxlen=most)
        self._over = False
        self._error: LipsyncError | None = None
        self._changed = asyncio.Event()

    @property
    def waiting(self) -> int:
        """The number of frames that wait for it."""
        return len(self._frames)

    async def next(self) -> Frame | None:
        """Waits for a frame that it has not seen. Returns None when no frame follows, or raises the reason."""
        while not self._frames and not self._over:
            self._changed.clear()
            await self._changed.wait()
        if self._frames:
            return self._frames.popleft()
        if self._error:
            raise self._error
        return None

    def show(self, frame: Frame) -> None:
        """Gives it a frame; when too many wait, the oldest is dropped."""
        self._frames.append(frame)
        self._changed.set()

    def end(self, error: LipsyncError | None) -> None:
        """Says that no frame follows."""
        self._over, self._error = True, error
        self._changed.set()


class Watched:
    """Frames that may be watched."""

    def __init__(self) -> None:
        self._newest: Frame | None = None
        self._over = False
        self._error: LipsyncError | None = None
        self._watchers: set[Watcher] = set()

    @property
    def watchers(self) -> int:
        """The number of those who watch."""
        return len(self._watchers)

    def show(self, frame: Frame) -> None:
        """Gives a frame to all watchers."""
        self._newest = frame
        for watcher in self._watchers:
            watcher.show(frame)

    def end(self, error: LipsyncError | None = None) -> None:
        """Tells all watchers that no frame follows, and why if that is an error."""
        self._over, self._error = True, error
        for watcher in self._watchers:
            watcher.end(error)

    @contextmanager
    def watched(self, most: int = 1) -> Iterator[Watcher]:
        """Watches during the block, from the newest frame on. At most so many frames wait."""
        watcher = Watcher(most)
        if self._newest:
            watcher.show(self._newest)
        if self._over:
            watcher.end(self._error)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
