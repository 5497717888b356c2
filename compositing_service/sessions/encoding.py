"""Encodes the frames of sessions into video, each when it leaves, and bounds the time that this takes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import NamedTuple

from compositing_service.backgrounds.composer import Pieces
from compositing_service.frame_stream import ms_since
from compositing_service.metrics import STAGE_ENCODE, CompositingMetrics
from compositing_service.outputs import H264Output
from compositing_service.sessions.making import Planned
from service_kit.errors import FailedPrecondition, ResourceExhausted
from service_kit.h264 import H264Encoder, Packet, is_available
from service_kit.limits.quotas import SESSION_RETRY_MS

# The session that takes one place.
PIXELS_A_PLACE = 1280 * 720
# A session that goes on was admitted before, on a replica that is gone: it may take more of this one than a new session.
_MORE_FOR_RESUMED = 1.5


class Encoded(NamedTuple):
    """One frame of a stream, and the milliseconds that it took."""

    packet: Packet
    ms: float


@dataclass(eq=False, slots=True)
class Encoding:
    """The stream of one session."""

    encoder: H264Encoder
    pool: Executor
    metrics: CompositingMetrics
    pixels: int = PIXELS_A_PLACE
    """Pixels of the latest frame; those of a 720p one before the first."""
    _key_wanted: bool = False
    _unsent: bool = False
    """The client lacks the last frame, which the next one would need."""
    _timeline: object = None

    def request_key_frame(self) -> None:
        """Makes the next frame a key frame."""
        self._key_wanted = True

    async def encode(self, frame: Planned) -> Encoded:
        """Encodes a finished frame. Call `sent` when it leaves; if it never does, the next one is a key frame."""
        timeline, avatar = frame.shown.timeline, frame.shown.avatar.avatar
        key = self._key_wanted or self._unsent or timeline is not self._timeline
        self._key_wanted, self._unsent, self._timeline = False, True, timeline
        self.pixels = avatar.width * avatar.height
        work = partial(self._encode, frame.picture or (), key)
        encoded = await asyncio.get_running_loop().run_in_executor(self.pool, work)
        self.metrics.stages[STAGE_ENCODE].observe(encoded.ms / 1000)
        return encoded

    def sent(self) -> None:
        """Notes that the frame that was encoded last leaves."""
        self._unsent = False

    def _encode(self, picture: Pieces, key: bool) -> Encoded:
        started = perf_counter()
        packet = self.encoder.encode(b"".join(picture), key=key)
        return Encoded(packet, ms_since(started))


@dataclass(eq=False, slots=True)
class Encoders:
    """The streams of all sessions of this replica."""

    places: int
    """Streams of 1280x720 at the same time."""
    pool: Executor
    metrics: CompositingMetrics
    _running: set[Encoding] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.metrics.encoding_places.set_function(lambda: self.taken)

    @property
    def taken(self) -> float:
        """The places that are taken: one for each 1280x720 pixels of a stream."""
        return sum(encoding.pixels for encoding in tuple(self._running)) / PIXELS_A_PLACE

    @contextmanager
    def stream(self, output: H264Output, *, is_resumed: bool) -> Iterator[Encoding]:
        """Opens a stream during the block. Raises FailedPrecondition where there are none, ResourceExhausted without a place."""
        if not self.places:
            raise FailedPrecondition("this service sends no H.264: sessions.max_h264 is 0")
        if not is_available():
            raise FailedPrecondition("this service cannot send H.264: its PyAV has no libx264, as that of the package index has")
        if self.taken + 1 > self.places * (_MORE_FOR_RESUMED if is_resumed else 1):
            raise ResourceExhausted("no more sessions with H.264 fit; try again later", retry_after_ms=SESSION_RETRY_MS)
        encoding = Encoding(H264Encoder(output.quality), self.pool, self.metrics)
        self._running.add(encoding)
        try:
            yield encoding
        finally:
            self._running.remove(encoding)
