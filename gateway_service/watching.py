"""Lets any number watch frames go by, each as far as it keeps up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from lipsync_client import Frame


class Watcher:
    """Sees frames as far as it keeps up: only the newest one waits for it, so a slow watcher holds up nobody."""

    def __init__(self) -> None:
        self._newest: Frame | None = None
        self._over = False
        self._changed = asyncio.Event()

    async def next(self) -> Frame | None:
        """Waits for a frame that it has not seen. Returns None when no frame follows."""
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


class Watched:
    """Frames that may be watched."""

    def __init__(self) -> None:
        self._newest: Frame | None = None
        self._over = False
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

    def end(self) -> None:
        """Tells all watchers that no frame follows."""
        self._over = True
        for watcher in self._watchers:
            watcher.end()

    @contextmanager
    def watched(self) -> Iterator[Watcher]:
        """Watches during the block, from the newest frame on."""
        watcher = Watcher()
        if self._newest:
            watcher.show(self._newest)
        if self._over:
            watcher.end()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
