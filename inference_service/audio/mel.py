"""The spectrum that the audio encoders were trained on: 80 mel bands, 80 columns a second, in dB, scaled and clipped to [-4, 4].

A column depends on its own 801 samples alone, bit for bit, whichever others are computed with it. That rules out a matrix product
for the mel bands, since BLAS rounds differently with the number of rows. So each band is a sum over its own bins in a fixed
order, which costs no more: the basis is 98 % zeros.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from shared_proto.timing import SAMPLE_RATE_HZ

WINDOW = 800
HOP = 200
HALF = WINDOW // 2  # a column reads the samples [centre - HALF, centre + HALF)
BANDS = 80
BINS = WINDOW // 2 + 1
SILENCE = np.float32(-4)  # every band of a column of digital silence

_PRE_EMPHASIS = 0.97
_MIN_HZ = 55.0
_MAX_HZ = 7600.0
_FLOOR = 1e-5
_REFERENCE_DB = 20.0
_RANGE_DB = 100.0
_LIMIT = 4.0

# Slaney's scale: linear up to 1000 Hz, 27 steps for each factor of 6.4 above.
_HZ_A_MEL = 200.0 / 3.0
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _HZ_A_MEL
_LOG_STEP = np.log(6.4) / 27.0

Line = NDArray[np.float64]  # [samples], pre-emphasised
Columns = NDArray[np.float32]  # [columns, 80], values in [-4, 4]


def pre_emphasised(samples: NDArray[np.float32]) -> Line:
    """Computes y[n] = x[n] - 0.97 x[n-1] in float64 for every sample but the first, which only serves as x[n-1]: [n] -> [n-1]."""
    x = samples.astype(np.float64)
    return x[1:] - _PRE_EMPHASIS * x[:-1]


def mel_columns(line: Line) -> Columns:
    """Computes the columns of a pre-emphasised stretch: column i reads its samples [200 i, 200 i + 800), as many as fit whole."""
    decibels = 20.0 * np.log10(np.maximum(_FLOOR, band_magnitudes(line))) - _REFERENCE_DB
    scaled = (2.0 * _LIMIT) * ((decibels + _RANGE_DB) / _RANGE_DB) - _LIMIT
    return np.clip(scaled, -_LIMIT, _LIMIT).astype(np.float32)


def band_magnitudes(line: Line) -> NDArray[np.float64]:
    """Computes the columns before the logarithm: [columns, 80]."""
    # A view, as by sliding_window_view, which takes a tenth of the time of a short sound's features for its checks.
    count, step = (len(line) - WINDOW) // HOP + 1, line.itemsize
    frames = np.ndarray((count, WINDOW), line.dtype, line, strides=(HOP * step, step)) * _hann()
    spectrum = np.fft.rfft(frames)
    # Not np.abs: hypot is slower, and its guard against overflow is not needed for what float32 sound can reach.
    magnitude = np.sqrt(spectrum.real**2 + spectrum.imag**2)
    bins, weights, starts = _sparse_basis()
    bands: NDArray[np.float64] = np.add.reduceat(np.take(magnitude, bins, axis=1) * weights, starts, axis=1)
    return bands


@cache
def mel_basis() -> NDArray[np.float32]:
    """Returns triangles of equal area on Slaney's mel scale, 55 to 7600 Hz: [80, 401]."""
    edges = _hz(np.linspace(_mel(_MIN_HZ), _mel(_MAX_HZ), BANDS + 2))
    bins = np.linspace(0.0, SAMPLE_RATE_HZ / 2, BINS)
    low, peak, high = (edges[i : i + BANDS, np.newaxis] for i in range(3))
    rising = (bins - low) / (peak - low)
    falling = (high - bins) / (high - peak)
    # Rounded to float32 before it is scaled as well as after, as the basis of the reference is: every bit the same.
    triangles = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return (triangles * (2.0 / (high - low))).astype(np.float32)


def _mel(hz: float) -> float:
    return hz / _HZ_A_MEL if hz < _KNEE_HZ else _KNEE_MEL + float(np.log(hz / _KNEE_HZ)) / _LOG_STEP


def _hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < _KNEE_MEL, mel * _HZ_A_MEL, _KNEE_HZ * np.exp((mel - _KNEE_MEL) * _LOG_STEP))


@cache
def _hann() -> NDArray[np.float64]:
    """Returns a periodic window: one period is 800 samples, so the last value is not zero."""
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(WINDOW) / WINDOW)


@cache
def _sparse_basis() -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]:
    """Returns the basis without its zeros, band by band: the bin and weight of each entry, and each band's first entry."""
    basis = mel_basis()
    bands, bins = np.nonzero(basis)
    return bins, basis[bands, bins].astype(np.float64), np.searchsorted(bands, np.arange(BANDS))
