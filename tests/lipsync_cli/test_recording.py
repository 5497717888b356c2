"""Reading sound: any container and codec, any rate and number of channels, and what is no sound at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import soxr

from lipsync_cli.failures import CliError
from lipsync_cli.mixing import Levels
from lipsync_cli.recording import opened_recording, read_recording


def tone(seconds: float, rate: int, hz: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def encode(path, codec: str, samples: np.ndarray, rate: int, container_name: str | None = None) -> None:
    """float [channels, samples] through FFmpeg's encoder `codec`."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[0]]
    with av.open(str(path), "w", format=container_name) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def film_sound(recording) -> np.ndarray:
    """[channels, samples] of the film's track."""
    return np.concatenate(list(recording.track().pieces)).T


def test_wav_is_read_exactly(tmp_path, wav):
    samples = np.random.default_rng(1).integers(-32768, 32767, (2, 12_345)).astype(np.int16)
    recording = read_recording(wav(tmp_path / "a.wav", samples, 16000))
    assert recording.rate_hz == 16000
    np.testing.assert_array_equal(film_sound(recording), samples.astype(np.float32) / 32768)
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
    assert gain == pytest.approx(loudness, abs=0.05), "in phase with the tone: neither late nor early"
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
    assert np.abs(film_sound(recording)[0, -20_000:-5000]).max() > 0.4


def test_a_file_that_was_cut_off_gives_what_is_there(tmp_path, wav):
    whole = wav(tmp_path / "whole.wav", np.ones((1, 32_000), np.int16), 16000).read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    assert read_recording(tmp_path / "cut.wav").seconds == pytest.approx(1, abs=0.01)


