"""The sound of a segment as it comes: checked, brought to 16 kHz by one resampler, and kept as long as frames may need it.

Sound that needs no resampling is kept as it came, int16 too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from service_kit.errors import InvalidRequest, Violation
from shared_proto import compositing_pb2 as pb
from shared_proto.field_checks import not_finite
from shared_proto.pcm import DTYPES, Samples, as_float32, limited
from shared_proto.timing import FRAME_RATE, SAMPLE_RATE_HZ, SAMPLES_A_FRAME

# More are joined: a piece of one sample takes forty times its size.
_MOST_PIECES = 200
_A_FEW = 64
_NOTHING: Samples = np.empty(0, np.float32)


def checked(data: bytes, encoding: int) -> NDArray[Any]:
    """Returns the samples, a view of `data`: float32 or int16. Raises InvalidRequest unless they are whole and finite."""
    dtype = DTYPES[encoding]
    if len(data) % dtype.itemsize:
        raise _refused(f"has {len(data)} bytes, not a multiple of the {dtype.itemsize} of a sample")
    samples: NDArray[Any] = np.frombuffer(data, dtype)
    if encoding != pb.PCM_INT16 and (problem := not_finite("sample", samples)):
        raise _refused(problem)
    return samples


def first_sample_of(frame: int, rate: int) -> int:
    """Returns the sample at which a frame of 40 ms begins: floor((2 k rate + 25) / 50)."""
    return (2 * frame * rate + FRAME_RATE) // (2 * FRAME_RATE)


class SegmentSound:
    """The sound of one segment, from frame `start_frame` of it on (other than 0 only after a resume)."""

    def __init__(self, rate: int, *, start_frame: int = 0) -> None:
        self.rate = rate
        self.received = first_sample_of(start_frame, rate)
        """Samples of the segment received, at its own rate, those before `start_frame` included."""
        self._from = SAMPLES_A_FRAME * start_frame
        self._pieces: list[NDArray[Any]] = []
        self._held = 0
        self._resampler = None if rate == SAMPLE_RATE_HZ else soxr.ResampleStream(rate, SAMPLE_RATE_HZ, 1, quality="HQ")

    @property
    def ready(self) -> int:
        """Samples of the segment at 16 kHz that are there and final, counted from its start."""
        return self._from + self._held

    def add(self, samples: NDArray[Any]) -> None:
        """Appends sound at the segment's rate, float32 or int16 throughout."""
        self.received += len(samples)
        self._append(samples)

    def end(self) -> None:
        """Takes the rest out of the resampler."""
        if self._resampler:
            self._keep(self._resampler.resample_chunk(_NOTHING, last=True))

    def frames_from(self, first: int, stop: int) -> tuple[bytes, int]:
        """Returns float32 little endian sound at 16 kHz from frame `first` to `stop` or the end, and the frame it begins at.

        The sound begins at `first`, or later when it was dropped or never sent.
        """
        first = max(first, self._from // SAMPLES_A_FRAME)
        whole = self._joined()
        piece = whole[SAMPLES_A_FRAME * first - self._from : max(0, SAMPLES_A_FRAME * stop - self._from)]
        return as_float32(piece).astype("<f4", copy=False).tobytes(), first

    def is_zero(self, first: int, stop: int) -> bool:
        """Tells if the samples at 16 kHz from `first` to `stop` are all zero. Those before and after the sound are."""
        piece = self._joined()[max(0, first - self._from) : max(0, stop - self._from)]
        middle = len(piece) // 2
        return not (piece[middle : middle + _A_FEW].any() or piece.any())  # of speech a few say it

    def drop_before(self, frame: int) -> None:
        """Forgets sound before a frame, in steps that make it cheap."""
        surplus = min(SAMPLES_A_FRAME * frame - self._from, self._held)
        if surplus < SAMPLE_RATE_HZ:
            return
        surplus -= surplus % SAMPLES_A_FRAME
        self._pieces = [self._joined()[surplus:].copy()]
        self._from += surplus
        self._held -= surplus

    def _append(self, samples: NDArray[Any]) -> None:
        if self._resampler:
            samples = self._resampler.resample_chunk(limited(as_float32(samples)))
        self._keep(samples)

    def _keep(self, samples: NDArray[Any]) -> None:
        if len(samples):
            self._pieces.append(samples)
            self._held += len(samples)
            if len(self._pieces) > _MOST_PIECES:
                self._joined()

    def _joined(self) -> NDArray[Any]:
        if not self._pieces:
            return _NOTHING
        if len(self._pieces) > 1:
            self._pieces = [np.concatenate(self._pieces)]
        return self._pieces[0]


def _refused(problem: str) -> InvalidRequest:
    return InvalidRequest([Violation("audio.data", problem)])
