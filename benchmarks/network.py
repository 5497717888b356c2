"""The full-size network on the CPU: the service's engines against ONNX Runtime running the exported file as it is.

The weights are random. The engines also prepare pictures and masks and return pixels; the plain way does not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.onnx_io import network_io
from avatar_tools.benchmark_avatar import build_benchmark
from benchmarks.figures import Figure, figure, in_turn, median_ratio
from inference_service.engines.devices import Device, find_devices
from inference_service.engines.engine import NO_PICTURES, Engine, EngineInput
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.engines.openvino import OpenVinoEngine
from inference_service.engines.openvino_models import Precision, is_installed, processor_has_bfloat16
from inference_service.models.choosing import IN_FLOAT32, EngineChoice
from inference_service.models.model import LoadedModel, ModelLoader
from inference_service.models.opening import LEAST_PSNR_DB
from inference_service.settings import GpuSection, OnnxSection

FRAMES = 8
ROUNDS = 9
GOAL_FPS = 25.0
BFLOAT16_FPS, BFLOAT16_RATIO = 50.0, 2.3
LOADS = 3


def run() -> list[Figure]:
    """Measures frames a second, then loads. About a minute."""
    device = find_devices(GpuSection(enabled=False), OnnxSection())[0]
    precisions: list[Precision] = ["float32", "bfloat16"] if processor_has_bfloat16() else ["float32"]
    plain_1 = "plain ONNX Runtime, batch 1"
    with tempfile.TemporaryDirectory() as folder:
        avatar = build_benchmark(Path(folder), frame_count=FRAMES, network="full")
        ways = {plain_1: plain(avatar, 1), "plain ONNX Runtime, batch 8": plain(avatar, 8)}
        engines: dict[str, Engine] = {"ONNX Runtime, float32": OnnxEngine(avatar, device, OnnxSection())}
        for precision in precisions if is_installed() else []:
            engines[f"OpenVINO, {precision}"] = OpenVinoEngine(avatar, device, OnnxSection(), precision=precision)
        for name, opened in engines.items():
            ways |= {f"{name}, batch {size}": engine(opened, size) for size in (1, 4)}
        seconds = in_turn(ways, rounds=ROUNDS)
        del ways, engines, opened
        choices = [IN_FLOAT32, EngineChoice(bfloat16=True)][: len(precisions)] if is_installed() else [IN_FLOAT32]
        loads = [load for choice in choices for load in loading(avatar, Path(folder), device, choice)]
    rates = {name: [FRAMES / each for each in rounds] for name, rounds in seconds.items()}
    figures = []
    for name, rounds in rates.items():
        # Other work on the machine slowed the quickest round least.
        title, ratio = f"{name} (quickest round {max(rounds):.1f})", median_ratio(rounds, rates[plain_1])
        goal = {"at_least": GOAL_FPS} if name == "ONNX Runtime, float32, batch 1" else {}
        if "bfloat16" in name:
            goal = {"ratio_at_least": BFLOAT16_RATIO} if name.endswith("1") else {"at_least": BFLOAT16_FPS}
        compared = {} if name.startswith("plain") else {"ratio": ratio, "compared_with": plain_1}
        figures.append(figure(title, median(rounds), "frames/s", **compared, **goal))  # type: ignore[arg-type]  # of each kind
    return figures + loads


def loading(avatar: Avatar, root: Path, device: Device, choice: EngineChoice) -> list[Figure]:
    """Loads the avatar as the service does, with that choice: its time, memory, and how close bfloat16 comes."""
    encoder, models = AvatarCatalog(root).audio_encoder_path(avatar), list[LoadedModel]()
    for _ in range(LOADS):
        models.clear()
        models.append(ModelLoader(OnnxSection(), choice=choice).load(avatar, encoder, [device]))
    model = models[0]
    name = choice.numerics.partition("/")[2]
    figures = [
        figure(f"load, {name}", model.load_seconds, "s"),
        figure(f"memory of an avatar, {name}", model.network_bytes / 1e6, "MB"),
    ]
    if model.psnr_db is not None:
        figures.append(
            figure("mouths in bfloat16, from those in float32", model.psnr_db, "dB", at_least=LEAST_PSNR_DB["bfloat16"])
        )
    return figures


def engine(opened: Engine, batch: int) -> Callable[[], None]:
    """Runs FRAMES frames through an engine."""
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
