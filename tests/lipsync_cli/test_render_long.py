"""A long recording costs time and no memory, and its film is exact to the end."""

from __future__ import annotations

import os
import wave
from pathlib import Path

import av
import numpy as np
import pytest

RATE = 44_100


def write_recording(path: Path, seconds: int, click_at_frame: int) -> Path:
    """Faint stereo noise, and one click."""
    generator = np.random.default_rng(1)
    click_second, click_sample = divmod(click_at_frame * RATE // 25, RATE)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        for second in range(seconds):
            samples = generator.integers(-100, 100, (RATE, 2)).astype("<i2")
            if second == click_second:
                samples[click_sample : click_sample + 200] = 20_000
            file.writeframes(samples.tobytes())
    return path


@pytest.mark.slow
def test_five_minutes_take_the_memory_of_one(start, film_service, tmp_path):
    peaks = []
    for minutes in (1, 5):
        frames = minutes * 60 * 25
        film, flash = tmp_path / "film.mp4", frames - 30
        film_service.flashes = {flash}
        sound = write_recording(tmp_path / "long.wav", minutes * 60, flash)
        options = {"--avatar": "demo", "--audio": sound, "--out": film, "--server": film_service.target}
        process = start("render", *[part for pair in options.items() for part in pair])
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss)
        check_film(film, frames, flash)
    assert peaks[1] <= 1.1 * peaks[0]


def check_film(film: Path, frames: int, flash: int) -> None:
    """So many pictures, sound of their length, and the flash and the click at the same moment."""
    with av.open(str(film)) as container:
        durations = {stream.type: float(stream.duration * stream.time_base) for stream in container.streams}
        brightness = [frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)]
    assert durations == pytest.approx({"video": frames / 25, "audio": frames / 25}, abs=0.001)
    assert [k for k, value in enumerate(brightness) if value > 128] == [flash]
    with av.open(str(film)) as container:
        sound = np.concatenate([np.abs(frame.to_ndarray()).max(axis=0) for frame in container.decode(audio=0)])
    assert np.flatnonzero(sound > 0.3)[0] / RATE == pytest.approx(flash / 25, abs=0.001)
