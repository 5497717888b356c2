"""Encodes a session's pictures as H.264, in pieces that fit into packets."""

from __future__ import annotations

from fractions import Fraction

import av
from aiortc.codecs import h264

from gateway_service.webrtc.units import MediaUnit
from service_kit.h264 import H264Encoder

_MICROSECONDS = Fraction(1, 1_000_000)


class VideoEncoder:
    """Turns JPEG files into H.264, each as it comes."""

    def __init__(self, quality: int) -> None:
        """`quality`: 1 to 100, as of JPEG files."""
        self._encoder = H264Encoder(quality)
        self._packetizer = h264.H264Encoder()

    def encode(self, jpeg: bytes, media_us: int, *, key: bool) -> MediaUnit:
        """Encodes a picture, as a key picture if `key` is true or its size is new."""
        encoded = self._encoder.encode(jpeg, key=key)
        packet = av.Packet(encoded.data)
        packet.pts, packet.time_base = media_us, _MICROSECONDS
        payloads, _ = self._packetizer.pack(packet)
        return MediaUnit(payloads, media_us, encoded.is_key)
