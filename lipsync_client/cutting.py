"""Cuts a sound into batches, each with the sound around it that its frames depend on.

A frame of the clip reads rows of sound from 9 frames before it to 6 frames after it, and each row spans 200 ms and the edges of
its spectrum: 10 frames before and 12 from the frame's start hold all of it. Because every batch carries that and says where in
the clip it begins, the frames are the same bytes however the clip is cut.

The server resamples other rates than 16 kHz batch by batch, and a resampler is inexact near the ends of its input. At those
rates each batch carries two more frames on either side, so that its own frames read nothing from there. The rounding of the
resampler remains: far too small to be heard, but the bytes may differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from shared_proto.timing import FRAME_RATE, SAMPLE_RATE_HZ

LEAD_IN_FRAMES = 10
LOOK_AHEAD_FRAMES = 12
RESAMPLER_FRAMES = 2
# The first request is small, so that the first frame does not wait for a whole batch; each is twice the one before.
FIRST_BATCH = 4


@dataclass(frozen=True, slots=True)
class Cut:
    """One batch of a clip: its frames, and the samples [first_sample, end_sample) that they need."""

    first_frame: int
    frame_count: int
    lead_in_frames: int
    first_sample: int
    end_sample: int

    @property
    def audio_start_frame(self) -> int:
        """The 40 ms frame of the clip that begins at `first_sample`."""
        return self.first_frame - self.lead_in_frames


def frame_count(sample_count: int, sample_rate: int) -> int:
    """Counts the frames that cover `sample_count` samples: duration x 25, rounded up."""
    return -(-sample_count * FRAME_RATE // sample_rate)


def sample_of_frame(frame: int, sample_rate: int) -> int:
    """Returns the sample nearest to the start of `frame`; exact at every rate that 25 divides."""
    return (2 * frame * sample_rate + FRAME_RATE) // (2 * FRAME_RATE)


def cut(sample_count: int, *, sample_rate: int = SAMPLE_RATE_HZ, batch_size: int = 24) -> Iterator[Cut]:
    """Yields batches of at most `batch_size` that cover every frame of the sound exactly once, in order; the first are smaller.

    Raises ValueError unless `sample_rate` and `batch_size` are positive.
    """
    check_sample_rate(sample_rate)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    return _cuts(sample_count, sample_rate, batch_size)


def check_sample_rate(sample_rate: int) -> None:
    """Raises ValueError unless it is positive."""
    if sample_rate < 1:
        raise ValueError(f"sample_rate is {sample_rate}; expected a positive number of Hz")


def cut_of(first_frame: int, frame_count: int, *, sample_rate: int) -> Cut:
    """Returns the batch of those frames; its `end_sample` may be after the end of the sound."""
    margin = _margin(sample_rate)
    lead_in = min(first_frame, LEAD_IN_FRAMES + margin)
    return Cut(
        first_frame=first_frame,
        frame_count=frame_count,
        lead_in_frames=lead_in,
        first_sample=sample_of_frame(first_frame - lead_in, sample_rate),
        end_sample=sample_of_frame(first_frame + frame_count - 1 + LOOK_AHEAD_FRAMES + margin, sample_rate),
    )


def _margin(sample_rate: int) -> int:
    return 0 if sample_rate == SAMPLE_RATE_HZ else RESAMPLER_FRAMES


def _cuts(sample_count: int, sample_rate: int, batch_size: int) -> Iterator[Cut]:
    first, size, frames = 0, min(FIRST_BATCH, batch_size), frame_count(sample_count, sample_rate)
    while first < frames:
        piece = cut_of(first, min(size, frames - first), sample_rate=sample_rate)
        yield replace(piece, end_sample=min(piece.end_sample, sample_count))
        first, size = first + piece.frame_count, min(2 * size, batch_size)
