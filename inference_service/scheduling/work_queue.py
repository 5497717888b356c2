"""Puts the two kinds of work in one order: what is due first, then batch work, which takes what is left.

Pure policy: no clock, no I/O. The dispatcher owns one queue a device and calls it from the event loop only.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from inference_service.scheduling.due_queue import DueQueue
from inference_service.scheduling.fair_queue import FairQueue, Slice

K = TypeVar("K")
R = TypeVar("R")


class WorkQueue(Generic[K, R]):
    """Requests with and without a due time, by key: a key's requests can share a batch."""

    def __init__(self) -> None:
        self._due: DueQueue[K, R] = DueQueue()
        self._batch: FairQueue[K, R] = FairQueue()

    def __len__(self) -> int:
        return len(self._due) + len(self._batch)

    @property
    def waiting_frames(self) -> int:
        """Frames that no batch has taken yet."""
        return self._due.waiting_frames + self._batch.waiting_frames

    @property
    def has_due(self) -> bool:
        """True when a request with a due time waits."""
        return len(self._due) > 0

    @property
    def head(self) -> K | None:
        """The key whose turn is next; None when nothing waits."""
        return self._due.head if self.has_due else self._batch.head

    def frames_at_head(self) -> int:
        """Frames of batch work under the key whose turn it would be without due work; 0 when none waits."""
        return self._batch.frames_at_head()

    def push(self, key: K, request: R, frames: int, *, due_s: float | None = None) -> None:
        """Adds a request of `frames` frames. `due_s`: the moment at which the first is due; None: batch work."""
        if due_s is None:
            self._batch.push(key, request, frames)
        else:
            self._due.push(key, request, frames, due_s)

    def remove(self, request: R) -> None:
        """Forgets what is left of a request; does nothing when nothing is left."""
        self._due.remove(request)
        self._batch.remove(request)

    def remove_key(self, key: K) -> list[R]:
        """Forgets all requests of a key, and returns them."""
        return self._due.remove_key(key) + self._batch.remove_key(key)

    def take(self, max_frames: int, *, run_frames: int = 1, batch_waits: bool = False) -> list[Slice[R]]:
        """Takes the next batch, empty when nothing waits: up to `max_frames` frames of the key whose turn it is.

        Room beside due frames is for batch work of the same key. While more is due, or `batch_waits`, it gets only what costs no
        time: a network runs `run_frames` frames at once, and a run of fewer takes as long.
        """
        key = self._due.head
        if key is None:
            return [] if batch_waits else self._batch.take(max_frames)
        taken = self._due.take(max_frames)
        frames = sum(piece.count for piece in taken)
        end = -(-frames // run_frames) * run_frames if self.has_due or batch_waits else max_frames
        return taken + self._batch.take_of(key, min(end, max_frames) - frames)
