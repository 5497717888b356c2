"""A bot that speaks through an avatar, without a network or keys: a recording is its voice, a film its call.

It says the recording, is interrupted in the middle of saying it again, and changes its avatar if it is given a second one. With a
lip-sync server on this machine (`lipsync serve all`):

    python example.py --speech speech.wav --out bot.mp4

In a bot of yours, a TTS service and a transport of Pipecat take the places of `RecordedVoice` and `FilmOutput`.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import wave
from collections.abc import AsyncGenerator
from pathlib import Path

import av
import numpy as np
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    InterruptionWorkerFrame,
    OutputAudioRawFrame,
    OutputImageRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner

from lipsync_client import AsyncClient
from pipecat_lipsync import LipsyncUpdateSettingsFrame, LipsyncVideoService

FPS = 25


class RecordedVoice(TTSService):
    """Says a recording, whatever the text."""

    def __init__(self, speech: Path) -> None:
        super().__init__(
            push_start_frame=True, push_stop_frames=True, settings=TTSSettings(model=None, voice=None, language=None)
        )
        with wave.open(str(speech)) as recording:
            self._speech_rate, self._speech = recording.getframerate(), recording.readframes(recording.getnframes())

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Yields the recording, faster than it is spoken, as TTS services do."""
        piece = self._speech_rate // 5 * 2
        for first in range(0, len(self._speech), piece):
            yield TTSAudioRawFrame(self._speech[first : first + piece], self._speech_rate, 1, context_id=context_id)


class FilmOutput(BaseOutputTransport):
    """Films what a caller would see and hear."""

    def __init__(self, out: Path, size: tuple[int, int], rate: int) -> None:
        width, height = size
        super().__init__(
            TransportParams(
                audio_out_enabled=True,
                audio_out_sample_rate=rate,
                audio_out_end_silence_secs=0,
                video_out_enabled=True,
                video_out_width=width,
                video_out_height=height,
                video_out_framerate=FPS,
            )
        )
        self._file = av.open(str(out), "w")
        self._pictures = self._file.add_stream(
            "libx264", FPS, width=width, height=height, pix_fmt="yuv420p", options={"preset": "ultrafast"}
        )
        self._sound = self._file.add_stream("aac", rate, layout="mono")
        self._begun_s = self._free_s = 0.0
        self._samples = self._count = 0

    async def start(self, frame: StartFrame) -> None:
        """Begins the film."""
        await super().start(frame)
        self._begun_s = time.monotonic()
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        """Takes sound as fast as it is spoken. Silence stands where nothing was said."""
        begins = int((max(time.monotonic(), self._free_s) - self._begun_s) * frame.sample_rate)
        silence = np.zeros(max(0, begins - self._samples), np.int16)
        self._write_sound(np.concatenate([silence, np.frombuffer(frame.audio, np.int16)]), frame.sample_rate)
        self._free_s = max(time.monotonic(), self._free_s) + frame.num_frames / frame.sample_rate
        await asyncio.sleep(self._free_s - time.monotonic())
        return True

    async def write_video_frame(self, frame: OutputImageRawFrame) -> bool:
        """Takes a picture."""
        pixels = np.frombuffer(frame.image, np.uint8).reshape(frame.size[1], frame.size[0], 3)
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        picture.pts = max(self._count, int((time.monotonic() - self._begun_s) * FPS))
        self._count = picture.pts + 1
        self._file.mux(self._pictures.encode(picture))
        return True

    def _write_sound(self, samples: np.ndarray, rate: int) -> None:
        sound = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        sound.sample_rate, sound.pts = rate, self._samples
        self._samples += len(samples)
        self._file.mux(self._sound.encode(sound))

    async def cleanup(self) -> None:
        """Ends the film."""
        await super().cleanup()
        for stream in (self._pictures, self._sound):
            self._file.mux(stream.encode(None))
        self._file.close()


async def main() -> None:
    """Runs the bot."""
    parser = argparse.ArgumentParser(description="A bot that speaks through an avatar.")
    parser.add_argument("--server", default="localhost:50052", help="the lip-sync server, HOST:PORT")
    parser.add_argument("--avatar", default="demo")
    parser.add_argument("--second-avatar", help="shown after the interruption")
    parser.add_argument("--speech", type=Path, required=True, help="a WAV file, mono, 16 bits")
    parser.add_argument("--out", type=Path, required=True, help="the film, .mp4")
    given = parser.parse_args()

    async with AsyncClient(given.server) as client:
        size = next((each.width, each.height) for each in await client.list_avatars() if each.id == given.avatar)
    voice = RecordedVoice(given.speech)
    avatar = LipsyncVideoService(settings=LipsyncVideoService.Settings(model=given.avatar), server=given.server)
    film = FilmOutput(given.out, size, rate=24_000)
    worker = PipelineWorker(Pipeline([voice, avatar, film]), params=PipelineParams(audio_out_sample_rate=24_000))

    started, stopped = asyncio.Event(), asyncio.Event()
    worker.set_reached_upstream_filter((BotStartedSpeakingFrame, BotStoppedSpeakingFrame))

    @worker.event_handler("on_frame_reached_upstream")
    async def heard(_: PipelineWorker, frame: Frame) -> None:
        (started if isinstance(frame, BotStartedSpeakingFrame) else stopped).set()

    async def talk() -> None:
        for interrupted in (False, True, False):
            started.clear()
            stopped.clear()
            await worker.queue_frame(TTSSpeakFrame("whatever"))
            if interrupted:
                await started.wait()  # an interruption before it would be followed by no end
                await asyncio.sleep(2)
                await worker.queue_frame(InterruptionWorkerFrame())
                if given.second_avatar:
                    await worker.queue_frame(LipsyncUpdateSettingsFrame(delta=avatar.Settings(model=given.second_avatar)))
            await stopped.wait()
        await worker.stop_when_done()

    runner = WorkerRunner()
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), talk())


if __name__ == "__main__":
    asyncio.run(main())
