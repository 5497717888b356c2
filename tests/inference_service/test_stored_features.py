"""The windows that frames read of stored features, and files that no frame can be made from."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avatar_kit.errors import BrokenAvatar
from avatar_kit.features import MISSING_ROWS
from inference_service.audio.reference_edges import entry_rows, frame_count, row_count
from inference_service.audio.windows import windows_of_clip
from inference_service.models.stored_features import StoredFeatures

from ..pickles import Trap


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 10, (count, 512)).astype(np.float32)


def read_by(stored: np.ndarray, frame: int) -> np.ndarray:
    """[16, 512]: entries frame-8 .. frame+7 of the list, zeros where it has none."""
    nothing = np.zeros(512, np.float32)
    return np.stack([stored[entry] if 0 <= entry < len(stored) else nothing for entry in range(frame - 8, frame + 8)])


@given(count=st.integers(1, 60), frames=st.lists(st.integers(0, 70), max_size=30))
def test_each_frame_reads_the_sixteen_entries_around_it(count: int, frames: list[int]) -> None:
    stored = rows(count)
    windows = windows_of_clip(stored, frames)
    assert windows.shape == (len(frames), 16, 512)
    assert windows.dtype == np.float32
    assert windows.flags.c_contiguous
    for frame, window in zip(frames, windows, strict=True):
        np.testing.assert_array_equal(window, read_by(stored, frame))


@given(samples=st.integers(5600, 400_000))
def test_the_file_of_a_sound_gives_the_rows_that_the_reference_reads(samples: int) -> None:
    """Row j is j + 1 all over, and a zero row stands for -1: the list as the family's script stores it."""
    raw = np.repeat(np.arange(1, row_count(samples) + 1, dtype=np.float32)[:, None], 512, axis=1)
    stored = np.concatenate([raw[:1], raw, raw[-1:]])
    frames = frame_count(samples)
    assert len(stored) == frames
    asked = [0, 1, 8, frames // 2, frames - 1]
    for frame, window in zip(asked, windows_of_clip(stored, asked), strict=True):
        np.testing.assert_array_equal(window[:, 0] - 1, entry_rows(samples, frame, 1)[:16])


def test_a_real_file_has_the_rows_of_the_list() -> None:
    """523 frames of a clip, 522 rows in its file: the encoder's rows alone would be 520."""
    samples = 523 * 640
    assert row_count(samples) == 520
    assert frame_count(samples) == 522


@pytest.mark.parametrize("short", range(MISSING_ROWS + 1))
@pytest.mark.parametrize("name", ["aud_ave.npy", "aud_ave.bin", "fortran.npy", "AUD_AVE.BIN"])
def test_a_file_of_the_whole_clip(tmp_path: Path, name: str, short: int) -> None:
    path, features = tmp_path / name, rows(12 - short)
    write(path, np.asfortranarray(features) if "fortran" in name else features)
    windows = StoredFeatures(path, frame_count=12).windows(range(12))
    for frame in range(12):
        np.testing.assert_array_equal(windows[frame], read_by(features, frame))


@settings(max_examples=settings().max_examples * 40 // 100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 30), clip=st.integers(1, 30))
def test_a_file_may_be_longer_but_not_much_shorter_than_the_clip(tmp_path: Path, count: int, clip: int) -> None:
    path = tmp_path / "aud_ave.bin"
    path.write_bytes(rows(count).tobytes())
    stored = StoredFeatures(path, frame_count=clip)
    if count >= clip - 2:
        np.testing.assert_array_equal(stored.windows([clip - 1])[0], read_by(rows(count), clip - 1))
    else:
        with pytest.raises(BrokenAvatar, match=rf"aud_ave.bin has {count} rows for {clip} frames"):
            stored.windows([0])


def with_nan(value: float) -> np.ndarray:
    features = rows(12)
    features[7, 300] = value
    return features


NPY = {
    "float64": (rows(12).astype(np.float64), "holds float64 of shape (12, 512); expected float32 [rows, 512]"),
    "big endian": (rows(12).astype(">f4"), "holds >f4 of shape (12, 512); expected float32 [rows, 512]"),
    "integers": (np.zeros((12, 512), np.int64), "holds int64"),
    "another width": (rows(12)[:, :511], "of shape (12, 511)"),
    "flat": (rows(12).ravel(), "of shape (6144,)"),
    "no rows": (rows(0), "has 0 rows"),
    "NaN": (with_nan(np.nan), "holds values that are not finite numbers"),
    "infinity": (with_nan(-np.inf), "holds values that are not finite numbers"),
    "objects": (np.array([[Trap()] * 512], object), "is not a NumPy array of numbers"),
}


@pytest.mark.parametrize("kind", NPY)
def test_an_array_of_another_kind_is_named(tmp_path: Path, kind: str) -> None:
    array, words = NPY[kind]
    np.save(tmp_path / "aud_ave.npy", array, allow_pickle=True)
    assert_refused(tmp_path / "aud_ave.npy", words)


BYTES = {
    "empty.npy": (b"", "is empty"),
    "text.npy": (b"not an array", "is not a NumPy array of numbers"),
    "pickle.npy": (pickle.dumps(Trap()), "is not a NumPy array of numbers"),
    "empty.bin": (b"", "is empty"),
    "half.bin": (rows(12).tobytes()[:-1000], "which are not whole rows of 512 float32"),
    "nan.bin": (b"\xff" * 2048 * 12, "holds values that are not finite numbers"),
}


@pytest.mark.parametrize("name", BYTES)
def test_other_bytes_are_named(tmp_path: Path, name: str) -> None:
    content, words = BYTES[name]
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, words)


@pytest.mark.parametrize("left", [0, 5, 128, 2000, 24_000])
def test_a_truncated_array_is_named(tmp_path: Path, left: int) -> None:
    np.save(tmp_path / "aud_ave.npy", rows(12))
    os.truncate(tmp_path / "aud_ave.npy", left)
    assert_refused(tmp_path / "aud_ave.npy", "is empty" if not left else "is not a NumPy array of numbers, or is truncated")


@pytest.mark.parametrize("name", ["aud_ave.npy", "aud_ave.bin"])
def test_what_is_no_file_is_named(tmp_path: Path, name: str) -> None:
    assert_refused(tmp_path / name, "is missing")
    (tmp_path / name).mkdir()
    assert_refused(tmp_path / name, "is not a regular file")
    (tmp_path / name).rmdir()
    os.mkfifo(tmp_path / name)
    assert_refused(tmp_path / name, "is not a regular file")


def assert_refused(path: Path, words: str) -> None:
    stored = StoredFeatures(path, frame_count=12)
    for _ in range(2):
        with pytest.raises(BrokenAvatar) as caught:
            stored.windows([3])
        said = str(caught.value)
        assert said.startswith(f"{path.name} ")
        assert words in said
        assert "send sound, or put the right file in its place and load the avatar again with force_reload" in said
        assert str(path.parent) not in said


def test_an_avatar_without_a_file_is_told_what_to_do() -> None:
    with pytest.raises(BrokenAvatar, match=r"no stored features: send sound, or import it again .*aud_ave\.npy"):
        StoredFeatures(None, frame_count=3).windows([0])


@pytest.mark.parametrize("name", ["aud_ave.npy", "aud_ave.bin"])
def test_a_file_cut_off_while_it_is_mapped_ends_nothing(tmp_path: Path, name: str) -> None:
    """Reading beyond the end of a mapped file would kill the process."""
    path, features = tmp_path / name, rows(2000)
    write(path, features)
    stored = StoredFeatures(path, frame_count=2000)
    os.truncate(path, 3000)
    with pytest.raises(BrokenAvatar, match=rf"{name} has become shorter since it was loaded; send sound"):
        stored.windows([1900])
    write(path, features)
    np.testing.assert_array_equal(stored.windows([1900])[0], read_by(features, 1900))


def test_a_file_written_over_while_it_is_mapped_is_looked_at_again(tmp_path: Path) -> None:
    write(tmp_path / "aud_ave.npy", rows(12))
    stored = StoredFeatures(tmp_path / "aud_ave.npy", frame_count=12)
    write(tmp_path / "aud_ave.npy", with_nan(np.nan))  # in row 7
    with pytest.raises(BrokenAvatar, match=r"aud_ave\.npy holds values that are not finite numbers"):
        stored.windows([0])


@pytest.mark.parametrize("name", ["aud_ave.npy", "aud_ave.bin"])
def test_a_file_put_in_its_place_is_not_seen(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, rows(12))
    stored = StoredFeatures(path, frame_count=12)
    write(tmp_path / f"new-{name}", rows(12, seed=1))
    (tmp_path / f"new-{name}").rename(path)
    np.testing.assert_array_equal(stored.windows([11])[0], read_by(rows(12), 11))
    path.unlink()
    np.testing.assert_array_equal(stored.windows([0])[0], read_by(rows(12), 0))


def write(path: Path, features: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, features)
    else:
        path.write_bytes(features.tobytes())