def joined(path, *parts) -> None:
    """One stream after the other in one file, as recorders and careless joining leave them."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))


@pytest.mark.parametrize("codec", [("aac", "adts"), ("libmp3lame", "mp3")], ids=lambda codec: codec[1])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((44100, 2), (24000, 2)),
        ((24000, 1), (44100, 1)),
        ((44100, 2), (44100, 1)),
        ((44100, 1), (44100, 2)),
        ((32000, 1), (48000, 2)),
    ],
    ids=str,
)
def test_a_rate_or_channels_that_change_midway(tmp_path, codec, first, second):
    """A second and a half of one tone in one way, and of another in the other: each stays as long and as high as it was."""
    encoder, container = codec
    for name, hz, (rate, channels) in (("one", 440, first), ("other", 1000, second)):
        encode(tmp_path / name, encoder, np.repeat(0.5 * tone(1.5, rate, hz)[None], channels, axis=0), rate, container)
    joined(tmp_path / f"a.{container}", tmp_path / "one", tmp_path / "other")
    recording = read_recording(tmp_path / f"a.{container}")
    assert recording.seconds == pytest.approx(3, abs=0.15), "encoders add a little silence at either end"
    assert recording.rate_hz in (first[0], second[0])
    assert recording.channels == max(first[1], second[1])
    speech, sound = recording.speech(), film_sound(recording)
    assert speech.size == recording.speech_samples
    assert sound.shape == (recording.channels, recording.sample_count)
    for rate, samples in ((16000, speech), *((recording.rate_hz, channel) for channel in sound)):
        assert pitch(samples[round(0.3 * rate) : round(1.2 * rate)], rate) == pytest.approx(440, abs=3)
        assert pitch(samples[round(1.9 * rate) : round(2.8 * rate)], rate) == pytest.approx(1000, abs=3)


def pitch(samples: np.ndarray, rate: int) -> float:
    """The strongest frequency in Hz."""
    return float(np.abs(np.fft.rfft(samples * np.hanning(samples.size))).argmax() * rate / samples.size)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 8, 12])
def test_a_voice_in_any_one_channel_is_heard(tmp_path, wav, count):
    """And not diluted where the other channels of more than two are empty; all together they do not clip."""
    voice = np.round(20_000 * tone(1, 16000)).astype(np.int16)
    for channel in range(count):
        samples = np.zeros((count, 16000), np.int16)
        samples[channel] = voice
        recording = read_recording(wav(tmp_path / "a.wav", samples, 16000))
        share = 0.5 if count == 2 else 1.0
        np.testing.assert_allclose(recording.speech(), share * voice / 32768, atol=1e-4)
        assert np.abs(film_sound(recording)).max() == pytest.approx(20_000 / 32768, abs=0.01)
    everywhere = read_recording(
        wav(tmp_path / "all.wav", np.repeat(32767 * tone(1, 16000)[None], count, axis=0).astype(np.int16), 16000)
    )
    assert np.abs(everywhere.speech()).max() <= 1
    assert np.abs(film_sound(everywhere)).max() <= 1.0001
    assert everywhere.warnings == ()


@pytest.mark.parametrize(
    ("name", "sides"), [("FL", (1, 0)), ("FR", (0, 1)), ("FC", (1, 1)), ("LFE", (1, 1)), ("SL", (1, 0)), ("SR", (0, 1))]
)
def test_named_channels_stay_on_their_side(name, sides):
    levels = Levels(("FL", "FR", "FC", "LFE", "SL", "SR"))
    samples = np.zeros((100, 6), np.float32)
    samples[:, levels.channels.index(name)] = 0.5
    levels.add(samples)
    np.testing.assert_allclose(0.5 * np.array(sides), (samples @ levels.stereo_weights())[0], atol=1e-6)


@pytest.mark.parametrize(("codec", "name"), [("libopus", "a.mka"), ("flac", "a.flac"), ("pcm_f32le", "a.wav")])
def test_seven_point_one(tmp_path, codec, name):
    """Eight planes of samples are more than PyAV reads by itself."""
    samples = np.zeros((48000, 8), np.float32)
    samples[:, 5] = 0.5 * tone(1, 48000)
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=48000, layout="7.1")
        packed = "flt" if codec != "flac" else "s16"
        data = samples if packed == "flt" else np.round(samples * 32767).astype(np.int16)
        stream.codec_context.format = packed
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(data.reshape(1, -1)), format=packed, layout="7.1")
        frame.sample_rate, frame.pts = 48000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    speech = read_recording(tmp_path / name).speech()
    assert np.sqrt(np.mean(speech[4000:12_000] ** 2)) == pytest.approx(0.5 / np.sqrt(2), abs=0.03)


def test_channels_that_cancel_each_other_out_are_warned_of(tmp_path, wav):
    voice = np.round(20_000 * tone(1, 44100)).astype(np.int16)
    inverted = read_recording(wav(tmp_path / "inverted.wav", np.stack([voice, -voice]), 44100))
    [warning] = inverted.warnings
    assert "inverted.wav: its channels cancel each other out" in warning
    assert read_recording(wav(tmp_path / "one.wav", np.stack([voice, 0 * voice]), 44100)).warnings == ()
    assert read_recording(wav(tmp_path / "none.wav", np.zeros((2, 44100), np.int16), 44100)).warnings == ()
    noise = np.random.default_rng(1).integers(-9000, 9000, (2, 44100)).astype(np.int16)
    assert read_recording(wav(tmp_path / "noise.wav", noise, 44100)).warnings == ()


@pytest.mark.parametrize(("peak", "warned"), [(0.9, False), (1.5, False), (3.0, True), (20_000.0, True)])
def test_sound_far_above_full_scale_is_warned_of(tmp_path, peak, warned):
    encode(tmp_path / "a.wav", "pcm_f32le", peak * tone(1, 16000)[None], 16000)
    warnings = read_recording(tmp_path / "a.wav").warnings
    assert [f"{peak:.3g} times full scale" in warning for warning in warnings] == [True] * warned


@pytest.mark.parametrize(("rate", "channel", "value"), [(44100, 1, np.nan), (16000, 0, np.inf), (48000, 1, -np.inf)])
def test_a_sample_that_is_no_number_is_told_by_its_place_in_the_file(tmp_path, rate, channel, value):
    samples = np.zeros((2, 5 * rate), np.float32)
    samples[channel, 4 * rate + 7] = value
    encode(tmp_path / "a.wav", "pcm_f32le", samples, rate)
    place = rf"sample at 4\.000\d s of channel {channel + 1} \(number {4 * rate + 7}\) is {value}"
    with pytest.raises(CliError, match=place):
        read_recording(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["2024-05-01T12:30:00.wav", "http:a.wav", "concat:a.wav", "./a:b.wav"])
def test_a_colon_in_a_relative_name_is_no_protocol(tmp_path, monkeypatch, wav, name):
    wav(tmp_path / name, np.ones((1, 16000), np.int16), 16000)
    monkeypatch.chdir(tmp_path)
    assert read_recording(Path(name)).seconds == 1


def test_a_pipe_is_read(tmp_path, wav):
    data = wav(tmp_path / "a.wav", np.arange(16000, dtype=np.int16)[None], 16000).read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    with opened_recording(pipe) as recording:
        np.testing.assert_array_equal(recording.speech(), np.arange(16000, dtype=np.float32) / 32768)
    writer.join()
