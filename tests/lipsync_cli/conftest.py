"""A compositing server that draws its own pictures, and ways to run the command line in this process and in others."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
from typer.testing import CliRunner

from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceServicer, add_CompositingServiceServicer_to_server

from ..grpc_servers import serving
from ..inference_service.conftest import make_avatar  # noqa: F401 - a fixture

TREE = Path(__file__).resolve().parents[2]


@dataclass
class FilmService(CompositingServiceServicer):
    """Dark pictures, a white one at each position of `flashes`; position `breaks_at` fails, "none" and "demoo" are unknown."""

    size: tuple[int, int] = (96, 64)
    clip_frames: int = 27
    flashes: set[int] = field(default_factory=set)
    breaks_at: int | None = None
    hangs: bool = False
    reached: threading.Event = field(default_factory=threading.Event)
    requests: list[pb.CompositeBatchRequest] = field(default_factory=list)
    target: str = ""

    def InferBatchComposite(self, request, context):
        self.requests.append(request)
        self.reached.set()
        if self.hangs:
            gone = threading.Event()
            if context.add_callback(gone.set):
                gone.wait(60)
        if request.model_id in ("none", "demoo"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"no avatar has the id {request.model_id!r}")
        positions = range(request.start_frame_idx, request.start_frame_idx + request.batch_size)
        if self.breaks_at in positions:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"frame {self.breaks_at} is missing")
        frames = [self.picture(position) for position in positions]
        return pb.CompositeBatchResponse(
            success=True, composited_frames=frames, inference_time_ms=3.0, composite_time_ms=2.0, audio_processing_ms=1.0
        )

    def ListModels(self, request, context):
        torn = pb.ModelInfo(model_id="torn", error="frame 3 is missing")
        demo = pb.ModelInfo(model_id="demo", frame_count=self.clip_frames)
        return pb.ListModelsResponse(models=[torn, demo, pb.ModelInfo(model_id="old")])

    def picture(self, position: int) -> bytes:
        width, height = self.size
        brightness = 255 if position in self.flashes else 20
        return cv2.imencode(".jpg", np.full((height, width, 3), brightness, np.uint8))[1].tobytes()


@pytest.fixture
def film_service() -> Iterator[FilmService]:
    """A running one; `target` is its address."""
    service = FilmService()
    with serving(add_CompositingServiceServicer_to_server, service) as service.target:
        yield service


@pytest.fixture
def run() -> Callable[..., object]:
    """Runs a command in this process: `.exit_code`, `.stdout`, `.stderr`."""
    from lipsync_cli.main import app

    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `lipsync ...` as a process of its own in an empty folder; kills what a test leaves running."""
    started = []

    def begin(
        *arguments: object,
        command: Sequence[str] = (sys.executable, "-m", "lipsync_cli"),
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(TREE), **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A 16 kHz mono WAV of 2.5 s with a click at 1.6 s."""
    samples = np.zeros(40_000, np.int16)
    samples[25_600:25_680] = 20_000
    return write_wav(tmp_path / "speech.wav", samples[None], 16_000)


def write_wav(path: Path, samples: np.ndarray, rate: int) -> Path:
    """int16 [channels, samples] as a WAV file, by the standard library."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.ascontiguousarray(samples.T, "<i2").tobytes())
    return path


@pytest.fixture
def wav() -> Callable[[Path, np.ndarray, int], Path]:
    return write_wav
