"""The earlier messages as the wire contract has them, written by hand."""

from __future__ import annotations

import struct
from typing import NamedTuple


class FrameReply(NamedTuple):
    success: int
    frame_id: int
    milliseconds: int
    jpeg: bytes
    bounds: list[float]


def frame_request(name: str | bytes, frame_id: int, sound: bytes = b"") -> bytes:
    name = name.encode() if isinstance(name, str) else name
    return struct.pack("<I", len(name)) + name + struct.pack("<iI", frame_id, len(sound)) + sound


def short_request(name: str, frame_id: int) -> bytes:
    """As the founding documents' page packs it: its reply is the picture and nothing else."""
    return struct.pack("<B", len(name)) + name.encode() + struct.pack("<i", frame_id)


def frame_reply(data: bytes) -> FrameReply:
    success, frame_id, milliseconds, size = struct.unpack_from("<BiiI", data)
    jpeg = data[13 : 13 + size]
    assert len(jpeg) == size
    (bounds_bytes,) = struct.unpack_from("<I", data, 13 + size)
    bounds = data[17 + size :]
    assert len(bounds) == bounds_bytes
    return FrameReply(success, frame_id, milliseconds, jpeg, list(struct.unpack(f"<{bounds_bytes // 4}f", bounds)))


def video_reply(data: bytes) -> tuple[int, str, bytes]:
    """The frame's number, the kind, the picture."""
    kind, frame_id, length = struct.unpack_from("<BiB", data)
    assert kind == 2
    (size,) = struct.unpack_from("<I", data, 6 + length)
    assert len(data) == 10 + length + size
    return frame_id, data[6 : 6 + length].decode(), data[10 + length :]
