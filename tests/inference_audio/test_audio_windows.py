"""Rows to frame windows, and the windows and rows that callers send ready made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from inference_service.audio.windows import windows_from_audio_features, windows_from_feature_rows, windows_of_rows
from service_kit.errors import Problems

Parse = Callable[..., NDArray[np.float32] | None]


def values(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal(count).astype("<f4")


def parsed(parse: Parse, data: bytes, batch_size: int) -> NDArray[np.float32]:
    problems = Problems()
    windows = parse(data, batch_size=batch_size, problems=problems)
    assert windows is not None, problems.violations
    assert windows.shape == (batch_size, 16, 512)
    assert windows.dtype == np.float32
    assert windows.flags.c_contiguous
    return windows


@pytest.mark.parametrize("frames", [1, 2, 24])
def test_frame_k_reads_rows_k_to_k_plus_15(frames: int) -> None:
    rows = values((frames + 15) * 512).reshape(-1, 512)
    for windows in (windows_of_rows(rows), parsed(windows_from_feature_rows, rows.tobytes(), frames)):
        assert windows.flags.c_contiguous
        for k in range(frames):
            np.testing.assert_array_equal(windows[k], rows[k : k + 16])


def test_one_window_serves_all_frames() -> None:
    window = values(8192).reshape(16, 512)
    for got in parsed(windows_from_audio_features, window.tobytes(), 5):
        np.testing.assert_array_equal(got, window)


def test_one_window_a_frame() -> None:
    windows = values(3 * 8192).reshape(3, 16, 512)
    np.testing.assert_array_equal(parsed(windows_from_audio_features, windows.tobytes(), 3), windows)


@pytest.mark.parametrize(
    ("parse", "size", "batch", "field", "words"),
    [
        (windows_from_feature_rows, 0, 4, "feature_rows", ["0 bytes", str(19 * 2048), "19 x 512"]),
        (windows_from_feature_rows, 4 * 2048, 4, "feature_rows", [f"{4 * 2048} bytes", str(19 * 2048)]),
        (windows_from_feature_rows, 19 * 2048 - 1, 4, "feature_rows", [f"{19 * 2048 - 1} bytes", str(19 * 2048)]),
        (windows_from_audio_features, 3, 4, "audio_features", ["3 bytes", "32768", "131072"]),
        (windows_from_audio_features, 2 * 32768, 4, "audio_features", ["65536 bytes", "32768", "131072"]),
    ],
    ids=["no rows", "rows without context", "a byte less", "3 bytes", "two windows for four frames"],
)
def test_wrong_sizes_are_named(parse: Parse, size: int, batch: int, field: str, words: list[str]) -> None:
    problems = Problems()
    assert parse(bytes(size), batch_size=batch, problems=problems) is None
    (violation,) = problems.violations
    assert violation.field == field
    for word in words:
        assert word in violation.description


@pytest.mark.parametrize(
    ("parse", "count"), [(windows_from_feature_rows, 17 * 512), (windows_from_audio_features, 8192)], ids=["rows", "windows"]
)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(parse: Parse, count: int, wrong: float) -> None:
    blob = values(count)
    blob[[1234, 4000]] = wrong
    problems = Problems()
    assert parse(blob.tobytes(), batch_size=2, problems=problems) is None
    (violation,) = problems.violations
    assert f"value 1234 is {wrong}" in violation.description
    assert "first of 2" in violation.description


def test_a_refused_batch_size_costs_nothing() -> None:
    problems = Problems()
    problems.add("batch_size", "too large")
    # 32 TB of windows, were they made.
    assert windows_from_audio_features(bytes(32768), batch_size=10**9, problems=problems) is None
    assert windows_from_audio_features(bytes(32768), batch_size=0, problems=problems) is None
    assert windows_from_feature_rows(b"", batch_size=-1, problems=problems) is None
    assert len(problems.violations) == 1
