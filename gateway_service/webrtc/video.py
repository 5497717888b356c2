"""Encodes a session's pictures as H.264."""

from __future__ import annotations

from fractions import Fraction

import av
from aiortc.codecs.h264 import H264Encoder
from av.video.frame import PictureType
from av.video.reformatter import Interpolation

from gateway_service.webrtc.units import MediaUnit

FPS = 25
_TIME_BASE = Fraction(1, 1_000_000)
_FORMAT = "yuvj420p"
# The colours of JPEG. Without their names browsers take pictures of 720 lines for BT.709, and show them in the wrong hue.
_COLOURS = "fullrange=on:colorprim=smpte170m:transfer=smpte170m:colormatrix=smpte170m"


class VideoEncoder:
    """Turns JPEG files into H.264, each as it comes, with one thread: sessions are many."""

    def __init__(self, kbps: int) -> None:
        self._kbps = kbps
        self._jpeg = av.CodecContext.create("mjpeg", "r")
        self._h264: av.VideoCodecContext | None = None
        self._packets = H264Encoder()

    def encode(self, jpeg: bytes, media_us: int, *, key: bool) -> MediaUnit:
        """Encodes a picture, as a key picture if `key` is true or its size is new."""
        frame = self._decoded(jpeg)
        if self._h264 is None or (self._h264.width, self._h264.height) != (frame.width, frame.height):
            self._h264 = self._begin(frame.width, frame.height)
        frame.pts, frame.time_base = media_us, _TIME_BASE
        frame.pict_type = PictureType.I if key else PictureType.NONE
        (packet,) = self._h264.encode(frame)
        payloads, _ = self._packets.pack(packet)
        return MediaUnit(payloads, media_us, packet.is_keyframe)

    def _decoded(self, jpeg: bytes) -> av.VideoFrame:
        """Returns a picture whose colours have half the size in both directions, which needs even sides."""
        (frame,) = self._jpeg.decode(av.Packet(jpeg))
        width, height = frame.width & ~1, frame.height & ~1
        if (frame.format.name, frame.width, frame.height) == (_FORMAT, width, height):
            return frame
        return frame.reformat(width, height, _FORMAT, interpolation=Interpolation.POINT)

    def _begin(self, width: int, height: int) -> av.VideoCodecContext:
        context = av.CodecContext.create("libx264", "w")
        context.width, context.height, context.pix_fmt = width, height, _FORMAT
        context.framerate, context.time_base = Fraction(FPS), _TIME_BASE
        context.bit_rate = 1000 * self._kbps
        context.thread_count = 1
        context.profile = "Baseline"
        bounds = f"vbv-maxrate={self._kbps}:vbv-bufsize={self._kbps}:keyint=infinite:scenecut=0"
        context.options = {"preset": "superfast", "tune": "zerolatency", "x264-params": f"{_COLOURS}:{bounds}"}
        return context
