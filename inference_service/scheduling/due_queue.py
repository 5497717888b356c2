"""Orders the requests of live sessions: avatars take turns, and within an avatar the frames that are due first run first.

Pure policy, as `fair_queue`: no clock, no I/O. A call costs the logarithm of the avatar's waiting requests.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from inference_service.scheduling.fair_queue import Slice
from shared_proto.timing import FRAME_RATE

K = TypeVar("K")
R = TypeVar("R")

# Frames that a request gets at once, as each slice is a message of its own to the caller.
MIN_SLICE = 4


@dataclass
class _Waiting(Generic[K]):
    """The frames of a request that no batch has taken yet. Each frame is due one frame's time after the one before it."""

    key: K
    next_frame: int
    left: int
    due_s: float  # of the next frame
    place: int  # of its entry in the heap; any other entry for the request is old


@dataclass
class _Line(Generic[R]):
    """The requests of one key."""

    heap: list[tuple[float, int, R]] = field(default_factory=list)  # due time, place, request; old entries are passed over
    requests: dict[R, None] = field(default_factory=dict)
    frames: int = 0


class DueQueue(Generic[K, R]):
    """Requests with a due time, by key: round robin over the keys, the earliest due first within each."""

    def __init__(self) -> None:
        self._lines: OrderedDict[K, _Line[R]] = OrderedDict()
        self._waiting: dict[R, _Waiting[K]] = {}
        self._frames = 0
        self._places = count()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def waiting_frames(self) -> int:
        """Frames that no batch has taken yet."""
        return self._frames

    @property
    def head(self) -> K | None:
        """The key whose turn is next; None when nothing waits."""
        return next(iter(self._lines), None)

    def push(self, key: K, request: R, frames: int, due_s: float) -> None:
        """Adds a request of `frames` frames, the first of which is due at `due_s`."""
        line = self._lines.setdefault(key, _Line())
        line.requests[request] = None
        line.frames += frames
        self._frames += frames
        self._waiting[request] = _Waiting(key, 0, frames, due_s, -1)
        self._place(line, request)

    def remove(self, request: R) -> None:
        """Forgets what is left of a request; does nothing when nothing is left."""
        waiting = self._waiting.pop(request, None)
        if waiting is None:
            return
        line = self._lines[waiting.key]
        del line.requests[request]
        line.frames -= waiting.left
        self._frames -= waiting.left
        if not line.requests:
            del self._lines[waiting.key]
        elif len(line.heap) > 2 * len(line.requests) + 8:
            line.heap = [entry for entry in line.heap if self._is_current(entry)]
            heapq.heapify(line.heap)

    def remove_key(self, key: K) -> list[R]:
        """Forgets all requests of a key, and returns them."""
        line = self._lines.pop(key, None)
        if line is None:
            return []
        self._frames -= line.frames
        for request in line.requests:
            del self._waiting[request]
        return list(line.requests)

    def take(self, max_frames: int) -> list[Slice[R]]:
        """Takes up to `max_frames` frames of the key whose turn it is; none when nothing waits. A key with frames left moves to
        the end of the line of keys.

        Up to MIN_SLICE frames are taken of a request before the next one is looked at.
        """
        if not self._lines:
            return []
        key, line = self._lines.popitem(last=False)
        first: dict[R, int] = {}
        counts: dict[R, int] = {}
        while max_frames and line.requests:
            entry = heapq.heappop(line.heap)
            if not self._is_current(entry):
                continue
            request = entry[2]
            waiting = self._waiting[request]
            taken = min(waiting.left, MIN_SLICE, max_frames)
            first.setdefault(request, waiting.next_frame)
            counts[request] = counts.get(request, 0) + taken
            max_frames -= taken
            self._count_taken(line, request, taken)
        if line.requests:
            self._lines[key] = line
        return [Slice(request, first[request], taken) for request, taken in counts.items()]

    def _count_taken(self, line: _Line[R], request: R, taken: int) -> None:
        waiting = self._waiting[request]
        waiting.next_frame += taken
        waiting.left -= taken
        waiting.due_s += taken / FRAME_RATE
        line.frames -= taken
        self._frames -= taken
        if waiting.left:
            self._place(line, request)
        else:
            del line.requests[request], self._waiting[request]

    def _place(self, line: _Line[R], request: R) -> None:
        waiting = self._waiting[request]
        waiting.place = next(self._places)
        heapq.heappush(line.heap, (waiting.due_s, waiting.place, request))

    def _is_current(self, entry: tuple[float, int, R]) -> bool:
        _, place, request = entry
        waiting = self._waiting.get(request)
        return waiting is not None and waiting.place == place
