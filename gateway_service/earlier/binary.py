"""Reads binary requests, and writes binary replies. All numbers are little endian."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gateway_service.earlier.errors import BadMessage
from lipsync_client.earlier import ClipFrame

VIDEO_FRAME = 2
# What a client gets for a binary request that could not be met.
FAILED = b""


@dataclass(frozen=True, slots=True)
class BinaryRequest:
    """A request for a frame."""

    avatar: str
    frame_id: int
    sound: bytes
    """Empty: what the avatar's own clip says there."""
    wants_jpeg_alone: bool
    """The reply has no header: the JPEG file is all of it."""


def read_request(data: bytes) -> BinaryRequest:
    """Reads a request in either form. Raises BadMessage.

    The long form: u32 length of the name, name, i32 frame_id, u32 length of the sound, sound. The short one: u8 length of the
    name, name, i32 frame_id. A name is shorter than 256 bytes and has no zero in it, so the second byte tells them apart.
    """
    is_short = len(data) > 1 and data[1] != 0
    return _short(data) if is_short else _long(data)


def frame_reply(request: BinaryRequest, frame: ClipFrame) -> bytes:
    """Writes u8 1, i32 frame_id, i32 milliseconds, u32 length of the JPEG, JPEG, u32 bytes of the bounds, f32 each.

    For a request in the short form the JPEG is all.
    """
    if request.wants_jpeg_alone:
        return frame.jpeg
    head = struct.pack("<BiiI", 1, frame.frame_id, frame.processing_ms, len(frame.jpeg))
    return head + frame.jpeg + struct.pack(f"<I{len(frame.bounds)}f", 4 * len(frame.bounds), *frame.bounds)


def picture_reply(frame_id: int, video_type: str, jpeg: bytes) -> bytes:
    """Writes u8 2, i32 frame_id, u8 length of the type, type, u32 length of the JPEG, JPEG."""
    kind = video_type.encode()
    return struct.pack("<BiB", VIDEO_FRAME, frame_id, len(kind)) + kind + struct.pack("<I", len(jpeg)) + jpeg


def _short(data: bytes) -> BinaryRequest:
    end = 1 + data[0]
    if len(data) != end + 4:
        raise BadMessage(f"the message has {len(data)} bytes; a name of {data[0]} and a frame_id take {end + 4}")
    (frame_id,) = struct.unpack_from("<i", data, end)
    return BinaryRequest(_name(data[1:end]), frame_id, b"", wants_jpeg_alone=True)


def _long(data: bytes) -> BinaryRequest:
    name_end = 4 + _number(data, 0, "the name's length")
    frame_id = _number(data, name_end, "frame_id", kind="<i")
    sound_start = name_end + 8
    sound_end = sound_start + _number(data, name_end + 4, "the sound's length")
    if sound_end != len(data):
        raise BadMessage(f"the message has {len(data)} bytes; its lengths give {sound_end}")
    return BinaryRequest(_name(data[4:name_end]), frame_id, data[sound_start:], wants_jpeg_alone=False)


def _number(data: bytes, place: int, name: str, *, kind: str = "<I") -> int:
    if len(data) < place + 4:
        raise BadMessage(f"the message ends before {name}")
    number: int = struct.unpack_from(kind, data, place)[0]
    return number


def _name(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadMessage("the name is not UTF-8") from None
