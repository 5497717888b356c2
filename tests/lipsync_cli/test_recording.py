"""Reading sound: any container and codec, any rate and number of channels, and what is no sound at all."""

from __future__ import annotations

import av
import numpy as np
import pytest
import soxr

from lipsync_cli.failures import CliError
from lipsync_cli.recording import read_recording


def tone(seconds: float, rate: int, hz: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def encode(path, codec: str, samples: np.ndarray, rate: int) -> None:
    """float [channels, samples] through FFmpeg's encoder `codec`."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[0]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_wav_is_read_exactly(tmp_path, wav):
    samples = np.random.default_rng(1).integers(-32768, 32767, (2, 12_345)).astype(np.int16)
    recording = read_recording(wav(tmp_path / "a.wav", samples, 16000))
    assert recording.rate_hz == 16000
    np.testing.assert_array_equal(recording.samples, samples.astype(np.float32) / 32768)
    np.testing.assert_allclose(recording.speech(), samples.mean(axis=0) / 32768, atol=1e-6)
    assert recording.seconds == 12_345 / 16000


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels"),
    [
        ("a.flac", "flac", 44100, 2),
        ("a.mp3", "libmp3lame", 44100, 2),
        ("a.m4a", "aac", 48000, 1),
        ("a.ogg", "libopus", 48000, 2),
        ("a.wav", "pcm_f32le", 22050, 1),
        ("a.wav", "pcm_u8", 8000, 1),
        ("a.flac", "flac", 48000, 6),
        ("a.mkv", "aac", 32000, 2),
    ],
    ids=str,
)
def test_every_usual_kind_gives_the_same_speech(tmp_path, name, codec, rate, channels):
    """A tone in every channel comes out as that tone at 16 kHz, in its place, at its length."""
    wanted = 0.5 * tone(1.5, rate)
    encode(tmp_path / name, codec, np.repeat(wanted[None], channels, axis=0), rate)
    recording = read_recording(tmp_path / name)
    assert recording.channels == min(channels, 2)
    assert recording.seconds == pytest.approx(1.5, abs=0.06)
    speech = recording.speech()
    assert speech.dtype == np.float32
    middle = slice(4000, 20_000)
    gain = speech[middle] @ (0.5 * tone(1.5, 16000))[middle] / np.sum((0.5 * tone(1.5, 16000))[middle] ** 2)
    loudness = np.sqrt(np.mean(speech[middle] ** 2)) / np.sqrt(1 / 8)
    # 5.1 folds six channels into two with weights of its own; the others keep their level.
    assert gain == pytest.approx(loudness, abs=0.05), "in phase with the tone: neither late nor early"
    if channels <= 2:
        assert gain == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_speech_is_the_mean_resampled_as_the_reference_does(tmp_path, wav, rate):
    samples = np.random.default_rng(2).integers(-20_000, 20_000, (2, rate)).astype(np.int16)
    speech = read_recording(wav(tmp_path / "a.wav", samples, rate)).speech()
    wanted = soxr.resample(samples.mean(axis=0).astype(np.float32) / 32768, rate, 16000, quality="HQ")
    np.testing.assert_allclose(speech, wanted, atol=1e-5)
    assert speech.size == 16000


def test_the_sound_of_a_film_is_read(tmp_path):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for k in range(25):
            picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="bgr24")
            picture.pts = k
            container.mux(video.encode(picture))
        sound = av.AudioFrame.from_ndarray(tone(1, 16000)[None].astype(np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 16000, 0
        container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    assert read_recording(path).seconds == pytest.approx(1, abs=0.07)


def test_a_film_without_sound_says_so(tmp_path):
    path = tmp_path / "mute.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="bgr24")))
        container.mux(video.encode(None))
    with pytest.raises(CliError, match=r"mute\.mp4 has no sound in it"):
        read_recording(path)


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not a sound\n" * 100)


def folder(path):
    path.mkdir()


def absent(path):
    pass


def no_samples(path):
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)


@pytest.mark.parametrize("damage", [empty, text, folder, absent, no_samples], ids=lambda damage: damage.__name__)
def test_what_is_no_sound_is_refused_in_one_sentence(tmp_path, damage):
    path = tmp_path / "bad.wav"
    damage(path)
    with pytest.raises(CliError) as caught:
        read_recording(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damage_in_the_middle_does_not_lose_the_rest(tmp_path):
    path = tmp_path / "a.mp3"
    encode(path, "libmp3lame", 0.5 * tone(4, 44100)[None], 44100)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(range(256)) + bytes(144)
    path.write_bytes(data)
    recording = read_recording(path)
    assert recording.seconds > 3.5
    assert np.abs(recording.samples[0, -20_000:-5000]).max() > 0.4


def test_a_file_that_was_cut_off_gives_what_is_there(tmp_path, wav):
    whole = wav(tmp_path / "whole.wav", np.ones((1, 32_000), np.int16), 16000).read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    assert read_recording(tmp_path / "cut.wav").seconds == pytest.approx(1, abs=0.01)
