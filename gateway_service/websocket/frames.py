"""Binary messages to browsers: a header, then a picture or sound. docs/websocket.md describes them."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from lipsync_client import Frame

FRAME_TYPE, SOUND_TYPE = 1, 2
SPEECH = 1  # bit 0 of a frame's flags

_FRAME = struct.Struct("<BBHiqqqii")
_SOUND = struct.Struct("<BBHiqii")


def frame_message(frame: Frame) -> bytes:
    """Encodes a frame: its header, then the JPEG."""
    header = _FRAME.pack(
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
    return header + frame.picture


def sound_message(samples: NDArray[np.int16], *, segment: int, audio_us: int, rate: int) -> bytes:
    """Encodes sound that the gateway made: [samples] of a segment, from `audio_us` of it on, at `rate` Hz."""
    header = _SOUND.pack(SOUND_TYPE, 0, _SOUND.size, segment, audio_us, rate, len(samples))
    return header + samples.astype("<i2", copy=False).tobytes()
