"""The full-size network on the CPU: the service's engine against ONNX Runtime running the exported file as it is.

Random weights; pictures, masks and pixels are part of the engine's work, and not of the plain way's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnxruntime

from avatar_kit.avatar import Avatar
from avatar_kit.onnx_io import network_io
from avatar_tools.benchmark_avatar import build_benchmark
from inference_service.engines.devices import find_devices
from inference_service.engines.engine import NO_PICTURES, EngineInput
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.settings import GpuSection, OnnxSection
from lipsync_cli.benching import Figure

FRAMES = 8
ROUNDS = 9
GOAL_FPS = 25.0


def run() -> list[Figure]:
    """Frames a second, each way in turn, over and over, so that a noisy neighbour hits all alike. About half a minute."""
    with tempfile.TemporaryDirectory() as folder:
        avatar = build_benchmark(Path(folder), frame_count=FRAMES, network="full")
        ways = {"plain ONNX Runtime, batch 1": plain(avatar, 1), "plain ONNX Runtime, batch 8": plain(avatar, 8)}
        ways |= {f"engine, batch {size}": engine(avatar, size) for size in (1, 4, 8)}
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()
        for _ in range(ROUNDS):
            for name, way in ways.items():
                started = perf_counter()
                way()
                rates[name].append(FRAMES / (perf_counter() - started))
    return [figure(name, rates) for name in ways]


def figure(name: str, rates: dict[str, list[float]]) -> Figure:
    """The median round; of the engine also the quickest, which other work on the machine slowed the least."""
    made: Figure = {"name": name, "value": median(rates[name]), "unit": "frames/s"}
    if name.startswith("engine"):
        plain_name = "plain ONNX Runtime, batch 1"
        made["name"] = f"{name} (quickest round {max(rates[name]):.1f})"
        made["ratio"] = median(ours / theirs for ours, theirs in zip(rates[name], rates[plain_name], strict=True))
        made["compared_with"] = plain_name
        made["goal"] = f">= {GOAL_FPS:g} frames/s"
        made["reached"] = made["value"] >= GOAL_FPS
    return made


def engine(avatar: Avatar, batch: int) -> Callable[[], None]:
    """FRAMES frames through the engine as the service sets it up without configuration."""
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
    """FRAMES frames through a session of the file, with ONNX Runtime's own defaults."""
    session = onnxruntime.InferenceSession(str(avatar.network_path), providers=["CPUExecutionProvider"])
    io = network_io(avatar.network_path)
    pictures = np.random.default_rng(1).uniform(0, 1, (batch, 6, 320, 320)).astype(np.float32)
    windows = windows_of(batch).reshape(batch, 32, 16, 16)

    def way() -> None:
        for _ in range(0, FRAMES, batch):
            session.run([io.output], {io.visual: pictures, io.audio: windows})

    return way


def windows_of(frames: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Feature windows [frames, 16, 512] like those of speech: half of them zero."""
    values = np.random.default_rng(2).normal(0, 1, (frames, 16, 512))
    return np.maximum(values, 0).astype(np.float32)
