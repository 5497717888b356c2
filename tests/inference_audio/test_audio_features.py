"""Sound to frame windows: a plain reimplementation on librosa as judge, and the same bytes however the sound was cut."""

from __future__ import annotations

from collections.abc import Callable

import librosa
import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from avatar_kit.onnx_io import EncoderIO
from inference_service.audio.encoder import AudioEncoder
from inference_service.audio.features import AudioFeatures
from inference_service.audio.line import SoundLine
from inference_service.audio.reference_edges import clip_row_starts, frame_count, row_count
from inference_service.audio.windows import windows_from_feature_rows
from inference_service.engines.encoder_runs import encoder_run
from service_kit.errors import Problems
from shared_proto.field_checks import check_edges
from shared_proto.inference_pb2 import EDGES_REFERENCE, EDGES_SILENCE

fixtures_are_constant = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def features(picking_encoder: AudioEncoder) -> AudioFeatures:
    return AudioFeatures(picking_encoder)


def librosa_mel(sound: NDArray[np.floating]) -> NDArray[np.float64]:
    """[80, columns]"""
    basis = librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    from scipy.signal import lfilter  # takes a second

    emphasised = lfilter([1, -0.97], [1], sound)
    bands = basis @ np.abs(librosa.stft(emphasised, n_fft=800, hop_length=200, win_length=800, pad_mode="constant"))
    return np.clip(8 * (20 * np.log10(np.maximum(1e-5, bands)) - 20 + 100) / 100 - 4, -4, 4)


def windows_in_silence(
    sound: NDArray[np.float32], picked: NDArray[np.int64], *, batch: int, lead_in: int, start: int
) -> NDArray[np.float64]:
    """The definition in so many words: silence all around, then one row after the other."""
    margin = 50  # frames; a multiple of 5 keeps the grid
    silence = np.zeros(640 * margin)
    after = np.zeros(640 * (margin + lead_in + batch))
    mel = librosa_mel(np.concatenate([silence, np.zeros(640 * start), sound, after]))
    windows = np.empty((batch, 16, 512))
    for frame in range(batch):
        for place, row in enumerate(range(start + lead_in + frame - 9, start + lead_in + frame + 7)):
            column = (16 * (row + margin)) // 5
            windows[frame, place] = mel[:, column : column + 16].reshape(-1)[picked]
    return windows


