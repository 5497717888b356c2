"""Cutting a sound: every frame exactly once, each with the sound that the audio reference reads for it, at the right place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipsync_client import LipsyncError
from lipsync_client.cutting import cut, frame_count, sample_of_frame
from lipsync_client.requests import SpokenFrames
from shared_proto import compositing_pb2 as pb

SAMPLE_RATE = 16000
COLUMN = 200  # samples between columns of the spectrum
HALF_WINDOW = 400  # a column reads this far to either side of its centre

sample_counts = st.integers(0, 40 * 640)


def clip_requests(sound, *, sizes=(20,), **options) -> Iterator[pb.CompositeBatchRequest]:
    """All requests of a sound, asking for so many frames in turn, the last number again and again."""
    source = SpokenFrames("demo", sound, options)
    first, turns = 0, iter(sizes)
    size = next(turns)
    while count := source.available(first, size):
        yield source.request(first, count)
        first += count
        source.forget(first)
        size = next(turns, size)


batch_sizes = st.integers(1, 60)


def samples_read(frame: int) -> range:
    """Samples that frame `frame` of a clip depends on: rows frame-9 .. frame+6, row j the 16 columns from floor(16 j / 5), a
    column 800 samples around its centre, and each sample its predecessor through the pre-emphasis.
    """
    first_column = math.floor(Fraction(16 * (frame - 9), 5))
    last_column = math.floor(Fraction(16 * (frame + 6), 5)) + 15
    return range(first_column * COLUMN - HALF_WINDOW - 1, last_column * COLUMN + HALF_WINDOW)


@given(sample_counts, batch_sizes)
def test_each_frame_exactly_once_in_order(sample_count, batch_size):
    frames = [piece.first_frame + k for piece in cut(sample_count, batch_size=batch_size) for k in range(piece.frame_count)]
    assert frames == list(range(math.ceil(Fraction(sample_count, 640))))


@given(sample_counts, batch_sizes)
def test_no_batch_is_larger_than_asked_for_and_the_first_is_small(sample_count, batch_size):
    sizes = [piece.frame_count for piece in cut(sample_count, batch_size=batch_size)]
    assert all(1 <= size <= batch_size for size in sizes)
    assert max(sizes[:1], default=0) <= 4
    assert all(size == batch_size for size in sizes[5:-1]), "and all but the last are soon as large as asked for"


@given(sample_counts, batch_sizes)
def test_each_frame_has_all_the_sound_it_reads(sample_count, batch_size):
    """Samples outside the clip are silence wherever they are not sent; samples of the clip must be sent, at their own place."""
    for piece in cut(sample_count, batch_size=batch_size):
        assert piece.first_sample == piece.audio_start_frame * 640
        assert piece.audio_start_frame == piece.first_frame - piece.lead_in_frames
        for frame in range(piece.first_frame, piece.first_frame + piece.frame_count):
            needed = samples_read(frame)
            assert piece.first_sample <= max(needed.start, 0)
            assert piece.end_sample >= min(needed.stop, sample_count)


@given(st.integers(0, 20_000), st.lists(batch_sizes, min_size=1), st.integers(0, 1000), st.sampled_from([None, 1, 777, 5000]))
def test_the_requests_tell_the_server_the_same_sound_however_cut(sample_count, sizes, start_frame, piece):
    """A server that lays each request's sound on the line of the clip finds, for every frame, what the whole sound has there."""
    sound = np.arange(1, sample_count + 1, dtype=np.float32)
    given_sound = sound if piece is None else iter([sound[k : k + piece] for k in range(0, sample_count, piece)])
    padded = np.concatenate([np.zeros(20 * 640, np.float32), sound, np.zeros(90 * 640, np.float32)])

    position = start_frame
    for request in clip_requests(given_sound, sizes=sizes, start_frame=start_frame):
        assert request.start_frame_idx == position
        line = np.zeros_like(padded)
        place = (20 + request.audio_start_frame) * 640
        received = np.frombuffer(request.raw_audio, "<f4")
        line[place : place + received.size] = received
        for k in range(request.batch_size):
            clip_frame = request.audio_start_frame + request.lead_in_frames + k
            assert start_frame + clip_frame == position + k
            needed = samples_read(clip_frame)
            window = slice(20 * 640 + needed.start, 20 * 640 + needed.stop)
            np.testing.assert_array_equal(line[window], padded[window])
        position += request.batch_size
    assert position - start_frame == math.ceil(Fraction(sample_count, 640))


