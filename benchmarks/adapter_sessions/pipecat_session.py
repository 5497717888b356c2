"""A bot of Pipecat that speaks: `python -m benchmarks.adapter_sessions.pipecat_session HOST:PORT SPEECH.wav`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from numpy.typing import NDArray
from pipecat.frames.frames import Frame, OutputImageRawFrame, TTSAudioRawFrame, TTSStoppedFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

from benchmarks.adapter_sessions.measuring import AVATAR, RATE_HZ, Delays, main, spoken
from lipsync_client import SessionEvent
from pipecat_lipsync import LipsyncVideoService


class TimedService(LipsyncVideoService):
    """Notes when frames come."""

    delays: Delays

    async def _take(self, event: SessionEvent) -> None:
        self.delays.came(event)
        await super()._take(event)


class TimedSink(FrameProcessor):
    """Notes when pictures come."""

    delays: Delays

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Passes everything on."""
        await super().process_frame(frame, direction)
        if isinstance(frame, OutputImageRawFrame):
            self.delays.left()
        await self.push_frame(frame, direction)


@asynccontextmanager
async def bot(address: str, sound: NDArray[np.int16], delays: Delays) -> AsyncIterator[None]:
    """Runs during the block."""
    service, sink = TimedService(settings=TimedService.Settings(model=AVATAR), server=address, cushion=0), TimedSink()
    service.delays = sink.delays = delays
    worker = PipelineWorker(Pipeline([service, sink]), params=PipelineParams(audio_out_sample_rate=RATE_HZ))

    async def speak() -> None:
        async for piece in spoken(sound):
            said = TTSStoppedFrame() if piece is None else TTSAudioRawFrame(piece.tobytes(), RATE_HZ, 1, context_id="bench")
            await worker.queue_frame(said)

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    tasks = [asyncio.create_task(runner.run()), asyncio.create_task(speak())]
    try:
        yield
    finally:
        tasks[1].cancel()
        await worker.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    main(bot)