def windows_of_the_script(sound: NDArray[np.float32], picked: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """All frames of a clip as the research script goes about it: rows, list with repeated ends, slices padded with zeros."""
    mel = librosa_mel(sound)
    columns = mel.shape[1]
    rows = []
    for row in range(int((columns - 16) / 80.0 * 25.0) + 2):
        start = int(row * 80.0 / 25.0)
        window = mel[:, start : start + 16] if start + 16 <= columns else mel[:, columns - 16 :]
        rows.append(window.reshape(-1)[picked])
    listed = [rows[0], *rows, rows[-1]]
    windows = []
    for frame in range(len(listed)):
        before = [np.zeros(512)] * max(0, 8 - frame)
        after = [np.zeros(512)] * max(0, frame + 8 - len(listed))
        windows.append(np.stack([*before, *listed[max(0, frame - 8) : frame + 8], *after]))
    return windows


@pytest.mark.parametrize(
    ("samples", "batch", "lead_in", "start"),
    [
        (640 * 24, 24, 0, 0),
        (640 * 46, 24, 10, 0),
        (640 * 46, 24, 10, 7),
        (640 * 30, 5, 10, 11),
        (640 * 20 + 333, 30, 3, 13),
        (1, 2, 0, 4),
        (16000, 3, 40, 2),
    ],
    ids=["bare", "context", "cut at 7", "cut at 11", "ends early", "one sample", "after the end"],
)
def test_frames_read_the_sound_in_silence(
    samples: int,
    batch: int,
    lead_in: int,
    start: int,
    features: AudioFeatures,
    picked: NDArray[np.int64],
    speech: NDArray[np.float32],
) -> None:
    sound = speech[5000 : 5000 + samples]
    windows = features.frame_windows(sound, batch_size=batch, lead_in_frames=lead_in, audio_start_frame=start)
    expected = windows_in_silence(sound, picked, batch=batch, lead_in=lead_in, start=start)
    assert windows.shape == (batch, 16, 512)
    assert windows.dtype == np.float32
    assert windows.flags.c_contiguous
    np.testing.assert_allclose(windows, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [5600, 5601, 15999, 16000, 76600, 100000])
def test_frames_read_what_the_script_reads(
    samples: int, features: AudioFeatures, picked: NDArray[np.int64], speech: NDArray[np.float32]
) -> None:
    sound = speech[:samples]
    expected = windows_of_the_script(sound, picked)
    assert len(expected) == frame_count(samples)
    whole = features.frame_windows(sound, batch_size=len(expected), edges=EDGES_REFERENCE)
    np.testing.assert_allclose(whole, np.stack(expected), rtol=0, atol=1e-5)
    for first, batch in [(0, 1), (2, 5), (len(expected) - 4, 4), (len(expected) - 2, 2)]:
        part = features.frame_windows(sound, batch_size=batch, lead_in_frames=first, edges=EDGES_REFERENCE)
        assert part.tobytes() == whole[first : first + batch].tobytes()


def test_reference_frames_past_the_last_read_zero_rows(features: AudioFeatures, speech: NDArray[np.float32]) -> None:
    count = frame_count(16000)
    whole = features.frame_windows(speech[:16000], batch_size=count + 20, edges=EDGES_REFERENCE)
    np.testing.assert_array_equal(whole[count, :15], whole[count - 1, 1:])
    assert (whole[count, 8:] == 0).all()
    assert (whole[count - 1, :8] != 0).any()
    assert (whole[count + 8 :] == 0).all()
    assert (features.frame_windows(speech[:16000], batch_size=2, lead_in_frames=10**6, edges=EDGES_REFERENCE) == 0).all()


def test_the_references_numbers() -> None:
    assert [frame_count(samples) for samples in (16000, 32000, 160000)] == [24, 49, 249]
    # 384 columns: int(...) is 114, where exact arithmetic would give 115.
    assert row_count(383 * 200) == 114 + 2
    assert clip_row_starts(160000, 0, 11).tolist() == [0, 3, 6, 9, 12, 16, 19, 22, 25, 28, 32]
    assert clip_row_starts(16000, 19, 3).tolist() == [60, 64, 65]


def test_the_first_reference_frame(features: AudioFeatures, speech: NDArray[np.float32]) -> None:
    (frame,) = features.frame_windows(speech[:32000], batch_size=1, edges=EDGES_REFERENCE)
    rows = features.rows(speech[:32000], first_row=0, row_count=7)
    assert (frame[:8] == 0).all()
    np.testing.assert_array_equal(frame[8:], rows[[0, 0, 1, 2, 3, 4, 5, 6]])


def test_both_edges_agree_inside_a_clip(features: AudioFeatures, speech: NDArray[np.float32]) -> None:
    inside = {"batch_size": 200, "lead_in_frames": 10}
    silence = features.frame_windows(speech, **inside)
    assert silence.tobytes() == features.frame_windows(speech, **inside, edges=EDGES_REFERENCE).tobytes()


@pytest.mark.parametrize(
    ("samples", "start", "fields"),
    [(5599, 0, ["raw_audio"]), (5600, 5, ["audio_start_frame"]), (1, 1, ["raw_audio", "audio_start_frame"]), (5600, 0, [])],
)
def test_what_the_reference_cannot_do_is_named(samples: int, start: int, fields: list[str]) -> None:
    problems = Problems()
    check_edges(EDGES_REFERENCE, samples, 16000, start, problems.add)
    assert [violation.field for violation in problems.violations] == fields
    check_edges(EDGES_SILENCE, samples, 16000, start, (none := Problems()).add)
    assert none.violations == []


@given(seed=st.integers(0, 2**32 - 1), samples=st.integers(1, 40000), cuts=st.lists(st.integers(1, 20), min_size=1, max_size=8))
@fixtures_are_constant
def test_a_frame_is_the_same_bytes_however_the_sound_was_cut(
    seed: int, samples: int, cuts: list[int], features: AudioFeatures
) -> None:
    whole = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    frames = sum(cuts)
    expected = features.frame_windows(whole, batch_size=frames)
    pieces = []
    for i, batch in enumerate(cuts):
        first = sum(cuts[:i])
        lead_in = min(first, 10)
        start = first - lead_in
        sent = whole[640 * start : 640 * (first + batch - 1 + 12)]
        pieces.append(features.frame_windows(sent, batch_size=batch, lead_in_frames=lead_in, audio_start_frame=start % 5))
    assert np.concatenate(pieces).tobytes() == expected.tobytes()


@given(
    seed=st.integers(0, 2**32 - 1),
    first=st.integers(-20, 60),
    count=st.integers(1, 90),
    early=st.integers(1, 9),
    late=st.integers(0, 4000),
)
@fixtures_are_constant
def test_a_row_is_the_same_bytes_however_the_sound_was_cut(
    seed: int, first: int, count: int, early: int, late: int, features: AudioFeatures
) -> None:
    whole = np.random.default_rng(seed).standard_normal(32000).astype(np.float32)
    expected = features.rows(whole, first_row=-30, row_count=190)[first + 30 : first + 30 + count]
    start = max(0, first - early)
    sent = whole[640 * start : max(0, 640 * (first + count - 1 + 6)) + late]
    got = features.rows(sent, first_row=first, row_count=count, audio_start_frame=start)
    assert got.tobytes() == expected.tobytes()


def test_rows_whose_whole_spectrum_is_at_its_floor_are_silent(features: AudioFeatures) -> None:
    """Row j reads samples 200 c - 400 to 200 c + 3400, where c is 16 j / 5 rounded down."""
    click = np.zeros(640 * 100, np.float32)
    click[640 * 50] = 0.5
    first, count = -3, 120
    encoded = features.encoded_rows(click, first_row=first, row_count=count)
    starts = 200 * (16 * np.arange(first, first + count) // 5) - 400
    at = 640 * 50
    heard = (starts <= at) & (starts + 3800 > at)
    assert 5 <= heard.sum() <= 7
    assert encoded.silent[~heard].all()
    # The window of the spectrum is zero at the very ends of what a row reads.
    inside = (starts + 200 <= at) & (starts + 3600 > at)
    assert not encoded.silent[inside].any()
    assert encoded.rows.tobytes() == features.rows(click, first_row=first, row_count=count).tobytes()


def test_feature_rows_give_the_frames_of_the_sound(features: AudioFeatures, speech: NDArray[np.float32]) -> None:
    rows = features.rows(speech, first_row=33 - 9, row_count=12 + 15)
    windows = windows_from_feature_rows(rows.tobytes(), batch_size=12, problems=Problems())
    assert windows is not None
    assert windows.tobytes() == features.frame_windows(speech, batch_size=12, lead_in_frames=33).tobytes()


def test_the_real_size_gives_the_same_bytes_in_one_batch_or_many(
    full_size_session: Callable[..., onnxruntime.InferenceSession], speech: NDArray[np.float32]
) -> None:
    session = full_size_session(threads=2)
    features = AudioFeatures(AudioEncoder(encoder_run(session, EncoderIO("mel", "rows", None), "encoder")))
    # Across the pause in the recording, so that silent rows and others meet.
    sound = speech[640 * 60 : 640 * 120]
    whole = features.frame_windows(sound, batch_size=24, lead_in_frames=10)
    singles = [
        features.frame_windows(sound[640 * k : 640 * (k + 22)], batch_size=1, lead_in_frames=10, audio_start_frame=k)
        for k in range(24)
    ]
    assert whole.std() > 0
    assert np.concatenate(singles).tobytes() == whole.tobytes()


def test_long_sound_is_encoded_in_bounded_pieces(
    features: AudioFeatures, speech: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = features.rows(speech, first_row=-5, row_count=260)
    columns_at_once = []
    original = SoundLine.columns
    monkeypatch.setattr(SoundLine, "columns", lambda line, first, n: columns_at_once.append(n) or original(line, first, n))
    assert features.rows(speech, first_row=-5, row_count=260).tobytes() == rows.tobytes()
    assert max(columns_at_once) <= 64 * 4 + 16
    one_by_one = [features.rows(speech, first_row=row, row_count=1) for row in range(-5, 255)]
    assert rows.tobytes() == np.concatenate(one_by_one).tobytes()
