"""Frames of a segment that can be made, and the sound that they are made from, however it came."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from compositing_service.sessions.segment import Segment, rows_complete
from compositing_service.sessions.sound import SegmentSound, checked, first_sample_of
from service_kit.errors import InvalidRequest
from shared_proto import compositing_pb2 as pb

RATES = (8_000, 16_000, 24_000, 44_100, 48_000)


def segment_of(rate: int, samples: int, *, ended: bool = False) -> Segment:
    segment = Segment(0, SegmentSound(rate), next_frame=0)
    segment.sound.add(np.zeros(samples, np.float32))
    if ended:
        segment.sound.end()
        segment.ended = True
    return segment


@given(samples=st.integers(0, 100_000))
def test_a_row_is_complete_when_all_that_it_reads_is_there(samples: int) -> None:
    """Row j reads the samples [200 c - 400, 200 c + 3400) with c = 16 j / 5 rounded down."""
    complete = rows_complete(samples)
    assert 200 * (16 * (complete - 1) // 5) + 3400 <= samples
    assert 200 * (16 * complete // 5) + 3400 > samples


@given(rate=st.sampled_from(RATES), samples=st.integers(1, 200_000))
def test_a_segment_has_a_frame_for_each_40_ms_begun(rate: int, samples: int) -> None:
    segment = segment_of(rate, samples, ended=True)
    assert segment.frames == ceil(25 * samples / rate) == segment.makeable(12)
    assert segment.audio_us == 1_000_000 * samples // rate


@given(samples=st.integers(0, 50_000), look_ahead=st.integers(6, 12))
def test_a_frame_can_be_made_once_the_last_row_that_it_reads_is_complete(samples: int, look_ahead: int) -> None:
    makeable = segment_of(16_000, samples).makeable(look_ahead)
    rows = rows_complete(samples)
    assert all(frame + look_ahead - 6 < rows for frame in range(makeable))
    assert makeable + look_ahead - 6 >= rows


@given(look_ahead=st.integers(6, 12), frame=st.integers(0, 500))
def test_a_frame_waits_for_the_sound_that_the_contract_names(look_ahead: int, frame: int) -> None:
    """40 L - 37.5 to 40 L - 27.5 ms after its start, at 16 kHz."""
    most = 640 * frame + (40 * look_ahead * 16) - 27.5 * 16
    least = 640 * frame + (40 * look_ahead * 16) - 37.5 * 16
    assert segment_of(16_000, int(most)).makeable(look_ahead) > frame
    assert segment_of(16_000, int(least) - 1).makeable(look_ahead) <= frame


def test_a_cushion_is_kept_back_until_the_segment_ends() -> None:
    samples = 16_000
    assert segment_of(16_000, samples).makeable(12, cushion_samples=3200) == segment_of(16_000, samples - 3200).makeable(12)
    assert segment_of(16_000, samples, ended=True).makeable(12, cushion_samples=3200) == 25


@given(
    rate=st.sampled_from(RATES),
    seed=st.integers(0, 99),
    count=st.integers(1, 30_000),
    sizes=st.lists(st.integers(1, 5000), min_size=1),
)
def test_sound_in_pieces_is_the_sound_at_once(rate: int, seed: int, count: int, sizes: list[int]) -> None:
    """By soxr's own call over the whole."""
    whole = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    wanted = whole if rate == 16_000 else soxr.resample(whole, rate, 16_000, quality="HQ")
    sound = SegmentSound(rate)
    first = 0
    while first < count:
        for size in sizes:
            sound.add(whole[first : first + size])
            first += size
    sound.end()
    data, start = sound.frames_from(0, 10_000)
    assert start == 0
    assert np.array_equal(np.frombuffer(data, "<f4"), wanted)
    assert sound.ready == len(wanted)


def test_old_sound_is_dropped_and_the_rest_is_unchanged() -> None:
    whole = np.arange(64_000, dtype=np.float32)
    sound = SegmentSound(16_000)
    sound.add(whole)
    sound.drop_before(50)
    data, start = sound.frames_from(0, 60)
    assert start == 50
    assert np.array_equal(np.frombuffer(data, "<f4"), whole[50 * 640 : 60 * 640])
    assert sound.ready == sound.received == 64_000
    sound.drop_before(51)  # too little to be worth a copy
    assert sound.frames_from(0, 51)[1] == 50


def test_sound_that_begins_in_a_segment_counts_from_its_start() -> None:
    sound = SegmentSound(48_000, start_frame=7)
    assert sound.received == first_sample_of(7, 48_000) == 7 * 1920
    assert first_sample_of(1, 44_100) == 1764
    assert first_sample_of(3, 11_025) == (2 * 3 * 11_025 + 25) // 50
    assert sound.frames_from(3, 9) == (b"", 7)


@pytest.mark.parametrize(
    ("data", "encoding", "words"),
    [
        (b"abc", pb.PCM_INT16, "not a multiple of the 2"),
        (b"abcdef", pb.PCM_FLOAT32, "not a multiple of the 4"),
        (np.array([0, np.nan, np.inf], "<f4").tobytes(), pb.PCM_FLOAT32, "sample 1 is nan, the first of 2"),
    ],
)
def test_what_is_no_sound_is_refused(data: bytes, encoding: int, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        checked(data, encoding)


def test_int16_is_divided_by_32768() -> None:
    sound = SegmentSound(16_000)
    assert sound.is_zero(0, 640)  # of nothing too
    for sample in (-32768, 16384):
        sound.add(np.array([sample], "<i2"))
    data, _ = sound.frames_from(0, 1)
    assert np.frombuffer(data, "<f4").tolist() == [-1.0, 0.5]
