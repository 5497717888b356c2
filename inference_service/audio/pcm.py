"""The bytes of a request to mono sound at 16 kHz.

Everything that can be known from the length and the rate is checked before any work is done, so that a refused request costs
nothing.

Sound at 16 kHz is not touched, so its features are the same bytes however it was cut. At other rates each piece is resampled by
itself: cut where a frame begins (40 ms must be whole samples), the spectrum agrees to about 1e-5 of its range, not to the bit.
Who needs the bits resamples the whole before cutting it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import soxr
from numpy.typing import NDArray

from inference_service.audio.mel import SAMPLE_RATE
from service_kit.errors import Problems

Encoding = Literal["float32", "int16"]
Sound = NDArray[np.float32]  # [samples], mono, 16 kHz

MIN_RATE = 8000
MAX_RATE = 192000

_DTYPES: dict[Encoding, np.dtype[np.generic]] = {"float32": np.dtype("<f4"), "int16": np.dtype("<i2")}
_INT16_SCALE = np.float32(1 / 32768)

# The resampler adds up thousands of float32 products: beyond this they could reach infinity, and one infinite sample would make
# every row after it NaN. Far past full scale anyway: the spectrum is clipped to its maximum long before.
_RESAMPLER_LIMIT = np.float32(1e30)


def decode_pcm(
    data: bytes,
    *,
    encoding: Encoding,
    sample_rate: int,
    max_seconds: float,
    problems: Problems,
    field: str = "raw_audio",
) -> Sound | None:
    """Mono samples at 16 kHz from little endian PCM; notes every problem under `field` and `sample_rate`.

    float32 is taken as it is, also outside [-1, 1]; int16 is divided by 32768. A rate of 0 means 16000. The result may be a
    read-only view of `data`. None when anything stands in `problems`, noted here or before: the request is refused either way, so
    nothing is resampled for it.
    """
    rate = sample_rate or SAMPLE_RATE
    rate_fits = MIN_RATE <= rate <= MAX_RATE
    if not rate_fits:
        problems.add("sample_rate", f"{sample_rate} Hz is not supported: send {MIN_RATE} to {MAX_RATE}, or 0 for {SAMPLE_RATE}")
    dtype = _DTYPES[encoding]
    samples, rest = divmod(len(data), dtype.itemsize)
    if not data:
        problems.add(field, "no sound: 0 bytes")
        return None
    if rest:
        problems.add(field, f"{len(data)} bytes are no whole number of {encoding} samples: send a multiple of {dtype.itemsize}")
        return None
    if rate_fits and samples > max_seconds * rate:
        problems.add(
            field,
            f"{samples / rate:.3f} s of sound ({samples} samples at {rate} Hz) is too long: send at most {max_seconds:g} s",
        )
        return None
    sound = np.frombuffer(data, dtype)
    if encoding == "float32":
        _check_finite(sound, problems, field)
    if problems.violations:
        return None
    if encoding == "int16":
        sound = sound * _INT16_SCALE
    return _resampled(sound.astype(np.float32, copy=False), rate)


def _check_finite(sound: NDArray[np.generic], problems: Problems, field: str) -> None:
    finite = np.isfinite(sound)
    if not finite.all():
        first = int(np.argmin(finite))
        problems.add(field, f"sample {first} is {sound[first]}, the first of {int((~finite).sum())} that are not finite numbers")


def _resampled(sound: Sound, rate: int) -> Sound:
    if rate == SAMPLE_RATE:
        return sound
    limited = np.clip(sound, -_RESAMPLER_LIMIT, _RESAMPLER_LIMIT)
    resampled: Sound = soxr.resample(limited, rate, SAMPLE_RATE, quality="HQ")
    return resampled
