"""Encodes and decodes messages of mouths, MouthRegion and SessionReplies, without needless copies of their pixels.

A protobuf object copies a bytes field when it is set, when it is serialised, when it is parsed and whenever it is read. The parts
of a message may come in any order, so protobuf encodes the small fields, and the pixels are put beside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shared_proto import inference_pb2 as pb
from shared_proto.wire import bytes_field_header

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


@dataclass(frozen=True, slots=True)
class MouthMessage:
    """A MouthRegion: its fields but for `data`, and the content of `data`, within the message's own memory."""

    fields: pb.MouthRegion
    data: memoryview


@dataclass(frozen=True, slots=True)
class RepliesMessage:
    """A SessionReplies: its fields but for `mouths`, and the content of `mouths`, within the message's own memory."""

    fields: pb.SessionReplies
    mouths: memoryview


def encode(fields: pb.MouthRegion, data: memoryview) -> bytes:
    """Returns a message that reads as `fields` with `data` set to those bytes, which are C-contiguous. Copies them once."""
    header = bytes_field_header(pb.MouthRegion.DATA_FIELD_NUMBER, data.nbytes)
    return b"".join((fields.SerializeToString(), header, data))


def encode_replies(fields: pb.SessionReplies, mouths: Iterable[memoryview]) -> bytes:
    """Returns a message that reads as `fields` with `mouths` set to those bytes, each C-contiguous. Copies them once."""
    pieces = [*mouths]
    header = bytes_field_header(pb.SessionReplies.MOUTHS_FIELD_NUMBER, sum(piece.nbytes for piece in pieces))
    return b"".join((fields.SerializeToString(), header, *pieces))


def decode(message: bytes) -> MouthMessage:
    """Reads any serialised MouthRegion, and copies no pixels. Raises google.protobuf.message.DecodeError for other bytes."""
    rest, data = _apart(message, pb.MouthRegion.DATA_FIELD_NUMBER)
    fields = pb.MouthRegion.FromString(rest)
    return MouthMessage(fields, memoryview(fields.data) if data is None else data)


def decode_replies(message: bytes) -> RepliesMessage:
    """Reads any serialised SessionReplies, and copies no pixels. Raises google.protobuf.message.DecodeError for other bytes."""
    rest, mouths = _apart(message, pb.SessionReplies.MOUTHS_FIELD_NUMBER)
    fields = pb.SessionReplies.FromString(rest)
    return RepliesMessage(fields, memoryview(fields.mouths) if mouths is None else mouths)


def _apart(message: bytes, number: int) -> tuple[bytes, memoryview | None]:
    """Takes bytes field `number` out of a message. Returns the other fields, and its content, empty if it is not there.

    Returns the message itself and None if its form is unknown here, or broken: protobuf judges it.
    """
    view = memoryview(message)
    data = view[:0]
    rest: list[memoryview] = []  # before, between and after
    position = kept_from = 0
    try:
        while position < len(view):
            start = position
            tag, position = _read_varint(view, position)
            length = _FIXED_SIZES.get(tag & 7, 0)
            if tag & 7 in {_VARINT, _LENGTH_DELIMITED}:
                value, position = _read_varint(view, position)
                length = value if tag & 7 == _LENGTH_DELIMITED else 0
            elif not length:
                raise IndexError(position)
            position += length
            if position > len(view):
                raise IndexError(position)
            if tag == number << 3 | _LENGTH_DELIMITED:
                data = view[position - length : position]  # the last one counts
                rest.append(view[kept_from:start])
                kept_from = position
    except IndexError:
        return message, None
    return b"".join((*rest, view[kept_from:])), data


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    """Returns the number at `position` and where it ends. Raises IndexError when it does not end, or not within 10 bytes."""
    number = 0
    for shift in range(0, 70, 7):
        byte = view[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise IndexError(position)
