"""Decodes the bytes of a request to mono sound at 16 kHz.

Everything that follows from the length and the rate is checked before any work is done, so that a refused request costs nothing.

Sound at 16 kHz is not touched, so its features are the same bytes however it was cut. At other rates each piece is resampled by
itself: cut at the beginning of a frame (40 ms must be whole samples), the spectrum agrees to about 1e-5 of its range, not to the
bit. Callers who need the same bits resample the whole sound before they cut it.
"""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from service_kit.errors import Problems
from shared_proto.field_checks import check_sound_format, read_samples
from shared_proto.timing import SAMPLE_RATE_HZ

Sound = NDArray[np.float32]  # [samples], mono, 16 kHz

_INT16_SCALE = np.float32(1 / 32768)

# The resampler adds up thousands of float32 products: beyond this they could reach infinity, and one infinite sample would make
# every row after it NaN. It is far past full scale anyway: the spectrum is clipped to its maximum long before.
_RESAMPLER_LIMIT = np.float32(1e30)


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
    sound = samples * _INT16_SCALE if samples.dtype == np.int16 else samples
    return _resampled(sound.astype(np.float32, copy=False), sample_rate or SAMPLE_RATE_HZ)


def _resampled(sound: Sound, rate: int) -> Sound:
    if rate == SAMPLE_RATE_HZ:
        return sound
    limited = np.clip(sound, -_RESAMPLER_LIMIT, _RESAMPLER_LIMIT)
    resampled: Sound = soxr.resample(limited, rate, SAMPLE_RATE_HZ, quality="HQ")
    return resampled
