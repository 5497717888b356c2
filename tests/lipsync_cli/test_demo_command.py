"""`lipsync demo` as a person runs it: real avatar, two real services, a film; and no process left, however it ends."""

from __future__ import annotations

import signal
import time

import av
import cv2
import numpy as np
import psutil
import pytest

from avatar_kit.geometry import Rect
from avatar_tools.demo import SPEECH_PATH, build_demo
from lipsync_cli.demo import face_of
from lipsync_cli.recording import read_recording

WAIT_S = 120


@pytest.fixture(scope="module")
def models_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    build_demo(root)
    return root


def services_of(models_root) -> list[psutil.Process]:
    """Processes that serve this folder; no other test's."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "serve" in (process.info["cmdline"] or []) and f"models_root={models_root}" in process.info["cmdline"]
    ]


@pytest.mark.slow
def test_from_nothing_to_a_film(start, tmp_path):
    models_root = tmp_path / "models"
    process = start("demo", "--out-dir", "out", "--models-root", models_root)
    output, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, errors
    for words in ("build the avatar", "start both services", "first frame", "total", "frames/s"):
        assert words in output
    recording = read_recording(SPEECH_PATH)
    frames = -(-recording.sample_count * 25 // recording.rate_hz)
    with av.open(str(tmp_path / "out" / "demo.mp4")) as container:
        pictures = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    with av.open(str(tmp_path / "out" / "demo.mp4")) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)[0]
    assert len(pictures) == frames
    assert pictures[0].shape == (720, 1280, 3)
    wanted = recording.speech()
    assert np.corrcoef(sound[: wanted.size], wanted)[0, 1] > 0.99, "the film carries the speech, in its place"
    strip = cv2.imread(str(tmp_path / "out" / "demo.png"))
    assert strip.shape[1] > 1500
    assert services_of(models_root) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)], ids=["Ctrl-C", "SIGTERM", "kill -9"]
)
def test_no_service_is_left_when_it_is_stopped(start, models_root, sent, code):
    process = start("demo", "--models-root", models_root)
    deadline = time.monotonic() + WAIT_S
    while len(running := services_of(models_root)) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == code
    assert "Traceback" not in errors
    gone, left = psutil.wait_procs(running, timeout=WAIT_S)
    assert len(gone) == 2, left


@pytest.mark.slow
def test_a_service_that_does_not_start_shows_why(start, models_root):
    """The environment reaches the services: a setting that cannot be stands for whatever keeps one from starting."""
    process = start("demo", "--models-root", models_root, environment={"LIPSYNC_SERVER__GRACE_SECONDS": "never"})
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "the inference service ended while it started" in errors
    assert "server.grace_seconds" in errors
    assert "Traceback" not in errors
    assert services_of(models_root) == []


class Still:
    """As much of an avatar as its face needs."""

    width, height = 1280, 720

    def __init__(self, *rects: Rect) -> None:
        self.rects = rects


def test_the_face_is_around_all_rectangles_and_inside_the_picture():
    x1, y1, x2, y2 = face_of(Still(Rect(550, 300, 730, 480), Rect(560, 310, 740, 490)))
    assert x1 < 550
    assert y1 < 300 - 150, "with the eyes"
    assert x2 > 740
    assert y2 > 490
    assert face_of(Still(Rect(0, 0, 1280, 720))) == (0, 0, 1280, 720)
