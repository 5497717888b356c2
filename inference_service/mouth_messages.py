"""Mouth regions as messages, their pixels copied once.

As a field of a protobuf object the pixels would be copied into it, and again when it is serialised. Messages of protobuf may be
put together of parts in any order, so the small fields are serialised as usual and the pixels follow as they lie in memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared_proto import inference_pb2 as pb

_LENGTH_DELIMITED = 2
_DATA_TAG = bytes([pb.MouthRegion.DATA_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])


def encode_mouths(fields: pb.MouthRegion, mouths: NDArray[np.float32] | NDArray[np.uint8]) -> bytes:
    """A message that reads as `fields` with `data` set to the bytes of `mouths`, which are C-contiguous and little endian."""
    return b"".join((fields.SerializeToString(), _DATA_TAG, _varint(mouths.nbytes), mouths.data))


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the highest bit set."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
