"""Who runs next on a device: avatars take turns, and within an avatar its waiting requests share the batches.

Pure policy: no clock, no I/O. The dispatcher owns one queue a device and calls it from the event loop only.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

R = TypeVar("R")

# What a request gets of a batch at least, while it has so much left: each piece is a message of its own to the caller, and the
# cost of a message is that of several frames' bytes.
MIN_SLICE = 4


@dataclass
class Waiting(Generic[R]):
    """A request's frames that no batch has taken yet."""

    key: Hashable
    request: R
    next_frame: int
    frames: int

    @property
    def left(self) -> int:
        """Frames still to be taken."""
        return self.frames - self.next_frame


@dataclass(frozen=True)
class Slice(Generic[R]):
    """Frames `start` to `start + count` of one request, taken into a batch."""

    request: R
    start: int
    count: int


class FairQueue(Generic[R]):
    """Requests by key (what can run in one batch: a loaded avatar), round robin over the keys and over each key's requests."""

    def __init__(self) -> None:
        self._turns: OrderedDict[Hashable, deque[Waiting[R]]] = OrderedDict()
        self._frames = 0

    def __len__(self) -> int:
        return sum(len(requests) for requests in self._turns.values())

    @property
    def waiting_frames(self) -> int:
        """Frames that no batch has taken yet."""
        return self._frames

    @property
    def head(self) -> Hashable | None:
        """The key whose turn is next; None when nothing waits."""
        return next(iter(self._turns), None)

    def frames_at_head(self) -> int:
        """Frames waiting under the key whose turn is next; 0 when nothing waits."""
        if not self._turns:
            return 0
        return sum(waiting.left for waiting in next(iter(self._turns.values())))

    def push(self, key: Hashable, request: R, frames: int) -> None:
        """Adds a request of `frames` frames at the end of its key's line."""
        self._turns.setdefault(key, deque()).append(Waiting(key, request, 0, frames))
        self._frames += frames

    def remove(self, request: R) -> None:
        """Forgets what is left of a request; nothing happens when nothing is left."""
        for key, requests in self._turns.items():
            for waiting in requests:
                if waiting.request is request:
                    requests.remove(waiting)
                    self._frames -= waiting.left
                    if not requests:
                        del self._turns[key]
                    return

    def take(self, max_frames: int) -> tuple[Hashable, list[Slice[R]]] | None:
        """The next batch: up to `max_frames` frames of the key whose turn it is, shared evenly by as many of its requests as can
        have MIN_SLICE frames each.

        The key goes to the end of the line when it has frames left, and a request whose frames are not all taken to the end
        of its key's line: one huge request delays another by its share of a batch, never by its length.
        """
        if not self._turns:
            return None
        key, requests = self._turns.popitem(last=False)
        served: list[Waiting[R]] = []
        promised = 0
        while requests and promised < max_frames:
            served.append(requests.popleft())
            promised += min(served[-1].left, MIN_SLICE)
        taken: list[Slice[R]] = []
        for waiting, count in zip(served, _shares([waiting.left for waiting in served], max_frames), strict=True):
            taken.append(Slice(waiting.request, waiting.next_frame, count))
            waiting.next_frame += count
            self._frames -= count
            if waiting.left:
                requests.append(waiting)
        if requests:
            self._turns[key] = requests
        return key, taken


def _shares(wanted: list[int], room: int) -> list[int]:
    """Max-min fair shares of `room`: who wants little gets it, the rest is split evenly. Where that would give less than
    MIN_SLICE, the first get so much and the last what is left.
    """
    least = [min(frames, MIN_SLICE) for frames in wanted]
    if (excess := sum(least) - room) >= 0:
        return [*least[:-1], least[-1] - excess]
    shares = [0] * len(wanted)
    for rank, place in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        shares[place] = min(wanted[place], room // (len(wanted) - rank))
        room -= shares[place]
    return shares
