"""`lipsync talk` and `lipsync sessions` against real services."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from lipsync_cli.main import app
from lipsync_client import Client, Frame, LipsyncError

from .conftest import Duo
from .processes import TREE, until

RATE = 16_000


def beeps(seconds: float = 1.5, *, rate: int = RATE, channels: int = 1) -> bytes:
    """A WAV file: silence, and a tone in its last half second."""
    time = np.arange(int(seconds * rate)) / rate
    tone = np.where(time > seconds - 0.5, np.sin(2 * np.pi * 440 * time), 0) * 15_000
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(np.repeat(tone.astype("<i2"), channels).tobytes())
    return file.getvalue()


def run(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lipsync_cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=TREE, input=stdin, capture_output=True, timeout=120, check=False)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def film_of(path: Path) -> tuple[int, np.ndarray]:
    """The number of pictures of a film, and its sound."""
    with av.open(str(path)) as container:
        pictures = sum(1 for _ in container.decode(video=0))
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)[0]
    return pictures, sound


@pytest.mark.parametrize(("channels", "output"), [(1, "jpeg"), (2, "h264")])
def test_a_film_has_every_frame_beside_its_own_sound(duo: Duo, tmp_path: Path, channels: int, output: str) -> None:
    recording, film = tmp_path / "a.wav", tmp_path / "films" / "a.mp4"
    recording.write_bytes(beeps(channels=channels, rate=22_050))
    server = "--server", duo.compositing.address
    done = run("talk", "--avatar", "small", "--audio", recording, *server, "--out", film, "--output", output)
    assert done.returncode == 0, done.stderr
    figures = dict(line.split(None, 1) for line in done.stdout.splitlines() if line.startswith(("  late", "  stalls", "  drift")))
    assert set(figures) == {"late", "stalls", "drift"}
    assert "38 of speech in 1 segments" in done.stdout
    pictures, sound = film_of(film)
    assert 0 <= len(sound) - 640 * pictures < 2048  # AAC comes in packets of 1024
    idle = pictures - 38  # before the speech
    assert idle >= 0
    assert np.flatnonzero(np.abs(sound) > 0.2)[0] / RATE == pytest.approx(idle / 25 + 1.0, abs=0.01)
    assert [path.name for path in film.parent.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("form", ["wav", "stereo", "48 kHz", "raw", "raw at 8 kHz"])
def test_standard_input_is_wav_or_raw(duo: Duo, form: str) -> None:
    rate = {"48 kHz": 48_000, "raw at 8 kHz": 8_000}.get(form, RATE)
    data = beeps(0.6, rate=rate, channels=2 if form == "stereo" else 1)
    if form.startswith("raw"):
        data = data[44:] + b"\x01"  # and half a sample
    done = run("talk", "--avatar", "small", "--audio", "-", "--rate", rate, "--server", duo.compositing.address, stdin=data)
    assert done.returncode == 0, done.stderr
    assert "15 of speech in 1 segments" in done.stdout


@pytest.mark.parametrize(
    ("audio", "stdin", "words"),
    [
        ("mic", b"", "pip install sounddevice"),
        ("nowhere.wav", b"", "nowhere.wav"),
        ("-", b"RIFF and nothing of the kind", "WAV header"),
        ("-", b"RIFF", "WAV header on standard input cannot be read: it ends too early"),
        ("-", b"", "standard input is empty"),
    ],
)
def test_sound_that_cannot_be_had(duo: Duo, tmp_path: Path, audio: str, stdin: bytes, words: str) -> None:
    film = tmp_path / "a.mp4"
    done = run("talk", "--avatar", "small", "--audio", audio, "--server", duo.compositing.address, "--out", film, stdin=stdin)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


MICROPHONE = """
import threading, time
import numpy as np

class PortAudioError(Exception):
    pass

class InputStream:
    def __init__(self, *, samplerate, blocksize, channels, dtype, callback):
        self.of = np.zeros((blocksize, channels), dtype), blocksize, None, None
        self.callback, self.pause, self.open = callback, blocksize / samplerate, threading.Event()
        self.thread = threading.Thread(target=self.hear)
    def hear(self):
        while not self.open.wait(self.pause):
            self.callback(*self.of)
    def __enter__(self):
        self.thread.start()
        return self
    def __exit__(self, *_):
        self.open.set()
        self.thread.join()
"""


def test_ctrl_c_ends_the_sound_of_a_microphone_and_keeps_the_film(duo: Duo, tmp_path: Path) -> None:
    """There is no microphone here: a module takes the place of the library, and hears silence."""
    (tmp_path / "sounddevice.py").write_text(MICROPHONE)
    film = tmp_path / "films" / "a.mp4"
    options = ["--audio", "mic", "--server", duo.compositing.address, "--out", film, "--session-id", "at-the-microphone"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lipsync_cli", "talk", "--avatar", "small", *map(str, options)],
        cwd=TREE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with Client(duo.compositing.address) as client:
            until(lambda: any(each.id == "at-the-microphone" and each.speech_ms > 500 for each in client.list_sessions()))
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, errors
    assert "of speech in 1 segments" in output
    pictures, sound = film_of(film)
    assert pictures > 12
    assert 0 <= len(sound) - 640 * pictures < 2048  # AAC comes in packets of 1024


def test_an_avatar_that_is_not_there(duo: Duo, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(beeps())
    film = tmp_path / "a.mp4"
    done = run("talk", "--avatar", "nobody", "--audio", tmp_path / "a.wav", "--server", duo.compositing.address, "--out", film)
    assert (done.returncode, done.stdout) == (1, "")
    assert "NOT_FOUND: no avatar has the id 'nobody'; there " in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_sessions_are_listed_and_ended(duo: Duo) -> None:
    def command(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["sessions", *arguments, "--server", duo.compositing.address])
        return result.exit_code, result.output

    ended = threading.Event()
    with Client(duo.compositing.address) as client, client.with_metadata(session_id="talk-1").session("small") as session:
        next(event for event in session if isinstance(event, Frame))

        def read_on() -> None:
            try:
                for _ in session:
                    pass
            except LipsyncError:
                ended.set()

        reader = threading.Thread(target=read_on)
        reader.start()
        code, output = command("list")
        assert code == 0
        (line,) = [line for line in output.splitlines() if "talk-1" in line]
        assert {"small", "idle"} <= set(line.split())
        assert command("end", "talk-1") == (0, "ended talk-1\n")
        reader.join(60)
        assert ended.is_set()
    code, output = command("end", "talk-1")
    assert code == 1
    assert "there is no session 'talk-1'" in output
    assert "talk-1" not in command("list")[1]
