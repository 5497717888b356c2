"""The state of a clip under way: the next request to send, the order of replies, the frames to ask for again.

It sends nothing itself: the two faces send, and report the replies.
"""

from __future__ import annotations

import random
from bisect import insort
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import grpc

from lipsync_client.errors import LipsyncError
from lipsync_client.pacing import Pace
from lipsync_client.results import Batch
from shared_proto import compositing_pb2 as pb

# Refusals that say when to come back are obeyed for this many deadlines of a call, without any reply between them.
PATIENCE = 10
# The wait is stretched at random, so that callers that were refused together do not come back together.
SHORTEST_WAIT_S, LONGEST_STRETCH = 0.01, 1.5


class FrameSource(Protocol):
    """The frames of a clip, numbered from 0."""

    def available(self, first: int, wanted: int) -> int:
        """Counts the frames from `first` on, up to `wanted`; fewer only at the clip's end."""

    def request(self, first: int, count: int) -> pb.CompositeBatchRequest:
        """Builds the request of `count` frames from `first` on, which are available and not forgotten."""

    def forget(self, before: int) -> None:
        """Releases the sound that only earlier frames need."""


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """Frames of the clip that one request asks for."""

    first: int
    count: int
    step: int
    """The step of the pace when it was sent."""
    alone: bool
    """True when that pace allows no other request under way."""


class Clip:
    """The requests of one clip: send all that `due` returns, wait for `head`, report its reply or error, repeat."""

    def __init__(self, source: FrameSource, pace: Pace, *, timeout_s: float) -> None:
        """`timeout_s` is the deadline of each call."""
        self._source = source
        self._pace = pace
        self._patience_s = PATIENCE * timeout_s
        self._waited_s = 0.0
        self._delivered = 0
        self._begun = 0
        self._again: deque[range] = deque()
        self._under_way: list[Piece] = []

    @property
    def head(self) -> Piece | None:
        """The request under way whose reply the caller gets next."""
        return self._under_way[0] if self._under_way else None

    def due(self) -> tuple[Piece, pb.CompositeBatchRequest] | None:
        """Returns the next request to send now, if any. The frames that the caller gets next are due at any pace."""
        again = self._again[0] if self._again else None
        first = again.start if again else self._begun
        if first != self._delivered and len(self._under_way) >= self._pace.requests:
            return None
        count = min(self._pace.frames, len(again)) if again else self._source.available(first, self._pace.frames)
        if not count:
            return None
        piece = Piece(first, count, self._pace.step, alone=self._pace.requests == 1)
        if again:
            self._again.popleft()
            self._ask_again(again[count:])
        else:
            self._begun += count
        insort(self._under_way, piece)
        return piece, self._source.request(first, count)

    def arrived(self, batch: Batch, *, seconds: float) -> None:
        """Records the head's reply, `seconds` after it was sent."""
        piece = self._under_way.pop(0)
        self._pace.replied(step=piece.step, seconds=seconds, largest_frame_bytes=max(map(len, batch.frames), default=0))
        self._waited_s = 0.0
        self._delivered += piece.count
        self._source.forget(self._delivered)

    def failed(self, error: LipsyncError) -> float:
        """Prepares to ask for the head's frames again; returns the seconds to wait first. Raises `error` if that cannot help."""
        piece = self._under_way.pop(0)
        wait_s = 0.0
        if error.retry_after_ms is not None:
            wait_s = max(SHORTEST_WAIT_S, error.retry_after_ms / 1000) * random.uniform(1, LONGEST_STRETCH)  # noqa: S311
            self._waited_s += wait_s
            if self._waited_s > self._patience_s:
                raise error
            self._pace.refused(step=piece.step)
        elif error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and piece.count > 1:
            self._pace.fit(min(piece.count - 1, error.fitting_batch_size or piece.count // 2))
        elif error.code is grpc.StatusCode.DEADLINE_EXCEEDED and not (piece.alone and piece.count == 1):
            self._pace.expired(step=piece.step)
        else:
            raise error
        self._ask_again(range(piece.first, piece.first + piece.count))
        return wait_s

    def _ask_again(self, frames: range) -> None:
        if frames:
            self._again.appendleft(frames)
