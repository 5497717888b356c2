"""Sound as callers hold it, and as it goes over the wire."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared_proto import compositing_pb2 as pb

FRAME_RATE = 25
SERVER_SAMPLE_RATE_HZ = 16000

Sound = NDArray[np.float32] | NDArray[np.float64] | NDArray[np.int16] | bytes
"""Mono sound: float samples in [-1, 1], int16 samples, or bytes, which are taken for float32 little endian."""


@dataclass(frozen=True, slots=True)
class WireSound:
    """Sound in the layout of the wire, cut by samples without looking into it."""

    data: bytes
    encoding: pb.AudioEncoding.ValueType
    sample_bytes: int

    @property
    def sample_count(self) -> int:
        """Samples in `data`; an incomplete last one counts."""
        return -(-len(self.data) // self.sample_bytes)

    def slice(self, first: int, end: int) -> WireSound:
        """Samples [first, end)."""
        return WireSound(self.data[first * self.sample_bytes : end * self.sample_bytes], self.encoding, self.sample_bytes)


def wire_sound(sound: Sound) -> WireSound:
    """Brings `sound` into the wire's layout; what its samples hold is for the server to judge.

    Raises ValueError for an array that is not one-dimensional and TypeError for samples of another kind.
    """
    if isinstance(sound, bytes | bytearray | memoryview):
        return WireSound(bytes(sound), pb.PCM_FLOAT32, 4)
    samples = np.asarray(sound)
    if samples.ndim != 1:
        raise ValueError(f"sound has {samples.ndim} dimensions; expected one, mono")
    if np.issubdtype(samples.dtype, np.floating):
        return WireSound(samples.astype("<f4", copy=False).tobytes(), pb.PCM_FLOAT32, 4)
    if samples.dtype == np.int16:
        return WireSound(samples.astype("<i2", copy=False).tobytes(), pb.PCM_INT16, 2)
    raise TypeError(f"sound has {samples.dtype} samples; expected float32 in [-1, 1] or int16")
