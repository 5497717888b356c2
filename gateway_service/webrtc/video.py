"""Encodes a session's pictures as H.264, in pieces that fit into packets.

As sessions do whose output is H.264: x264 without a delay, in the profile that every browser decodes. The planes of JPEG files go
into it as they are, full range, and the stream names their colours: browsers take 720 lines without a word for BT.709.
"""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from aiortc.codecs.h264 import H264Encoder
from av.video.frame import PictureType

from gateway_service.webrtc.units import MediaUnit

FPS = 25
_FORMAT = "yuvj420p"
_COLOURS = "fullrange=on:colormatrix=smpte170m:colorprim=smpte170m:transfer=smpte170m"
_MICROSECONDS = Fraction(1, 1_000_000)
# The rate never to exceed for 1280x720 at quality 75, whose CRF is 23; six steps of it double the rate.
_RATE, _PIXELS, _CRF, _CRF_OCTAVE = 2_000_000, 1280 * 720, 23.0, 6
_LEAST_RATE = 128_000
# Steps of quality beyond CRF at the most: a person at rest would be refined more and more, for two thirds more bits.
_FINER = 3


class VideoEncoder:
    """Turns JPEG files into H.264, each as it comes."""

    def __init__(self, quality: int) -> None:
        """`quality`: 1 to 100, as of JPEG files."""
        self._crf = 38 - quality / 5
        self._jpeg = av.CodecContext.create("mjpeg", "r")
        self._jpeg.thread_count = 1  # more would hold pictures back
        self._h264: av.VideoCodecContext | None = None
        self._packetizer = H264Encoder()

    def encode(self, jpeg: bytes, media_us: int, *, key: bool) -> MediaUnit:
        """Encodes a picture, as a key picture if `key` is true or its size is new."""
        (frame,) = self._jpeg.decode(av.Packet(jpeg))
        frame = _even(frame if frame.format.name == _FORMAT else frame.reformat(format=_FORMAT))
        if self._h264 is None or (self._h264.width, self._h264.height) != (frame.width, frame.height):
            self._h264 = self._begin(frame.width, frame.height)
        frame.pts, frame.time_base = media_us, _MICROSECONDS
        frame.pict_type = PictureType.I if key else PictureType.NONE
        (packet,) = self._h264.encode(frame)
        payloads, _ = self._packetizer.pack(packet)
        return MediaUnit(payloads, media_us, packet.is_keyframe)

    def _begin(self, width: int, height: int) -> av.VideoCodecContext:
        rate = max(_LEAST_RATE, round(_RATE * width * height / _PIXELS * 2 ** ((_CRF - self._crf) / _CRF_OCTAVE)))
        context = av.CodecContext.create("libx264", "w")
        context.width, context.height, context.pix_fmt = width, height, _FORMAT
        context.framerate, context.time_base = Fraction(FPS), _MICROSECONDS
        context.thread_count = 1  # sessions are many
        context.options = {
            "preset": "superfast",
            "tune": "zerolatency",
            "profile": "baseline",
            "crf": str(self._crf),
            "qmin": str(round(self._crf - _FINER)),
            "maxrate": str(rate),
            "bufsize": str(rate),
            "forced-idr": "1",
            "x264-params": f"{_COLOURS}:keyint=infinite:scenecut=0",
        }
        return context


def _even(frame: av.VideoFrame) -> av.VideoFrame:
    """Returns the picture without its last column and row where it has an odd number of them: 4:2:0 has none of these."""
    width, height = frame.width & ~1, frame.height & ~1
    if (width, height) == (frame.width, frame.height):
        return frame
    cut = av.VideoFrame(width, height, _FORMAT)
    for old, new in zip(frame.planes, cut.planes, strict=True):
        source = np.frombuffer(memoryview(old), np.uint8).reshape(old.height, old.line_size)
        target = np.frombuffer(memoryview(new), np.uint8).reshape(new.height, new.line_size)
        target[:, : new.width] = source[: new.height, : new.width]
    return cut
