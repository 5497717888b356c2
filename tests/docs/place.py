"""A folder like a checkout in which `make demo` has run, with both services before small avatars that cost nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from avatar_kit.geometry import Rect
from avatar_kit.writer import AvatarWriter
from avatar_tools.networks.free import free_encoder, free_network
from lipsync_cli.processes import ServiceProcess, serve_command

from .pages import TREE

WIDTH, HEIGHT = 1280, 720  # as the example of writing an avatar has it
RUN_S = 60


@dataclass(frozen=True)
class Place:
    """A folder like a checkout of the repository in which `make demo` has run, and where its services listen."""

    folder: Path
    inference: str
    compositing: str

    def adapted(self, text: str) -> str:
        return text.replace("localhost:50051", self.inference).replace("localhost:50052", self.compositing)

    def run(self, example: str) -> str:
        """Output of an example in Python."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", self.adapted(example)],
            cwd=self.folder, capture_output=True, text=True, timeout=RUN_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


def write_demo(models: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (9, 16, 3), np.uint8)
    picture = cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    with AvatarWriter(models, "demo", width=WIDTH, height=HEIGHT) as writer:
        for index in range(26):
            writer.add_frame(cv2.imencode(".jpg", picture)[1].tobytes(), Rect(560 + index, 300, 740 + index, 480))
        mouths = np.random.default_rng(2).integers(0, 255, (2, 320, 320, 3), np.uint8)
        writer.set_network(free_network(mouths).SerializeToString())
        writer.finish()
    (models / "audio_encoder.onnx").write_bytes(free_encoder().SerializeToString())


def write_earlier_layout(models: Path) -> None:
    """An avatar as the earlier servers had it."""
    old = models / "sanders"
    (old / "checkpoint").mkdir(parents=True)
    (old / "checkpoint" / "model_best.onnx").write_bytes((models / "demo" / "network.onnx").read_bytes())
    (old / "crop_rects.json").write_bytes((models / "demo" / "crop_rects.json").read_bytes())
    (old / "frames").mkdir()
    for picture in (models / "demo" / "frames").iterdir():
        (old / "frames" / picture.name).write_bytes(picture.read_bytes())


@contextmanager
def serving(folder: Path) -> Iterator[Place]:
    """Writes the folder and serves it until the block is left."""
    (folder / "out").mkdir()
    speech = Path("avatar_tools", "demo", "speech", "speech.wav")
    (folder / speech).parent.mkdir(parents=True)
    (folder / speech).write_bytes((TREE / speech).read_bytes())
    write_demo(folder / "models")
    write_earlier_layout(folder / "models")
    common = [f"models_root={folder / 'models'}", "server.port=127.0.0.1:0", "metrics.port=127.0.0.1:0"]
    with ServiceProcess(
        "inference", serve_command("inference", [*common, "limits.admit_sessions=all"]), log=folder / "inference.log"
    ) as first:
        inference = first.wait_ready()
        command = serve_command("compositing", [*common, f"inference_server.url={inference}"])
        with ServiceProcess("compositing", command, log=folder / "compositing.log") as second:
            yield Place(folder, inference, second.wait_ready())
