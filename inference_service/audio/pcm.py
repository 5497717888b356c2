"""Decodes the bytes of a request to mono sound at 16 kHz.

Everything that follows from the length and the rate is checked before any work is done, so that a refused request costs nothing.

Sound at 16 kHz is not touched, so its features are the same bytes however it was cut. At other rates each piece is resampled by
itself: cut at the beginning of a frame (40 ms must be whole samples), the spectrum agrees to about 1e-5 of its range, not to the
bit. Callers who need the same bits resample the whole sound before they cut it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from service_kit.errors import Problems
from shared_proto import inference_pb2 as pb
from shared_proto.timing import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, SAMPLE_RATE_HZ

Sound = NDArray[np.float32]  # [samples], mono, 16 kHz

_DTYPES: dict[int, np.dtype[np.generic]] = {pb.PCM_FLOAT32: np.dtype("<f4"), pb.PCM_INT16: np.dtype("<i2")}
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
    dtype = _DTYPES.get(encoding)
    if dtype is None:
        problems.add("audio_encoding", f"{encoding} is unknown; send PCM_FLOAT32 or PCM_INT16")
        return None
    rate = sample_rate or SAMPLE_RATE_HZ
    rate_fits = MIN_SAMPLE_RATE_HZ <= rate <= MAX_SAMPLE_RATE_HZ
    if not rate_fits:
        allowed = f"send {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ}, or 0 for {SAMPLE_RATE_HZ}"
        problems.add("sample_rate", f"{sample_rate} Hz is not supported: {allowed}")
    samples, rest = divmod(len(data), dtype.itemsize)
    if not data:
        problems.add("raw_audio", "no sound: 0 bytes")
    elif rest:
        problems.add(
            "raw_audio", f"{len(data)} bytes are no whole number of {dtype.name} samples: send a multiple of {dtype.itemsize}"
        )
    elif rate_fits and samples > max_seconds * rate:
        length = f"{samples / rate:.3f} s of sound ({samples} samples at {rate} Hz)"
        problems.add("raw_audio", f"{length} is too long: send at most {max_seconds:g} s")
    else:
        sound = np.frombuffer(data, dtype)
        check_finite(sound, "sample", "raw_audio", problems)
        if not problems.violations:
            scaled = sound * _INT16_SCALE if encoding == pb.PCM_INT16 else sound
            return _resampled(scaled.astype(np.float32, copy=False), rate)
    return None


def check_finite(values: NDArray[Any], kind: str, field: str, problems: Problems) -> None:
    """Notes the first value, called by its `kind`, that is NaN or infinite, and how many there are."""
    finite = np.isfinite(values)
    if not finite.all():
        first = int(np.argmin(finite))
        problems.add(field, f"{kind} {first} is {values[first]}, the first of {int((~finite).sum())} that are not finite numbers")


def _resampled(sound: Sound, rate: int) -> Sound:
    if rate == SAMPLE_RATE_HZ:
        return sound
    limited = np.clip(sound, -_RESAMPLER_LIMIT, _RESAMPLER_LIMIT)
    resampled: Sound = soxr.resample(limited, rate, SAMPLE_RATE_HZ, quality="HQ")
    return resampled
