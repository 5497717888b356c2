"""Decides which requests run next on a device: avatars take turns, a batch each, and so do an avatar's waiting requests.

Pure policy: no clock, no I/O. The dispatcher owns one queue a device and calls it from the event loop only. The cost of each call
does not grow with the number of waiting requests.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")


@dataclass(frozen=True)
class Slice(Generic[R]):
    """Frames `start` to `start + count` of one request, taken into a batch."""

    request: R
    start: int
    count: int


@dataclass
class _Waiting(Generic[K]):
    """The frames of a request that no batch has taken yet."""

    key: K
    next_frame: int
    left: int


class FairQueue(Generic[K, R]):
    """Requests by key (what can run in one batch: a loaded avatar), round robin over the keys and over each key's requests."""

    def __init__(self) -> None:
        self._lines: OrderedDict[K, OrderedDict[R, None]] = OrderedDict()  # the next request of each key first
        self._waiting: dict[R, _Waiting[K]] = {}
        self._frames: Counter[K] = Counter()  # that no batch has taken yet

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def waiting_frames(self) -> int:
        """Frames that no batch has taken yet."""
        return self._frames.total()

    @property
    def head(self) -> K | None:
        """The key whose turn is next; None when nothing waits."""
        return next(iter(self._lines), None)

    def frames_at_head(self) -> int:
        """Frames waiting under the key whose turn is next; 0 when nothing waits."""
        return 0 if self.head is None else self._frames[self.head]

    def push(self, key: K, request: R, frames: int) -> None:
        """Adds a request of `frames` frames at the end of its key's line."""
        self._lines.setdefault(key, OrderedDict())[request] = None
        self._frames[key] += frames
        self._waiting[request] = _Waiting(key, 0, frames)

    def remove(self, request: R) -> None:
        """Forgets what is left of a request; does nothing when nothing is left."""
        waiting = self._waiting.pop(request, None)
        if waiting is None:
            return
        line = self._lines[waiting.key]
        del line[request]
        self._frames[waiting.key] -= waiting.left
        if not line:
            del self._lines[waiting.key], self._frames[waiting.key]

    def remove_key(self, key: K) -> list[R]:
        """Forgets all requests of a key, and returns them."""
        requests = list(self._lines.pop(key, ()))
        del self._frames[key]
        for request in requests:
            del self._waiting[request]
        return requests

    def take(self, max_frames: int) -> list[Slice[R]]:
        """Takes the next batch, empty when nothing waits: up to `max_frames` frames of the key whose turn it is.

        The request whose turn it is gets as much as it wants, and the next ones what is left: each slice is a message to its
        caller, which costs both services as much as several frames. A key with frames left moves to the end of the line of
        keys, and a request with frames left to the end of its key's line: one huge request delays another by a batch, never by
        its length.
        """
        key = self.head
        return [] if key is None else self.take_of(key, max_frames)

    def take_of(self, key: K, max_frames: int) -> list[Slice[R]]:
        """Does what `take` does for a key whose turn it need not be; takes none where none waits or `max_frames` is 0."""
        if key not in self._lines or max_frames == 0:
            return []
        line = self._lines.pop(key)
        taken: list[Slice[R]] = []
        while line and max_frames:
            piece = self._take(line, next(iter(line)), max_frames)
            taken.append(piece)
            max_frames -= piece.count
        if line:
            self._lines[key] = line
        else:
            del self._frames[key]
        return taken

    def _take(self, line: OrderedDict[R, None], request: R, max_frames: int) -> Slice[R]:
        waiting = self._waiting[request]
        count = min(waiting.left, max_frames)
        piece = Slice(request, waiting.next_frame, count)
        waiting.next_frame += count
        waiting.left -= count
        self._frames[waiting.key] -= count
        if waiting.left:
            line.move_to_end(request)
        else:
            del line[request], self._waiting[request]
        return piece
