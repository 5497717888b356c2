"""Films, judged by reading them back."""

from __future__ import annotations

import av
import numpy as np
import pytest

from lipsync_cli.failures import CliError
from lipsync_cli.movie import write_movie
from lipsync_cli.recording import Track


def track(samples: np.ndarray, rate: int) -> Track:
    """[samples, channels], in uneven pieces."""
    return Track((samples[k : k + 777].astype(np.float32) for k in range(0, len(samples), 777)), samples.shape[1], rate)


def silence(seconds: float, *, rate: int = 16000, channels: int = 1) -> Track:
    return track(np.zeros((round(seconds * rate), channels)), rate)


def grey(count: int, *, height: int = 48, width: int = 64) -> list[np.ndarray]:
    return [np.full((height, width, 3), 20 + k % 200, np.uint8) for k in range(count)]


def read_back(path):
    """Pictures as grey means, their times, and the sound [channels, samples] with its first time."""
    with av.open(str(path)) as container:
        video = list(container.decode(video=0))
    with av.open(str(path)) as container:
        audio = list(container.decode(audio=0))
    sound = np.concatenate([frame.to_ndarray() for frame in audio], axis=1)
    brightness = [frame.to_ndarray(format="gray").mean() for frame in video]
    return brightness, [frame.time for frame in video], sound, audio[0].time


def durations(path) -> dict[str, float]:
    with av.open(str(path)) as container:
        return {stream.type: float(stream.duration * stream.time_base) for stream in container.streams}


@pytest.mark.parametrize(
    ("rate", "channels"),
    [(16000, 1), (44100, 2), (48000, 2), (22050, 1), (11025, 1), (37800, 2), (96000, 1), (8000, 2)],
)
@pytest.mark.parametrize("frame_count", [1, 2, 63])
def test_picture_and_sound_are_of_one_length(tmp_path, rate, channels, frame_count):
    """The recording ends a little before the last picture does, as recordings do; the sound is filled up."""
    path = tmp_path / "film.mp4"
    write_movie(path, grey(frame_count), silence(frame_count / 25 - 0.013, rate=rate, channels=channels))
    brightness, times, _, first_sound = read_back(path)
    assert len(brightness) == frame_count
    assert times == pytest.approx([k / 25 for k in range(frame_count)])
    assert first_sound == 0
    assert durations(path) == pytest.approx({"video": frame_count / 25, "audio": frame_count / 25}, abs=0.001)


def test_a_flash_and_a_click_stay_together(tmp_path):
    pictures = grey(100)
    sound = np.zeros((4 * 16000, 1))
    for frame in (30, 77):
        pictures[frame] = np.full((48, 64, 3), 255, np.uint8)
        sound[frame * 640 : frame * 640 + 32] = 0.9
    path = tmp_path / "film.mp4"
    write_movie(path, pictures, track(sound, 16000))
    brightness, times, heard, first_sound = read_back(path)
    seen = [times[k] for k, value in enumerate(brightness) if value > 240]
    loud = np.flatnonzero(np.abs(heard[0]) > 0.3) / 16000 + first_sound
    clicks = [loud[0], loud[loud > 2][0]]
    assert seen == pytest.approx([30 / 25, 77 / 25])
    assert clicks == pytest.approx(seen, abs=0.001)


def test_it_is_what_every_player_and_browser_takes(tmp_path):
    path = tmp_path / "film.mp4"
    write_movie(path, grey(60), silence(2.4))
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt, video.average_rate) == ("h264", "yuv420p", 25)
        assert audio.codec_context.name == "aac"
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat"), "playing can start before all is downloaded"


@pytest.mark.parametrize("colour", [(200, 60, 40), (40, 60, 200), (60, 200, 60), (128, 128, 128), (0, 0, 0), (255, 255, 255)])
def test_colours_survive(tmp_path, colour):
    """The file says how its colours are coded, so a reader that honours it gives them back."""
    path = tmp_path / "film.mp4"
    write_movie(path, [np.full((48, 64, 3), colour, np.uint8)] * 3, silence(0.12))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    np.testing.assert_allclose(frame.to_ndarray(format="bgr24").mean(axis=(0, 1)), colour, atol=4)
    assert frame.colorspace == 1  # BT.709


def test_odd_sizes_lose_their_last_row_and_column(tmp_path):
    path = tmp_path / "film.mp4"
    write_movie(path, grey(3, height=49, width=65), silence(0.12))
    with av.open(str(path)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (64, 48)


def test_stereo_stays_stereo(tmp_path):
    sound = np.zeros((88200, 2))
    sound[:, 1] = 0.5 * np.sin(np.arange(88200) / 20)
    path = tmp_path / "film.mp4"
    write_movie(path, grey(50), track(sound, 44100))
    _, _, heard, _ = read_back(path)
    assert np.abs(heard[0]).max() < 0.01
    assert np.abs(heard[1]).max() == pytest.approx(0.5, abs=0.05)


def test_no_pictures_are_an_error(tmp_path):
    with pytest.raises(CliError, match="no pictures"):
        write_movie(tmp_path / "film.mp4", [], silence(1))


def test_a_picture_of_another_size_is_an_error(tmp_path):
    with pytest.raises(CliError, match="frame 2 is 64x50, frame 0 was 64x48"):
        write_movie(tmp_path / "film.mp4", [*grey(2), *grey(1, height=50)], silence(1))
