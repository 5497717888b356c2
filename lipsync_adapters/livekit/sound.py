"""Turns LiveKit's sound into that of a session: mono, in one rate."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from livekit import rtc

from lipsync_client.utterances import Samples

# LiveKit's sound goes in steps of 10 ms.
_STEPS_A_SECOND = 100


class SoundReader:
    """Reads the frames of one utterance."""

    def __init__(self, rate: int) -> None:
        """`rate`: Hz, of the session."""
        self._rate = rate
        self._resampler: rtc.AudioResampler | None = None

    def read(self, frame: rtc.AudioFrame) -> Samples:
        """Returns the sound of a frame; with another rate than the session's the last of it comes with the next frame."""
        interleaved = np.frombuffer(frame.data, np.int16).reshape(-1, frame.num_channels)
        mono = interleaved.mean(axis=1).astype(np.int16) if frame.num_channels > 1 else interleaved[:, 0]
        if frame.sample_rate == self._rate:
            return mono
        if self._resampler is None:
            self._resampler = rtc.AudioResampler(frame.sample_rate, self._rate)
        return _joined(self._resampler.push(bytearray(mono.tobytes())))

    def end(self) -> Samples:
        """Returns the rest."""
        return _joined(self._resampler.flush() if self._resampler else ())


def audio_frame(sound: Samples, rate: int) -> rtc.AudioFrame:
    """Makes a frame; silence fills it up to whole 10 ms, so that nothing of it waits for the next one."""
    step = rate // _STEPS_A_SECOND
    whole = np.pad(sound, (0, -len(sound) % step))
    return rtc.AudioFrame(whole.tobytes(), rate, 1, len(whole))


def _joined(frames: Iterable[rtc.AudioFrame]) -> Samples:
    return np.frombuffer(b"".join(bytes(frame.data) for frame in frames), np.int16)
