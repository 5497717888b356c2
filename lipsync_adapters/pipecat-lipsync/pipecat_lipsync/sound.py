"""Turns the sound of Pipecat's frames into that of a session: mono, in one rate."""

from __future__ import annotations

import numpy as np
from pipecat.audio.utils import create_stream_resampler
from pipecat.frames.frames import TTSAudioRawFrame

from lipsync_client.utterances import Samples


class SoundReader:
    """Reads the frames of one reply."""

    def __init__(self, rate: int) -> None:
        """`rate`: Hz, of the session."""
        self._rate = rate
        self._resampler = create_stream_resampler(clear_after_secs=None)

    async def read(self, frame: TTSAudioRawFrame) -> Samples:
        """Returns the sound of a frame; with another rate than the session's the last of it comes with the next frame."""
        size = 2 * frame.num_channels
        interleaved = np.frombuffer(frame.audio[: len(frame.audio) // size * size], np.int16)
        mono = (
            interleaved.reshape(-1, frame.num_channels).mean(axis=1).astype(np.int16) if frame.num_channels > 1 else interleaved
        )
        if frame.sample_rate == self._rate:
            return mono
        return np.frombuffer(await self._resampler.resample(mono.tobytes(), frame.sample_rate, self._rate), np.int16)

    async def end(self) -> Samples:
        """Returns the rest."""
        return np.frombuffer(await self._resampler.flush(), np.int16)
