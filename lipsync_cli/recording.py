"""Reads the sound of any audio or video file.

PyAV brings FFmpeg's decoders along, so that no ffmpeg program is needed. The sound is kept as it was recorded for the film's
track; what the server hears is its mean over the channels, resampled as the networks' training did it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import numpy as np
import soxr
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from lipsync_cli.failures import CliError

SPEECH_RATE_HZ = 16000


@dataclass(frozen=True)
class Recording:
    """Decoded sound: float32 [channels, samples] in [-1, 1], one or two channels."""

    samples: NDArray[np.float32]
    rate_hz: int

    @property
    def channels(self) -> int:
        """One or two."""
        return int(self.samples.shape[0])

    @property
    def layout(self) -> str:
        """The channels as FFmpeg calls them."""
        return "mono" if self.channels == 1 else "stereo"

    @property
    def seconds(self) -> float:
        """Duration."""
        return int(self.samples.shape[1]) / self.rate_hz

    def resampled(self, rate_hz: int) -> Recording:
        """The same sound at another rate."""
        if rate_hz == self.rate_hz:
            return self
        resampled = soxr.resample(self.samples.T, self.rate_hz, rate_hz, quality="HQ").T
        return Recording(np.ascontiguousarray(resampled, np.float32), rate_hz)

    def speech(self) -> NDArray[np.float32]:
        """Mono at 16 kHz, float32 [samples]."""
        mono = Recording(self.samples.mean(axis=0, keepdims=True, dtype=np.float32), self.rate_hz)
        speech: NDArray[np.float32] = mono.resampled(SPEECH_RATE_HZ).samples[0]
        return speech


def read_recording(path: Path) -> Recording:
    """Decodes the first sound of `path`. Raises CliError when there is none, or when it is damaged."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise CliError(f"{path} has no sound in it")
            stream = container.streams.audio[0]
            pieces = list(_decoded(container, stream))
            rate_hz = stream.rate
    except OSError as error:
        raise CliError(f"{path}: {error.strerror or error}") from error
    except av.error.FFmpegError as error:
        raise CliError(f"{path} cannot be read as sound: {error.strerror}") from error
    if not pieces:
        raise CliError(f"{path} holds no sound")
    return Recording(np.concatenate(pieces, axis=1), rate_hz)


def _decoded(container: InputContainer, stream: AudioStream) -> Iterator[NDArray[np.float32]]:
    """Planar float pieces at the stream's own rate."""
    layout = "mono" if stream.channels == 1 else "stereo"
    convert = av.AudioResampler(format="fltp", layout=layout, rate=stream.rate)
    for frame in chain(_frames(container, stream), [None]):
        for piece in convert.resample(frame):
            yield piece.to_ndarray().astype(np.float32, copy=False)


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[av.AudioFrame]:
    """Decoded frames; damaged ones are left out, as players do."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue
