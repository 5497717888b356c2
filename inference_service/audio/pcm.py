"""Decodes the bytes of a request to mono sound at 16 kHz.

Everything that follows from the length and the rate is checked before any work is done, so that a refused request costs nothing.

Sound at 16 kHz is not touched, so its features are the same bytes however it was cut. At other rates each piece is resampled by
itself: cut at the beginning of a frame (40 ms must be whole samples), the spectrum agrees to about 1e-5 of its range, not to the
bit. Callers who need the same bits resample the whole sound before they cut it.
"""

from __future__ import annotations

import soxr

from service_kit.errors import Problems
from shared_proto.field_checks import check_sound_format, read_samples
from shared_proto.pcm import Samples, as_float32, limited
from shared_proto.timing import SAMPLE_RATE_HZ

Sound = Samples  # [samples], mono, 16 kHz


def decode_pcm(data: bytes, *, encoding: int, sample_rate: int, max_seconds: float, problems: Problems) -> Sound | None:
    """Decodes little endian PCM to mono samples at 16 kHz. Notes problems under the names of the request's fields.

    `encoding`: an AudioEncoding, or an unknown number. float32 is taken as it is, also outside [-1, 1]; int16 is divided by
    32768. A rate of 0 means 16000. The result may be a read-only view of `data`. Returns None when there are problems, noted here
    or before: the request is refused, so nothing is resampled for it.
    """
    check_sound_format(encoding, sample_rate, problems.add)
    samples = read_samples(data, encoding, sample_rate, max_seconds, problems.add)
    if samples is None or problems.violations:
        return None
    return _resampled(as_float32(samples), sample_rate or SAMPLE_RATE_HZ)


def _resampled(sound: Sound, rate: int) -> Sound:
    if rate == SAMPLE_RATE_HZ:
        return sound
    resampled: Sound = soxr.resample(limited(sound), rate, SAMPLE_RATE_HZ, quality="HQ")
    return resampled
