"""Writes fields that are too large for protobuf, which copies them when they are set and when they are serialised."""

from __future__ import annotations

from functools import cache


def bytes_field_header(number: int, nbytes: int) -> bytes:
    """Returns the bytes before the content of bytes field `number` of a message."""
    return _tag(number) + _varint(nbytes)


@cache
def _tag(number: int) -> bytes:
    return _varint(number << 3 | 2)


def _varint(value: int) -> bytes:
    """Encodes seven bits a byte, the lowest first; all but the last have the highest bit set."""
    if value <= 0x7F:
        return bytes((value,))
    return bytes((value & 0x7F | 0x80,)) + _varint(value >> 7)