@given(st.integers(0, 5 * 48000), st.integers(8000, 192000), batch_sizes)
def test_other_rates_leave_room_for_the_resampler(sample_count, sample_rate, batch_size):
    """Two frames more than the frames read, on either side that has sound."""
    assert frame_count(sample_count, sample_rate) == math.ceil(Fraction(sample_count * 25, sample_rate))
    for piece in cut(sample_count, sample_rate=sample_rate, batch_size=batch_size):
        margin = 0 if sample_rate == 16000 else 2
        assert piece.lead_in_frames == min(piece.first_frame, 10 + margin)
        assert abs(piece.first_sample - Fraction(piece.audio_start_frame * sample_rate, 25)) <= Fraction(1, 2)
        last_frame = piece.first_frame + piece.frame_count - 1
        wanted_end = Fraction((last_frame + 12 + margin) * sample_rate, 25)
        assert piece.end_sample == sample_count or abs(piece.end_sample - wanted_end) <= Fraction(1, 2)


@pytest.mark.parametrize(
    ("samples", "rate", "frames"), [(0, 16000, 0), (1, 16000, 1), (640, 16000, 1), (641, 16000, 2), (44100, 44100, 25)]
)
def test_number_of_frames(samples, rate, frames):
    assert frame_count(samples, rate) == frames


@given(st.integers(-100, 10_000), st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 96000]))
def test_frames_lie_on_whole_samples_at_usual_rates(frame, rate):
    assert Fraction(sample_of_frame(frame, rate)) == Fraction(frame * rate, 25)


def test_int16_and_bytes_are_cut_by_their_own_sample_size():
    counting = np.arange(640 * 30)
    for sound, dtype in [(counting.astype(np.int16), "<i2"), (counting.astype("<f4").tobytes(), "<f4")]:
        *_, last = clip_requests(sound, sizes=(20, 8, 2))
        assert np.frombuffer(last.raw_audio, dtype).tolist() == list(range(640 * 18, 640 * 30)), "from 10 frames before frame 28"


def test_bytes_may_be_cut_anywhere():
    data = np.arange(640 * 30, dtype="<f4").tobytes()
    pieces = iter([data[:3], data[3:3], data[3:5001], data[5001:]])
    assert list(clip_requests(pieces)) == list(clip_requests(data))


def test_a_sound_is_read_no_further_than_needed():
    """Twelve frames beyond the last one asked for; what earlier frames alone needed is not held."""
    taken = []

    def pieces():
        for k in range(1000):
            taken.append(k)
            yield np.full(640, k, np.float32)

    source = SpokenFrames("demo", pieces(), {})
    assert source.available(0, 4) == 4
    assert len(taken) == 15
    source.forget(400)
    assert source.available(400, 4) == 4
    [*samples] = np.frombuffer(source.request(400, 4).raw_audio, "<f4")[::640]
    assert samples == list(range(390, 415))
    assert len(taken) == 415


def test_the_incomplete_last_sample_of_bytes_reaches_the_server():
    """The server refuses it; dropping it here would hide the caller's mistake."""
    [request] = clip_requests(bytes(641 * 4 + 3))
    assert len(request.raw_audio) == 641 * 4 + 3
    assert request.batch_size == 2


def test_pieces_of_two_kinds_are_refused():
    pieces = iter([np.zeros(640, np.float32), np.zeros(640, np.int16)])
    with pytest.raises(TypeError, match="one kind"):
        list(clip_requests(pieces))


@pytest.mark.parametrize("piece", [None, 4000], ids=["whole", "in pieces"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_is_told_by_its_place_in_the_sound(value, piece):
    sound = np.zeros(16_000 * 20, np.float32)
    sound[200_000:200_003] = value
    given_sound = sound if piece is None else iter([sound[k : k + piece] for k in range(0, sound.size, piece)])
    with pytest.raises(LipsyncError, match=rf"sample 200000 of the sound \(12\.500 s\) is {value}") as caught:
        list(clip_requests(given_sound))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in caught.value.violations] == ["raw_audio"]


def test_options_hold_for_every_batch():
    for request in clip_requests(np.zeros(44100, np.int16), sizes=(7,), sample_rate=44100, quality="high", output="raw"):
        common = (request.model_id, request.sample_rate, request.quality_preset, request.output_format, request.audio_encoding)
        assert common == ("demo", 44100, pb.QUALITY_HIGH, pb.FORMAT_RAW_BGR, pb.PCM_INT16)
