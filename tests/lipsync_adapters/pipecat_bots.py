"""Parts of Pipecat bots: frames that a TTS service would push, and an output transport that plays into memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pipecat.frames.frames import (
    Frame,
    OutputAudioRawFrame,
    OutputImageRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.worker import PipelineParams
from pipecat.tests.utils import run_test
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams

from pipecat_lipsync import LipsyncVideoService

from .served import RATE


def reply(sound: np.ndarray, context: str, *, rate: int = RATE, channels: int = 1, piece_s: float = 0.1) -> list[Frame]:
    """The frames of one reply as a TTS service pushes them; `sound` is int16 [samples], or [samples, channels]."""
    size = int(piece_s * rate)
    pieces = [
        TTSAudioRawFrame(sound[first : first + size].tobytes(), rate, channels, context_id=context)
        for first in range(0, len(sound), size)
    ]
    return [TTSStartedFrame(context_id=context), *pieces, TTSStoppedFrame(context_id=context)]


def avatar(server: str, name: str = "demo", *, cushion: float = 0, patience: float = 60, **more: Any) -> LipsyncVideoService:
    """Without a cushion its sound is that of the replies, sample by sample; it is patient, as tests share a machine."""
    return LipsyncVideoService(
        settings=LipsyncVideoService.Settings(model=name), server=server, cushion=cushion, patience=patience, **more
    )


async def pushed(
    service: LipsyncVideoService, frames: Sequence[Frame], *, rate: int = RATE, **more: Any
) -> tuple[Sequence[Frame], Sequence[Frame]]:
    """Returns the frames that a service pushes downstream and upstream when a pipeline gives it these frames and ends."""
    params = PipelineParams(audio_out_sample_rate=rate, enable_metrics=True)
    return await run_test(service, frames_to_send=frames, pipeline_params=params, start_timeout=60, **more)


def sound_of(frames: Sequence[Frame]) -> np.ndarray:
    return np.frombuffer(b"".join(frame.audio for frame in frames if isinstance(frame, TTSAudioRawFrame)), np.int16)


@dataclass
class Played:
    """Content that a transport has played, in its order: pictures as (width, height), sound as bytes."""

    parts: list[tuple[int, int] | bytes] = field(default_factory=list)

    @property
    def sound(self) -> np.ndarray:
        return np.frombuffer(b"".join(part for part in self.parts if isinstance(part, bytes)), np.int16)

    @property
    def pictures(self) -> int:
        return sum(isinstance(part, tuple) for part in self.parts)


class MemoryOutput(BaseOutputTransport):
    """Takes sound as fast as it is spoken, as a sound card does, and pictures as the base class brings them."""

    def __init__(self, size: tuple[int, int], played: Played) -> None:
        super().__init__(
            TransportParams(
                audio_out_enabled=True,
                audio_out_end_silence_secs=0,
                video_out_enabled=True,
                video_out_width=size[0],
                video_out_height=size[1],
                video_out_framerate=25,
            )
        )
        self._played = played
        self._free_s = 0.0

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        self._played.parts.append(frame.audio)
        self._free_s = max(self._free_s, time.monotonic()) + frame.num_frames / frame.sample_rate
        await asyncio.sleep(self._free_s - time.monotonic())
        return True

    async def write_video_frame(self, frame: OutputImageRawFrame) -> bool:
        self._played.parts.append(frame.size)
        return True
