"""Encodes the frames of a session into one video stream, each when it leaves."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from compositing_service.sessions.making import Planned
from compositing_service.video.h264 import H264Encoder, Packet


@dataclass(eq=False, slots=True)
class Encoding:
    """The stream of one session. It begins anew, with a key frame, where a frame's place is not that after the last one."""

    encoder: H264Encoder
    pool: Executor
    _begins: bool = True
    """The next frame is to be a key frame."""
    _unsent: bool = False
    """The client does not have the last frame, and so none that needs it."""
    _timeline: object = None

    def request_key_frame(self) -> None:
        """Makes the next frame a key frame."""
        self._begins = True

    async def encode(self, frame: Planned) -> Packet:
        """Encodes a finished frame. Call `sent` once it leaves; if it does not, the next one is a key frame."""
        is_cut = frame.shown.timeline is not self._timeline
        key = self._begins or self._unsent or is_cut
        self._begins, self._unsent, self._timeline = False, True, frame.shown.timeline
        encode = partial(self.encoder.encode, b"".join(frame.picture or ()), key=key)
        return await asyncio.get_running_loop().run_in_executor(self.pool, encode)

    def sent(self) -> None:
        """Notes that the frame that was encoded last leaves."""
        self._unsent = False
