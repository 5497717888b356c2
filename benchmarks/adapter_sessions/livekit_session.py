"""An avatar for a room of LiveKit: `python -m benchmarks.adapter_sessions.livekit_session HOST:PORT SPEECH.wav`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from livekit import rtc
from livekit.agents.voice.avatar import AudioSegmentEnd
from numpy.typing import NDArray

from benchmarks.adapter_sessions.measuring import AVATAR, RATE_HZ, Delays, main, spoken
from lipsync_adapters.livekit.generator import AvatarGenerator
from lipsync_client import SessionEvent
from lipsync_client.conversation import Server


class TimedGenerator(AvatarGenerator):
    """Notes when frames come."""

    delays: Delays

    async def _take(self, event: SessionEvent) -> None:
        self.delays.came(event)
        await super()._take(event)


@asynccontextmanager
async def generator(address: str, sound: NDArray[np.int16], delays: Delays) -> AsyncIterator[None]:
    """Runs during the block, and takes what it makes as soon as that is there."""
    server = Server(address=address, api_key=None, tls=None, session_id="", options={"sample_rate": RATE_HZ}, patience_s=5)
    made = TimedGenerator(server, AVATAR, rate=RATE_HZ)
    made.delays = delays
    await made.open()

    async def watch() -> None:
        async for part in made:
            if isinstance(part, rtc.VideoFrame):
                delays.left()

    async def speak() -> None:
        async for piece in spoken(sound):
            await made.push_audio(AudioSegmentEnd() if piece is None else rtc.AudioFrame(piece.tobytes(), RATE_HZ, 1, len(piece)))

    tasks = [asyncio.create_task(watch()), asyncio.create_task(speak())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await made.close()


if __name__ == "__main__":
    main(generator)
