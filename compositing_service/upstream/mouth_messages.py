"""Reads MouthRegion messages without copying their pixels.

A protobuf object would copy them when it is parsed and again whenever `data` is read. Here the message is cut around `data`; what
remains is parsed as usual, for messages of protobuf may be put together of parts.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared_proto import inference_pb2 as pb

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_DATA_TAG = pb.MouthRegion.DATA_FIELD_NUMBER << 3 | _LENGTH_DELIMITED


@dataclass(frozen=True, slots=True)
class MouthMessage:
    """A MouthRegion: its fields but for `data`, and what `data` holds, within the message's own memory."""

    fields: pb.MouthRegion
    data: memoryview


def decode_mouths(message: bytes) -> MouthMessage:
    """Reads any serialised MouthRegion. Raises google.protobuf.message.DecodeError for what is none."""
    view = memoryview(message)
    data = view[:0]
    rest: list[memoryview] = []  # what lies before, between and after
    position = kept_from = 0
    try:
        while position < len(view):
            start = position
            tag, position = _varint(view, position)
            length = _FIXED_SIZES.get(tag & 7, 0)
            if tag & 7 in {_VARINT, _LENGTH_DELIMITED}:
                value, position = _varint(view, position)
                length = value if tag & 7 == _LENGTH_DELIMITED else 0
            elif not length:
                raise IndexError(position)
            position += length
            if position > len(view):
                raise IndexError(position)
            if tag == _DATA_TAG:
                data = view[position - length : position]  # the last one counts
                rest.append(view[kept_from:start])
                kept_from = position
    except IndexError:  # protobuf judges it: this is unknown to us, or broken
        whole = pb.MouthRegion.FromString(message)
        return MouthMessage(whole, memoryview(whole.data))
    return MouthMessage(pb.MouthRegion.FromString(b"".join((*rest, view[kept_from:]))), data)


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """The number at `position` and where it ends. Raises IndexError when it does not end, or not within 10 bytes."""
    number = 0
    for shift in range(0, 70, 7):
        byte = view[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise IndexError(position)
