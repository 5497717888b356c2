"""Headers of the binary messages to browsers, before a picture or sound. docs/websocket.md describes them."""

from __future__ import annotations

import struct

from lipsync_client import Frame

FRAME_TYPE, SOUND_TYPE = 1, 2
SPEECH = 1  # bit 0 of a frame's flags

_FRAME = struct.Struct("<BBHiqqqii")
_SOUND = struct.Struct("<BBHiqii")


def frame_header(frame: Frame) -> bytes:
    """Encodes what comes before the JPEG of a frame."""
    return _FRAME.pack(
        FRAME_TYPE,
        SPEECH if frame.speech else 0,
        _FRAME.size,
        frame.segment,
        frame.number,
        frame.pts_us,
        frame.audio_us,
        frame.position,
        frame.index,
    )


def sound_header(count: int, *, segment: int, audio_us: int, rate: int) -> bytes:
    """Encodes what comes before `count` int16 samples that the gateway made: `audio_us` of a segment, `rate` Hz."""
    return _SOUND.pack(SOUND_TYPE, 0, _SOUND.size, segment, audio_us, rate, count)
