"""Bytes to sound: what is refused and how, and resampling judged by soxr, by exact tones and by where a click lies."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
from numpy.typing import NDArray

from inference_service.audio import pcm
from inference_service.audio.line import SoundLine
from inference_service.audio.pcm import decode_pcm
from service_kit.errors import Problems
from shared_proto.inference_pb2 import PCM_FLOAT32, PCM_INT16

RATES = [8000, 11025, 12000, 22050, 24000, 32000, 44100, 48000, 96000, 192000]


def decoded(data: bytes, encoding: int = PCM_FLOAT32, rate: int = 16000, max_seconds: float = 60) -> NDArray[np.float32]:
    problems = Problems()
    sound = decode_pcm(data, encoding=encoding, sample_rate=rate, max_seconds=max_seconds, problems=problems)
    assert sound is not None, problems.violations
    assert sound.dtype == np.float32
    assert sound.ndim == 1
    return sound


def refused(data: bytes, encoding: int = PCM_FLOAT32, rate: int = 16000, max_seconds: float = 60) -> dict[str, str]:
    problems = Problems()
    assert decode_pcm(data, encoding=encoding, sample_rate=rate, max_seconds=max_seconds, problems=problems) is None
    return {violation.field: violation.description for violation in problems.violations}


def test_float32_is_taken_as_it_is() -> None:
    values = np.array([0, 0.5, -1, 3, -1e30, 1e-40], "<f4")
    for rate in (0, 16000):
        assert decoded(values.tobytes(), rate=rate).tobytes() == values.tobytes()


def test_int16_is_divided_by_32768() -> None:
    values = np.array([0, 16384, 32767, -32768, -1], "<i2")
    expected = np.array([0, 0.5, 32767 / 32768, -1, -1 / 32768], np.float32)
    np.testing.assert_array_equal(decoded(values.tobytes(), PCM_INT16), expected)


@pytest.mark.parametrize(
    ("data", "encoding", "rate", "field", "words"),
    [
        (b"", PCM_FLOAT32, 16000, "raw_audio", ["0 bytes"]),
        (bytes(3), PCM_FLOAT32, 16000, "raw_audio", ["3 bytes", "multiple of 4"]),
        (bytes(641), PCM_INT16, 16000, "raw_audio", ["641 bytes", "multiple of 2"]),
        (bytes(4), PCM_FLOAT32, 7, "sample_rate", ["7 Hz", "8000", "192000", "0 for 16000"]),
        (bytes(4), PCM_FLOAT32, 7999, "sample_rate", ["7999"]),
        (bytes(4), PCM_FLOAT32, 192001, "sample_rate", ["192001"]),
        (bytes(4), PCM_FLOAT32, 10**9, "sample_rate", ["1000000000"]),
        (bytes(4), PCM_FLOAT32, -16000, "sample_rate", ["-16000"]),
        (bytes(2 * 8000 * 61), PCM_INT16, 8000, "raw_audio", ["61.000 s", "488000 samples at 8000 Hz", "at most 60 s"]),
        (bytes(4 * (960000 + 1)), PCM_FLOAT32, 0, "raw_audio", ["960001 samples at 16000 Hz", "at most 60 s"]),
        (np.array([0, 1, np.nan, np.inf], "<f4").tobytes(), PCM_FLOAT32, 16000, "raw_audio", ["sample 2 is nan", "first of 2"]),
        (np.array([-np.inf], "<f4").tobytes(), PCM_FLOAT32, 48000, "raw_audio", ["sample 0 is -inf", "first of 1"]),
    ],
    ids=["empty", "3 bytes", "odd", "7 Hz", "low", "high", "GHz", "negative", "61 s", "a sample over", "NaN", "infinity"],
)
def test_what_is_wrong_is_named(data: bytes, encoding: int, rate: int, field: str, words: list[str]) -> None:
    named = refused(data, encoding, rate)
    assert list(named) == [field]
    for word in words:
        assert word in named[field]


def test_all_is_named_at_once() -> None:
    assert list(refused(bytes(3), rate=7)) == ["sample_rate", "raw_audio"]
    assert list(refused(np.full(5, np.nan, "<f4").tobytes(), rate=10**9)) == ["sample_rate", "raw_audio"]


def test_exactly_the_longest_is_taken() -> None:
    assert len(decoded(bytes(4 * 32000), max_seconds=2)) == 32000


@pytest.mark.parametrize("wrong", ["here", "before"])
def test_nothing_is_resampled_for_a_refused_request(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcm.soxr, "resample", lambda *_, **__: pytest.fail("resampled"))
    problems = Problems()
    if wrong == "before":
        problems.add("batch_size", "0")
    longest = 1.0 if wrong == "here" else 60.0
    data = bytes(4 * 96000)
    assert decode_pcm(data, encoding=PCM_FLOAT32, sample_rate=48000, max_seconds=longest, problems=problems) is None


@pytest.mark.parametrize("rate", RATES)
def test_resampling_is_soxrs(rate: int) -> None:
    sound = (np.random.default_rng(5).standard_normal(rate) * 0.2).astype(np.float32)
    expected = librosa.resample(sound, orig_sr=rate, target_sr=16000, res_type="soxr_hq")
    np.testing.assert_allclose(decoded(sound.tobytes(), rate=rate), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("hertz", [100.0, 1234.5, 3300.0])
def test_a_tone_stays_where_and_what_it_is(rate: int, hertz: float) -> None:
    tone = (0.5 * np.sin(2 * np.pi * hertz * np.arange(2 * rate) / rate)).astype(np.float32)
    expected = 0.5 * np.sin(2 * np.pi * hertz * np.arange(32000) / 16000)
    heard = decoded(tone.tobytes(), rate=rate)
    assert len(heard) == 32000
    np.testing.assert_allclose(heard[2000:-2000], expected[2000:-2000], atol=2e-5)


@pytest.mark.parametrize("rate", RATES)
def test_a_click_stays_at_its_place(rate: int) -> None:
    for frame in (3, 10, 24):
        sound = np.zeros(rate, np.float32)
        sound[round(frame * rate / 25)] = 1
        heard = decoded(sound.tobytes(), rate=rate)
        assert abs(int(np.abs(heard).argmax()) - 640 * frame) <= 1
        loudness = SoundLine.in_silence(heard, start=0).columns(0, 81).sum(axis=1)
        # 640 frame / 200 is the column of the click: the loudest is the one whose centre is nearest.
        assert int(loudness.argmax()) == round(3.2 * frame)


@pytest.mark.parametrize("rate", [8001, 15999, 44099, 191999])
def test_odd_rates_keep_length_and_tone(rate: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    heard = decoded(tone.tobytes(), rate=rate)
    assert abs(len(heard) - 16000) <= 1
    np.testing.assert_allclose(heard[1000:15000], np.sin(2 * np.pi * 440 * np.arange(1000, 15000) / 16000), atol=2e-5)


@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_the_loudest_float32_stays_finite(rate: int) -> None:
    loud = np.random.default_rng(6).choice([-1, 1], rate).astype(np.float32) * np.finfo(np.float32).max
    heard = decoded(loud.tobytes(), rate=rate)
    assert np.isfinite(heard).all()
    assert np.isfinite(SoundLine.in_silence(heard, start=0).columns(0, 81)).all()


@pytest.mark.parametrize("rate", [8000, 44100, 192000])
@pytest.mark.parametrize("samples", [1, 2, 7])
def test_the_shortest_sound_is_no_error(rate: int, samples: int) -> None:
    heard = decoded(np.ones(samples, "<f4").tobytes(), rate=rate)
    assert len(heard) <= 2 * samples
    assert np.isfinite(SoundLine.in_silence(heard, start=0).columns(-5, 10)).all()


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 192000])
def test_a_piece_of_resampled_sound_nearly_agrees_with_the_whole(rate: int, speech: NDArray[np.float32]) -> None:
    whole = librosa.resample(speech, orig_sr=16000, target_sr=rate)
    first, last = 20, 60  # frames; ten before them and six after are sent along
    piece = whole[(first - 10) * rate // 25 : (last + 6) * rate // 25]
    expected = SoundLine.in_silence(decoded(whole.tobytes(), rate=rate), start=0).columns(16 * first // 5, 120)
    got = SoundLine.in_silence(decoded(piece.tobytes(), rate=rate), start=640 * (first - 10)).columns(16 * first // 5, 120)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)  # of a range of 8
