"""The endless line of columns and rows, against a plain spectrum of the sound with zeros around it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference_service.audio import line as line_module
from inference_service.audio.line import SoundLine, row_columns, row_starts
from inference_service.audio.mel import mel_columns


def plain_columns(sound: NDArray[np.float32], *, start: int, first: int, count: int) -> NDArray[np.float32]:
    """Lays the sound into zeros that cover all that is asked for, and takes the spectrum column by column."""
    begin = min(start, 200 * first - 400)
    end = max(start + len(sound), 200 * (first + count) + 400)
    samples = np.zeros(end - begin)
    samples[start - begin : start - begin + len(sound)] = sound
    emphasised = samples - 0.97 * np.concatenate([[0.0], samples[:-1]])
    starts = [200 * column - 400 - begin for column in range(first, first + count)]
    return np.concatenate([mel_columns(emphasised[i : i + 800]) for i in starts])


def test_rows_step_as_the_reference() -> None:
    assert row_starts(0, 11).tolist() == [0, 3, 6, 9, 12, 16, 19, 22, 25, 28, 32]
    assert row_starts(-6, 7).tolist() == [-20, -16, -13, -10, -7, -4, 0]
    assert row_starts(2**31 - 1, 1).tolist() == [16 * (2**31 - 1) // 5]


@given(
    seed=st.integers(0, 2**32 - 1),
    samples=st.integers(0, 3000),
    start=st.integers(-3000, 3000),
    first=st.integers(-30, 30),
    count=st.integers(1, 30),
)
def test_columns_are_those_of_the_sound_in_zeros(seed: int, samples: int, start: int, first: int, count: int) -> None:
    sound = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    columns = SoundLine.in_silence(sound, start=start).columns(first, count)
    assert columns.tobytes() == plain_columns(sound, start=start, first=first, count=count).tobytes()


@pytest.mark.parametrize("first", [-(10**9), 10**9], ids=["long before", "long after"])
def test_far_from_the_sound_is_silence(first: int, speech: NDArray[np.float32]) -> None:
    assert (SoundLine.in_silence(speech, start=640).columns(first, 50) == -4).all()


def test_silence_that_was_sent_is_silence_that_was_not(speech: NDArray[np.float32]) -> None:
    sent = speech[:20000]
    with_zeros = np.concatenate([np.zeros(3200, np.float32), sent, np.zeros(5000, np.float32)])
    plain = SoundLine.in_silence(sent, start=3200).columns(-5, 160)
    assert plain.tobytes() == SoundLine.in_silence(with_zeros, start=0).columns(-5, 160).tobytes()


def test_a_row_is_sixteen_columns_bands_first(speech: NDArray[np.float32]) -> None:
    line = SoundLine.in_silence(speech, start=0)
    windows = row_columns(line, row_starts(-2, 20))
    assert windows.shape == (20, 80, 16)
    assert windows.flags.c_contiguous
    for window, start in zip(windows, row_starts(-2, 20), strict=True):
        np.testing.assert_array_equal(window, line.columns(int(start), 16).T)


def test_only_columns_that_are_read_are_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    def counting(line: NDArray[np.float64]) -> NDArray[np.float32]:
        columns = mel_columns(line)
        counted.append(len(columns))
        return columns

    monkeypatch.setattr(line_module, "mel_columns", counting)
    ten_minutes = np.ones(16000 * 600, np.float32)
    row_columns(SoundLine.in_silence(ten_minutes, start=0), row_starts(7000, 10))
    assert sum(counted) <= 9 * 4 + 16
    counted.clear()
    row_columns(SoundLine.in_silence(ten_minutes[:640], start=0), row_starts(-9, 39))
    assert sum(counted) <= (640 + 801) / 200 + 1
