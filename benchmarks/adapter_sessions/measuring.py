"""Measures one session of an adapter, whichever it is."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import wave
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from statistics import quantiles

import numpy as np
from numpy.typing import NDArray

from lipsync_client import Frame

AVATAR, RATE_HZ, PIECE_S = "demo", 16_000, 0.1
SETTLE_S, SECONDS, SPEECH_S = 3.0, 12.0, 3


class Delays:
    """Times from frames at the client to pictures at the framework, in their order."""

    def __init__(self) -> None:
        self.waiting: deque[float] = deque()
        self.all_s: list[float] = []

    def came(self, event: object) -> None:
        """Notes an event of the client."""
        if isinstance(event, Frame):
            self.waiting.append(time.monotonic())

    def left(self) -> None:
        """Notes a picture."""
        if self.waiting:
            self.all_s.append(time.monotonic() - self.waiting.popleft())


Session = Callable[[str, NDArray[np.int16], Delays], AbstractAsyncContextManager[None]]
"""Runs a session that speaks, during the block: address of the services, speech as int16 [samples], and what to note."""


async def spoken(sound: NDArray[np.int16]) -> AsyncIterator[NDArray[np.int16] | None]:
    """Yields speech at its pace, and None at its end, again and again, with a pause of the same length after each."""
    size = int(PIECE_S * RATE_HZ)
    pieces = [sound[first : first + size] for first in range(0, len(sound), size)]
    while True:
        for piece in pieces:
            yield piece
            await asyncio.sleep(PIECE_S)
        yield None
        await asyncio.sleep(len(pieces) * PIECE_S)


def main(session: Session) -> None:
    """Runs one session before the services at HOST:PORT, with the speech of a file, and prints what it cost as JSON."""
    _, address, path = sys.argv
    print(json.dumps(asyncio.run(_measured(session, address, path))))


async def _measured(session: Session, address: str, path: str) -> dict[str, float]:
    """Measures after a while."""
    with wave.open(path) as file:
        sound = np.frombuffer(file.readframes(SPEECH_S * RATE_HZ), np.int16)
    delays = Delays()
    async with session(address, sound, delays):
        await asyncio.sleep(SETTLE_S)
        delays.all_s.clear()
        spent_s = time.process_time()
        await asyncio.sleep(SECONDS)
        spent_s = time.process_time() - spent_s
        cuts = quantiles(delays.all_s, n=100)
    return {"core_share": spent_s / SECONDS, "added_p50_ms": 1000 * cuts[49], "added_p95_ms": 1000 * cuts[94]}
