"""The spectrum, judged by librosa and scipy and by the numbers known of the reference."""

from __future__ import annotations

from collections.abc import Callable

import librosa
import numpy as np
import pytest
from numpy.typing import NDArray

from inference_service.audio.line import SoundLine
from inference_service.audio.mel import band_magnitudes, mel_basis, mel_columns, pre_emphasised


@pytest.fixture(scope="module")
def librosa_basis() -> NDArray[np.float32]:
    return librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600)


def librosa_bands(sound: NDArray[np.float32], basis: NDArray[np.float32]) -> NDArray[np.float64]:
    """Magnitudes in the mel bands, before the logarithm: [columns, 80]."""
    from scipy.signal import lfilter  # takes a second

    emphasised = lfilter([1, -0.97], [1], sound)
    spectrum = librosa.stft(emphasised, n_fft=800, hop_length=200, win_length=800, center=True, pad_mode="constant")
    return (basis @ np.abs(spectrum)).T


def normalised(bands: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(8 * (20 * np.log10(np.maximum(1e-5, bands)) - 20 + 100) / 100 - 4, -4, 4)


def amplitudes(columns: NDArray[np.floating]) -> NDArray[np.float64]:
    """Back from the scaled decibels to magnitudes, where a relative error has a meaning (the scale itself crosses zero)."""
    return 10 ** (((columns.astype(np.float64) + 4) / 8 * 100 - 100 + 20) / 20)


def test_the_basis_is_librosas(librosa_basis: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(mel_basis(), librosa_basis, rtol=1e-6, atol=0)
    assert mel_basis().dtype == np.float32


def test_the_basis_has_the_references_numbers() -> None:
    basis = mel_basis()
    assert np.count_nonzero(basis) == 739
    assert (basis.max(axis=1) > 0).all()
    assert basis.max() == pytest.approx(0.026879, abs=5e-7)
    assert basis.sum(dtype=np.float64) == pytest.approx(3.999498, abs=5e-7)


@pytest.mark.parametrize("samples", [5600, 15999, 16000, 16001, 160000])
def test_columns_are_librosas(samples: int, speech: NDArray[np.float32], librosa_basis: NDArray[np.float32]) -> None:
    sound = speech[:samples]
    expected = normalised(librosa_bands(sound, librosa_basis))
    columns = SoundLine.cut_off(sound).columns(0, 1 + samples // 200)
    assert columns.shape == expected.shape
    assert columns.dtype == np.float32
    np.testing.assert_allclose(columns, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(amplitudes(columns), amplitudes(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("level", [1e-6, 1e-3, 1.0, 30.0])
def test_loud_and_quiet_noise_is_librosas(level: float, librosa_basis: NDArray[np.float32]) -> None:
    sound = (np.random.default_rng(3).standard_normal(32000) * level).astype(np.float32)
    expected = normalised(librosa_bands(sound, librosa_basis))
    np.testing.assert_allclose(SoundLine.cut_off(sound).columns(0, 161), expected, rtol=0, atol=1e-6)


def test_silence_is_minus_four() -> None:
    zeros = np.zeros(16000, np.float32)
    assert (SoundLine.in_silence(zeros, start=0).columns(-10, 120) == -4).all()
    assert (mel_columns(pre_emphasised(zeros)) == -4).all()


@pytest.mark.parametrize("level", [1e30, float(np.finfo(np.float32).max), 1e-45])
def test_finite_sound_gives_finite_columns(level: float) -> None:
    sound = (np.random.default_rng(4).choice([-1.0, 1.0], 4000) * level).astype(np.float32)
    columns = SoundLine.in_silence(sound, start=0).columns(0, 21)
    assert np.isfinite(columns).all()
    assert np.abs(columns).max() == 4


@pytest.mark.parametrize("stage", [band_magnitudes, mel_columns])
def test_a_column_does_not_depend_on_its_company(
    stage: Callable[[NDArray[np.float64]], NDArray[np.floating]], speech: NDArray[np.float32]
) -> None:
    # Before the logarithm every bit of float64 counts: rounding to float32 would hide nearly all differences.
    whole = stage(pre_emphasised(speech[:80001]))
    for first, count in [(0, 1), (3, 2), (10, 3), (17, 64), (100, 7), (396, 1), (1, 396)]:
        alone = stage(pre_emphasised(speech[200 * first : 200 * (first + count - 1) + 801]))
        assert alone.tobytes() == whole[first : first + count].tobytes()
