"""Sound as callers have it, and as the wire carries it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import numpy as np
from numpy.typing import NDArray

from lipsync_client.errors import LipsyncError, Violation
from shared_proto import compositing_pb2 as pb

Sound = NDArray[np.float32] | NDArray[np.float64] | NDArray[np.int16] | bytes
"""Mono sound: float samples in [-1, 1], int16 samples, or the bytes of float32 little endian samples."""

# A whole sound is converted to the wire's layout in pieces of this size.
PIECE_SAMPLES = 1 << 16

SAMPLE_BYTES = {pb.PCM_FLOAT32: 4, pb.PCM_INT16: 2}


@dataclass(frozen=True, slots=True)
class WireSound:
    """Sound in the layout of the wire."""

    data: bytes
    encoding: pb.AudioEncoding.ValueType


def wire_sound(sound: Sound) -> WireSound:
    """Converts `sound` to the wire's layout. The server checks the samples.

    Raises ValueError for an array that is not one-dimensional and TypeError for samples of another kind.
    """
    if isinstance(sound, bytes | bytearray | memoryview):
        return WireSound(bytes(sound), pb.PCM_FLOAT32)
    samples = np.asarray(sound)
    if samples.ndim != 1:
        raise ValueError(f"sound has {samples.ndim} dimensions; expected one, mono")
    if np.issubdtype(samples.dtype, np.floating):
        return WireSound(samples.astype("<f4", copy=False).tobytes(), pb.PCM_FLOAT32)
    if samples.dtype == np.int16:
        return WireSound(samples.astype("<i2", copy=False).tobytes(), pb.PCM_INT16)
    raise TypeError(f"sound has {samples.dtype} samples; expected float32 in [-1, 1] or int16")


def pieces_of(sound: Sound | Iterator[Sound]) -> Iterator[Sound]:
    """Cuts a whole sound into pieces; a sound that comes in pieces stays as it is.

    Raises ValueError and TypeError for a whole one as `wire_sound` does, before the first piece is read.
    """
    if isinstance(sound, Iterator):
        return sound
    if isinstance(sound, bytes | bytearray | memoryview):
        view = memoryview(sound).cast("B")
        return (bytes(view[k : k + PIECE_SAMPLES]) for k in range(0, len(view), PIECE_SAMPLES))
    samples: NDArray[np.float32] = np.asarray(sound)
    wire_sound(samples[:0])
    return (samples[k : k + PIECE_SAMPLES] for k in range(0, len(samples), PIECE_SAMPLES))


class SoundLine:
    """A sound that comes in pieces of any length. Only the part in use is held."""

    def __init__(self, pieces: Iterator[Sound], sample_rate: int) -> None:
        self._pieces = pieces
        self._sample_rate = sample_rate
        self._held = bytearray()
        self._first_byte = 0  # the byte of the sound at which `_held` begins
        self._encoding: pb.AudioEncoding.ValueType = pb.PCM_FLOAT32
        self.ended = False

    @property
    def sample_count(self) -> int:
        """Samples read so far; an incomplete last one counts."""
        return -(-(self._first_byte + len(self._held)) // SAMPLE_BYTES[self._encoding])

    def read_to(self, sample: int) -> None:
        """Reads pieces until the samples before `sample` are there, or the sound has ended.

        Raises LipsyncError INVALID_ARGUMENT for a sample that is not finite, TypeError for pieces of two kinds, and ValueError
        and TypeError as `wire_sound` does.
        """
        while not self.ended and self.sample_count < sample:
            piece = next(self._pieces, None)
            if piece is None:
                self.ended = True
            else:
                self._take(wire_sound(piece))

    def slice(self, first: int, end: int) -> WireSound:
        """Returns samples [first, end), or those of them that were read."""
        size = SAMPLE_BYTES[self._encoding]
        return WireSound(bytes(self._held[first * size - self._first_byte : end * size - self._first_byte]), self._encoding)

    def forget(self, before: int) -> None:
        """Releases the samples before `before`."""
        gone = min(max(0, before * SAMPLE_BYTES[self._encoding] - self._first_byte), len(self._held))
        del self._held[:gone]
        self._first_byte += gone

    def _take(self, piece: WireSound) -> None:
        if not self._first_byte and not self._held:
            self._encoding = piece.encoding
        elif piece.encoding != self._encoding:
            raise TypeError("the pieces of a sound must all be of one kind, float32 or int16")
        checked = len(self._held) - len(self._held) % 4
        self._held += piece.data
        if self._encoding == pb.PCM_FLOAT32:
            self._check_finite(checked)

    def _check_finite(self, start: int) -> None:
        samples = np.frombuffer(bytes(self._held[start : len(self._held) - len(self._held) % 4]), "<f4")
        finite = np.isfinite(samples)
        if not finite.all():
            place = int(np.argmin(finite))
            number = (self._first_byte + start) // 4 + place
            problem = (
                f"sample {number} of the sound ({number / self._sample_rate:.3f} s) is {samples[place]}; send finite numbers"
            )
            raise LipsyncError(grpc.StatusCode.INVALID_ARGUMENT, problem, violations=[Violation("raw_audio", problem)])
