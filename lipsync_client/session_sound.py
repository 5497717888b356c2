"""The sound of a segment as it was pushed, kept for as long as it may have to be sent again, or belongs to a frame to come."""

from __future__ import annotations

from typing import Any

import numpy as np

from lipsync_client.cutting import LEAD_IN_FRAMES, RESAMPLER_FRAMES, frame_count, sample_of_frame
from lipsync_client.session_events import PushedSound
from lipsync_client.sound import Sound, wire_sound
from shared_proto.pcm import DTYPES, as_float32
from shared_proto.timing import SAMPLE_RATE_HZ

# At other rates than 16 kHz a segment is sent again from its start, as a resampler that starts elsewhere rounds differently.
# A longer one than this is sent from shortly before the first frame wanted: nobody can hear the difference.
KEPT_WHOLE_S = 60
# Sound is dropped in steps of so many seconds.
_STEP_S = 1


def read_pushed(sound: Sound) -> PushedSound:
    """Returns the samples of pushed sound, int16 or float32.

    Raises ValueError for an array that is not one-dimensional, bytes that are not whole samples and numbers that are not finite,
    TypeError for samples of another kind.
    """
    wire = wire_sound(sound)
    dtype = DTYPES[wire.encoding]
    if len(wire.data) % dtype.itemsize:
        raise ValueError(f"sound has {len(wire.data)} bytes, not a multiple of the {dtype.itemsize} of a sample")
    samples: PushedSound = np.frombuffer(wire.data, dtype)
    if not np.isfinite(samples).all():
        raise ValueError("the sound holds numbers that are not finite")
    return samples


def on_the_wire(samples: PushedSound) -> bytes:
    """Encodes samples as float32; int16 ones lose nothing, and the server would do the same."""
    return as_float32(samples).astype("<f4", copy=False).tobytes()


class SegmentSound:
    """Grows at its end as sound is pushed, shrinks at its start as frames arrive. Samples count from the segment's start."""

    def __init__(self, rate: int, *, first_frame: int = 0) -> None:
        """`first_frame`: that at which the sound begins that is pushed."""
        self.rate = rate
        self.count = sample_of_frame(first_frame, rate)
        """Samples up to the end of what was pushed."""
        self._dtype: np.dtype[Any] = np.dtype(np.float32)
        self._held = bytearray()
        self._first_frame = first_frame
        """The frame at which `_held` begins."""

    @property
    def is_empty(self) -> bool:
        """Tells if nothing was pushed."""
        return not self._held

    @property
    def frames(self) -> int:
        """The number of frames of all the sound pushed."""
        return frame_count(self.count, self.rate)

    @property
    def audio_us(self) -> int:
        """The length of the sound pushed, in microseconds, rounded down."""
        return 1_000_000 * self.count // self.rate

    def add(self, samples: PushedSound) -> None:
        """Appends sound."""
        self._dtype = samples.dtype
        self._held += samples.tobytes()
        self.count += len(samples)

    def samples(self, first: int, end: int) -> PushedSound:
        """Returns samples [first, end), or those of them that are there. They are read only."""
        size, held_from = self._dtype.itemsize, sample_of_frame(self._first_frame, self.rate)
        begin, stop = (max(0, size * (sample - held_from)) for sample in (first, end))
        part: PushedSound = np.frombuffer(bytes(self._held[begin:stop]), self._dtype)
        return part

    def of_frame(self, frame: int) -> PushedSound:
        """Returns the 40 ms of a frame, less at the segment's end."""
        return self.samples(sample_of_frame(frame, self.rate), sample_of_frame(frame + 1, self.rate))

    def start_for(self, frame: int) -> int:
        """Returns the frame from which on sound is sent again, if `frame` is the first one wanted."""
        if self.rate == SAMPLE_RATE_HZ:
            return max(self._first_frame, frame - LEAD_IN_FRAMES)
        return max(self._first_frame, frame - LEAD_IN_FRAMES - RESAMPLER_FRAMES) if self._first_frame else 0

    def forget(self, before: int) -> None:
        """Releases sound that is not needed any more once `before` is the first frame wanted."""
        kept_whole = self.rate != SAMPLE_RATE_HZ and self.count <= KEPT_WHOLE_S * self.rate
        first = before - LEAD_IN_FRAMES - RESAMPLER_FRAMES
        surplus = sample_of_frame(first, self.rate) - sample_of_frame(self._first_frame, self.rate)
        if not kept_whole and surplus >= _STEP_S * self.rate:
            del self._held[: surplus * self._dtype.itemsize]
            self._first_frame = first
