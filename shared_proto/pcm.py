"""Decodes PCM samples as requests and sessions have it: mono, little endian, float32 or int16."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared_proto.inference_pb2 import PCM_FLOAT32, PCM_INT16

Samples = NDArray[np.float32]  # [samples], mono

DTYPES: Final[dict[int, np.dtype[Any]]] = {PCM_FLOAT32: np.dtype("<f4"), PCM_INT16: np.dtype("<i2")}
"""The type of a sample for each AudioEncoding."""

# A resampler adds up thousands of float32 products: beyond this they could reach infinity, and one infinite sample would make
# every sample after it NaN. It is far past full scale anyway: the spectrum is clipped to its maximum long before.
_RESAMPLER_LIMIT = np.float32(1e30)
_INT16_SCALE = np.float32(1 / 32768)


def as_float32(samples: NDArray[Any]) -> Samples:
    """Returns float32 as it is, also outside [-1, 1], and int16 divided by 32768."""
    if samples.dtype == np.int16:
        scaled: Samples = samples * _INT16_SCALE
        return scaled
    return samples.astype(np.float32, copy=False)


def limited(samples: Samples) -> Samples:
    """Returns samples that a resampler can take: finite ones up to 1e30."""
    return np.clip(samples, -_RESAMPLER_LIMIT, _RESAMPLER_LIMIT)
