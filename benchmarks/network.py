"""The full-size network on the CPU: the service's engine against ONNX Runtime running the exported file as it is.

The weights are random. The engine also prepares pictures and masks and returns pixels; the plain way does not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime

from avatar_kit.avatar import Avatar
from avatar_kit.onnx_io import network_io
from avatar_tools.benchmark_avatar import build_benchmark
from benchmarks.figures import Figure, figure, in_turn, median_ratio
from inference_service.engines.devices import find_devices
from inference_service.engines.engine import NO_PICTURES, EngineInput
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.settings import GpuSection, OnnxSection

FRAMES = 8
ROUNDS = 9
GOAL_FPS = 25.0


def run() -> list[Figure]:
    """Measures frames a second. About half a minute."""
    plain_1 = "plain ONNX Runtime, batch 1"
    with tempfile.TemporaryDirectory() as folder:
        avatar = build_benchmark(Path(folder), frame_count=FRAMES, network="full")
        plain_ways = {plain_1: plain(avatar, 1), "plain ONNX Runtime, batch 8": plain(avatar, 8)}
        engine_ways = {f"engine, batch {size}": engine(avatar, size) for size in (1, 4, 8)}
        seconds = in_turn(plain_ways | engine_ways, rounds=ROUNDS)
    rates = {name: [FRAMES / each for each in rounds] for name, rounds in seconds.items()}
    figures = [figure(name, median(rates[name]), "frames/s") for name in plain_ways]
    for name in engine_ways:
        # Other work on the machine slowed the quickest round least.
        title, ratio = f"{name} (quickest round {max(rates[name]):.1f})", median_ratio(rates[name], rates[plain_1])
        figures.append(figure(title, median(rates[name]), "frames/s", ratio=ratio, compared_with=plain_1, at_least=GOAL_FPS))
    return figures


def engine(avatar: Avatar, batch: int) -> Callable[[], None]:
    """Runs FRAMES frames through the engine as the service sets it up without configuration."""
    device = find_devices(GpuSection(enabled=False), OnnxSection())[0]
    opened = OnnxEngine(avatar, device, OnnxSection())
    opened.bank.fill()
    windows = windows_of(FRAMES)
    frames = np.arange(FRAMES, dtype=np.int64)

    def way() -> None:
        for start in range(0, FRAMES, batch):
            here = slice(start, start + batch)
            opened.run(EngineInput(windows[here], frames[here], NO_PICTURES, want_float=False, want_uint8=True))

    return way


def plain(avatar: Avatar, batch: int) -> Callable[[], None]:
    """Runs FRAMES frames through a session of the file, with ONNX Runtime's own defaults."""
    session = onnxruntime.InferenceSession(str(avatar.network_path), providers=["CPUExecutionProvider"])
    io = network_io(avatar.network_path)
    pictures = np.random.default_rng(1).uniform(0, 1, (batch, 6, 320, 320)).astype(np.float32)
    windows = windows_of(batch).reshape(batch, 32, 16, 16)

    def way() -> None:
        for _ in range(0, FRAMES, batch):
            session.run([io.output], {io.visual: pictures, io.audio: windows})

    return way


def windows_of(frames: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Makes feature windows [frames, 16, 512] like those of speech: half of the values are zero."""
    values = np.random.default_rng(2).normal(0, 1, (frames, 16, 512))
    return np.maximum(values, 0).astype(np.float32)
