"""Encodes a session's sound as Opus, in pieces of 20 ms, silence included."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from gateway_service.webrtc.timeline import FRAME_US
from gateway_service.webrtc.units import MediaUnit
from lipsync_client import PushedSound
from lipsync_client.cutting import sample_of_frame

Samples = NDArray[np.float32]

PIECE_US = 20_000
# The rates that Opus takes, in Hz. Sound at others becomes sound at the highest.
_RATES = (8000, 12_000, 16_000, 24_000, 48_000)
_INT16_SCALE = np.float32(1 / 32768)
# Sound leaves the decoder so much later than it entered the encoder.
_CODEC_US = 6500


class SoundEncoder:
    """Turns the sound of frames into Opus packets. Successive frames are one stream, so nothing clicks between them."""

    def __init__(self, rate: int, kbps: int) -> None:
        """`rate`: of the session's sound, in Hz."""
        self._rate = rate
        self._kbps = kbps
        self._stream = _Stream(rate, kbps, 0)
        self._next_us = 0

    def encode(self, sound: PushedSound | None, media_us: int) -> list[MediaUnit]:
        """Encodes the sound of a frame, [samples] at the session's rate; None: silence. Returns the pieces that are finished."""
        if media_us != self._next_us:
            self._stream = _Stream(self._rate, self._kbps, media_us)
        self._next_us = media_us + FRAME_US
        return self._stream.encode(sound)


class _Stream:
    """Sound without a gap."""

    def __init__(self, rate: int, kbps: int, begin_us: int) -> None:
        self._rate = rate
        self._opus_rate = rate if rate in _RATES else _RATES[-1]
        self._resampler = None
        if self._opus_rate != rate:
            self._resampler = soxr.ResampleStream(rate, self._opus_rate, 1, dtype="float32")
        self._context = av.CodecContext.create("libopus", "w")
        self._context.sample_rate, self._context.format, self._context.layout = self._opus_rate, "flt", "mono"
        self._context.bit_rate = 1000 * kbps
        # Lost sound is not sent again, so each packet holds a little of the one before it.
        self._context.options = {"application": "voip", "frame_duration": "20", "fec": "1", "packet_loss": "5"}
        self._frames = 0
        self._waiting: Samples = np.zeros(0, np.float32)
        self._piece_us = begin_us

    def encode(self, sound: PushedSound | None) -> list[MediaUnit]:
        samples = self._of_frame(sound)
        if self._resampler:
            samples = self._resampler.resample_chunk(samples)
        waiting = np.concatenate([self._waiting, samples])
        size = self._opus_rate * PIECE_US // 1_000_000
        whole = len(waiting) // size * size
        self._waiting = waiting[whole:]
        return [unit for first in range(0, whole, size) for unit in self._encoded(waiting[first : first + size])]

    def _of_frame(self, sound: PushedSound | None) -> Samples:
        """Returns the 40 ms of the next frame. A segment's last frame may have less."""
        samples = np.zeros(sample_of_frame(self._frames + 1, self._rate) - sample_of_frame(self._frames, self._rate), np.float32)
        self._frames += 1
        if sound is not None:
            given = sound[: len(samples)]
            samples[: len(given)] = given * _INT16_SCALE if given.dtype == np.int16 else given
        return samples

    def _encoded(self, piece: Samples) -> list[MediaUnit]:
        frame = av.AudioFrame(format="flt", layout="mono", samples=len(piece))
        frame.planes[0].update(piece.tobytes())
        frame.sample_rate, frame.time_base = self._opus_rate, Fraction(1, self._opus_rate)
        begin_us, self._piece_us = self._piece_us, self._piece_us + PIECE_US
        return [MediaUnit((bytes(packet),), begin_us - _CODEC_US) for packet in self._context.encode(frame)]
