"""Encodes JPEG files that follow each other into H.264.

x264, in the profile that every browser and phone decodes, without a delay: one access unit a picture, none reordered. The
pictures keep their values: a JPEG's planes are full range with the matrix of BT.601, and the stream says so, since decoders
take 720p without a word for BT.709 in limited range.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final, NamedTuple

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame

ENCODER: Final = "libx264"
# That of sessions.
_FRAME_RATE = 25
# Key frames that nobody asked for: ten seconds apart, for those who keep the stream as a file.
MOST_FRAMES_APART = 10 * _FRAME_RATE
# `superfast` takes half of the bits of `ultrafast` at the same quality, for a quarter more of the time.
_PRESET = "superfast"
_PROFILE = "baseline"
_COLOURS = "fullrange=on:colormatrix=smpte170m:colorprim=smpte170m:transfer=smpte170m"
# The rate never to exceed, for 1280x720 at quality 75, and the smallest one, for which pictures of any size leave room.
_RATE, _RATE_PIXELS, _RATE_CRF = 2_000_000, 1280 * 720, 23.0
_LEAST_RATE = 128_000
# Steps of quality beyond CRF at the most. Without a bound x264 refines a person at rest more and more, for two thirds more bits.
_FINER = 3
# Six steps more halve the rate.
_CRF_OCTAVE = 6


class Packet(NamedTuple):
    """One access unit in Annex B. A key frame begins with its parameter sets, so that a decoder can begin there."""

    data: bytes
    is_key: bool


def is_available() -> bool:
    """Tells if PyAV has the encoder: the one of some distributions has none."""
    return ENCODER in av.codecs_available


def constant_quality(quality: int) -> float:
    """Returns x264's CRF that suits a JPEG quality of 1 to 100: 28 for low (50), 23 for medium (75), 20 for high (90)."""
    return 38 - quality / 5


def highest_rate(width: int, height: int, quality: int) -> int:
    """Returns the bits a second that a stream of that size never exceeds for longer than a second."""
    octaves = (_RATE_CRF - constant_quality(quality)) / _CRF_OCTAVE
    return max(_LEAST_RATE, round(_RATE * width * height / _RATE_PIXELS * 2**octaves))


class H264Encoder:
    """One stream. Every method blocks; use it from one thread at a time."""

    def __init__(self, quality: int) -> None:
        """`quality`: 1 to 100, that of the JPEG files."""
        self._quality = quality
        self._decoder = av.CodecContext.create("mjpeg", "r")
        self._decoder.thread_count = 1  # more would hold pictures back
        self._jpeg = b""
        self._frame: VideoFrame | None = None
        """The picture of `_jpeg`."""
        self._encoder: VideoCodecContext | None = None
        self._count = 0

    def encode(self, jpeg: bytes, *, key: bool) -> Packet:
        """Encodes the next picture, a baseline 4:2:0 JPEG file; its last column or row is cut off where their number is odd.

        The first picture, one of another size and one with `key` become key frames.
        """
        frame = self._decoded(jpeg)
        encoder = self._encoder
        if encoder is None or (encoder.width, encoder.height) != (frame.width, frame.height):
            encoder = self._encoder = self._open(frame.width, frame.height)
        frame.pts = self._count
        frame.pict_type = PictureType.I if key else PictureType.NONE
        self._count += 1
        (packet,) = encoder.encode(frame)
        return Packet(bytes(packet), packet.is_keyframe)

    def _decoded(self, jpeg: bytes) -> VideoFrame:
        if self._frame is None or jpeg != self._jpeg:
            (frame,) = self._decoder.decode(av.Packet(jpeg))
            self._jpeg, self._frame = jpeg, _even(frame)
        return self._frame

    def _open(self, width: int, height: int) -> VideoCodecContext:
        rate = highest_rate(width, height, self._quality)
        encoder = av.CodecContext.create(ENCODER, "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
        encoder.framerate, encoder.time_base = Fraction(_FRAME_RATE), Fraction(1, _FRAME_RATE)
        encoder.thread_count = 1
        encoder.options = {
            "preset": _PRESET,
            "tune": "zerolatency",
            "profile": _PROFILE,
            "crf": str(constant_quality(self._quality)),
            "qmin": str(round(constant_quality(self._quality) - _FINER)),
            "maxrate": str(rate),
            "bufsize": str(rate),
            "g": str(MOST_FRAMES_APART),
            "sc_threshold": "0",  # no key frame of its own choice
            "forced-idr": "1",
            "x264-params": _COLOURS,
        }
        return encoder


def _even(frame: VideoFrame) -> VideoFrame:
    """Returns the picture without its last column and row where it has an odd number of them: 4:2:0 has none of these."""
    width, height = frame.width & ~1, frame.height & ~1
    if (width, height) == (frame.width, frame.height):
        return frame
    cut = VideoFrame(width, height, frame.format.name)
    for old, new in zip(frame.planes, cut.planes, strict=True):
        source = np.frombuffer(memoryview(old), np.uint8).reshape(old.height, old.line_size)
        target = np.frombuffer(memoryview(new), np.uint8).reshape(new.height, new.line_size)
        target[:, : new.width] = source[: new.height, : new.width]
    return cut
