"""More work than the machine can do in time is slow, and does not fail: many clips at once, and the full-size network."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_tools.benchmark_avatar import build_benchmark
from avatar_tools.demo import SPEECH_PATH, build_demo
from lipsync_cli.recording import read_recording
from lipsync_client import Client, Output
from shared_proto.timing import SAMPLE_RATE_HZ, SAMPLES_A_FRAME

from .conftest import PATIENT, serving
from .processes import TREE

CALLERS = 30
FRAMES = 26  # three requests: of 4, 8 and 14 frames while replies are prompt; more of them would tell no more
RENDER_S = 900


def beginning() -> NDArray[np.float32]:
    """Sound of FRAMES frames, of the shipped recording."""
    return read_recording(SPEECH_PATH).speech()[: FRAMES * SAMPLES_A_FRAME]


@pytest.mark.slow
def test_thirty_clips_at_once(tmp_path: Path) -> None:
    root = tmp_path / "models"
    demo = build_demo(root)
    speech = beginning()

    def clip(_: int) -> tuple[int, str]:
        frames, digest = 0, hashlib.sha256()
        with Client(both.compositing.address) as client:
            for frame in client.frames(demo.id, speech):
                frames += 1
                digest.update(frame)
        return frames, digest.hexdigest()

    with serving(root, tmp_path) as both, ThreadPoolExecutor(CALLERS) as callers:
        alone = clip(0)
        assert alone[0] == FRAMES
        assert list(callers.map(clip, range(CALLERS))) == [alone] * CALLERS, "the same bytes, however they were batched"


@pytest.mark.slow
def test_two_films_at_once_with_the_full_size_network(tmp_path: Path) -> None:
    root = tmp_path / "models"
    avatar = build_benchmark(root, frame_count=10, network="full")
    sound = tmp_path / "sound.wav"
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes((beginning() * 32767).astype("<i2").tobytes())
    with serving(root, tmp_path, compositing=[PATIENT]) as both:  # other tests want the cores too
        films = [tmp_path / f"{name}.mp4" for name in ("one", "other")]
        renders = [subprocess.Popen(render_command(avatar, sound, film, both.compositing.address), cwd=TREE) for film in films]
        assert [render.wait(RENDER_S) for render in renders] == [0, 0]
    for film in films:
        with av.open(str(film)) as container:
            assert sum(1 for _ in container.decode(video=0)) == FRAMES


def render_command(avatar: Avatar, sound: Path, film: Path, address: str) -> list[str]:
    options = {"--avatar": avatar.id, "--audio": str(sound), "--out": str(film), "--server": address}
    return [sys.executable, "-m", "lipsync_cli", "render", *[part for option in options.items() for part in option]]


@pytest.mark.parametrize("output", ["raw", "jpeg"])
def test_frames_of_which_a_reply_holds_few(models_root: Path, tmp_path: Path, output: Output) -> None:
    """Two raw frames of 416x304 fit one MiB; the first request of four is asked for again in parts, as the server says."""
    sound = np.random.default_rng(1).normal(0, 0.1, 640 * 60).astype(np.float32)
    small = ["server.max_message_size_mb=1"]
    with serving(models_root, tmp_path, compositing=small) as both, Client(both.compositing.address) as client:
        batches = list(client.batches("small", sound, output=output, quality=100))
        frames = [frame for batch in batches for frame in batch.frames]
        one_by_one = list(client.frames("small", sound, output=output, quality=100, batch_size=1))
    assert len(frames) == 60
    assert frames == one_by_one
    if output == "raw":
        assert {len(batch.frames) for batch in batches} == {2}
