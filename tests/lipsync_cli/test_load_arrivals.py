"""The load tester's judgement of a session, its cutting of speech, and its search for the number of sessions that fit."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipsync_cli.load.arrivals import IDLE, Arrivals, Spread
from lipsync_cli.load.ramp import Ramp
from lipsync_cli.load.speaking import FIRST_FRAME_SAMPLES, pieces, utterances

BASE_MS = 123_456_789.0


def arrivals(behind_ms: list[float], *, first: int = 0, segments: list[int] | None = None) -> Arrivals:
    """A session of which each frame comes so long after its time."""
    frames = enumerate(behind_ms, first)
    segments = segments or [IDLE] * len(behind_ms)
    return Arrivals.of([(n, BASE_MS + 40 * n + late, segment) for (n, late), segment in zip(frames, segments, strict=True)])


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=50), st.integers(0, 10**6))
def test_frames_are_behind_the_one_that_came_earliest_for_its_number(behind_ms: list[float], first: int) -> None:
    least = min(behind_ms)
    found = arrivals(behind_ms, first=first).behind_ms
    np.testing.assert_allclose(found, [each - least for each in behind_ms], atol=1e-4)
    assert found.min() == 0


def test_frames_are_late_from_forty_milliseconds_on() -> None:
    session = arrivals([0, 39, 40, 41, 900, 0])
    assert session.late(until_ms=BASE_MS + 5 * 40) == 3


def test_frames_that_never_come_are_late_once_their_successors_are_due() -> None:
    session = arrivals([0] * 10)  # numbers 0 to 9
    due_10_ms = BASE_MS + 400
    assert session.late(due_10_ms + 39) == 0
    assert session.late(due_10_ms + 40) == 1
    assert session.late(due_10_ms + 40 + 40 * 99) == 100


def test_a_session_without_frames_has_no_figures() -> None:
    session = arrivals([])
    assert (session.late(1e9), session.drift_ms(), session.stalls(), Spread.of(session.behind_ms)) == (0, 0.0, 0, None)


@pytest.mark.parametrize("drift", [0.0, 0.01, -0.02])
def test_drift_is_seen_through_noise(drift: float) -> None:
    noise = np.random.default_rng(1).exponential(5, 4000)
    session = arrivals([200 + drift * number + late for number, late in enumerate(noise)])
    assert session.drift_ms() == pytest.approx(3000 * drift, abs=6)


@pytest.mark.parametrize(
    ("segments", "stalls"),
    [
        ([IDLE, 0, 0, IDLE, IDLE, 1, 1], 0),
        ([IDLE, 0, 0, IDLE, IDLE, 0, 1], 1),
        ([0, IDLE, 0, IDLE, 0, IDLE, 1], 2),
        ([0, 1, 2, IDLE], 0),
    ],
)
def test_idle_frames_inside_a_segment_are_a_stall(segments: list[int], stalls: int) -> None:
    assert arrivals([0] * len(segments), segments=segments).stalls() == stalls


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=200))
def test_percentiles_are_those_of_the_statistics_module(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    np.testing.assert_allclose([spread.p50, spread.p95, spread.p99], [cuts[49], cuts[94], cuts[98]], rtol=1e-9, atol=1e-6)
    assert (spread.count, spread.most) == (len(values), max(values))


@given(st.integers(640, 400_000), st.integers(0, 100))
def test_utterances_are_the_sound_in_a_row_and_last_seconds(samples: int, seed: int) -> None:
    sound = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    cut = utterances(sound)
    np.testing.assert_array_equal(np.concatenate(cut), sound)
    assert all(each.size / 16_000 >= 2 for each in cut[:-1])
    assert cut[-1].size / 16_000 <= 5.3


def test_a_sound_is_cut_where_it_is_quiet() -> None:
    sound = np.ones(16_000 * 6, np.float32)
    sound[41_600:44_800] = 0.0  # 2.6 to 2.8 s
    assert 41_600 <= utterances(sound)[0].size <= 44_800


@given(st.integers(1, 200_000), st.floats(0, 3), st.floats(0, 15))
def test_sound_is_always_pushed_ahead(samples: int, ahead_s: float, now_s: float) -> None:
    plan = list(pieces(samples, ahead_s))
    assert [piece.first for piece in plan] == [0, *(piece.last for piece in plan[:-1])]
    assert plan[-1].last == samples
    pushed = max(piece.last for piece in plan if piece.at_s <= now_s)
    assert pushed >= min(samples, int((now_s + ahead_s) * 16_000))
    assert sum(piece.completes_first_frame for piece in plan) == (samples >= FIRST_FRAME_SAMPLES)


@given(st.integers(0, 3000), st.integers(1, 300), st.integers(1, 2000))
def test_the_search_finds_the_largest_number_that_fits(truth: int, first: int, most: int) -> None:
    ramp = Ramp(trial=min(first, most), most=most)
    tried: list[int] = []
    while not ramp.is_over:
        tried.append(ramp.trial)
        ramp.note(ramp.trial <= truth)
    assert len(tried) == len(set(tried)) <= 25
    assert max(tried) <= most
    assert ramp.fits <= truth
    largest = min(truth, most)
    assert largest - ramp.fits <= max(0, 0.05 * ramp.fits)
