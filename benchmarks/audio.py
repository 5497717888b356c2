"""Sound to features on one core: 640 ms, sixteen rows, with the full-size encoder.

Beside ours: the encoder alone, which nobody can avoid, and the straightforward way with librosa.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import librosa
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from avatar_kit.onnx_io import encoder_io
from avatar_tools.networks.audio_encoder import encoder_graph
from avatar_tools.networks.random_weights import random_encoder_weights
from inference_service.engines.devices import find_devices
from inference_service.models.model import ModelLoader
from inference_service.settings import GpuSection, OnnxSection
from lipsync_cli.benching import Figure

RATE = 16_000
ROWS = 16  # 640 ms
ROUNDS = 25
GOAL_MS = 15.0


def run() -> list[Figure]:
    """Milliseconds, each way in turn, over and over. About ten seconds."""
    sound = np.random.default_rng(5).normal(0, 0.1, RATE).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        encoder = Path(folder) / "audio_encoder.onnx"
        encoder.write_bytes(encoder_graph(random_encoder_weights(0)).SerializeToString())
        ways = {
            "640 ms of sound to features": ours(encoder, sound),
            "the encoder alone": encoder_alone(encoder),
            "librosa and the encoder row by row": straightforward(encoder, sound),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()
        for _ in range(ROUNDS):
            for name, way in ways.items():
                started = perf_counter()
                way()
                times[name].append((perf_counter() - started) * 1000)
    return figures(times)


def figures(times: dict[str, list[float]]) -> list[Figure]:
    """The median rounds, and how ours compares with each of the others."""
    ours_name, *others = times
    value = median(times[ours_name])
    made: list[Figure] = [
        {
            "name": f"{ours_name} (quickest round {min(times[ours_name]):.1f})",
            "value": value,
            "unit": "ms",
            "goal": f"<= {GOAL_MS:g} ms",
            "reached": value <= GOAL_MS,
        }
    ]
    for other in others:
        ratio = median(theirs / mine for mine, theirs in zip(times[ours_name], times[other], strict=True))
        made.append({"name": other, "value": median(times[other]), "unit": "ms", "ratio": 1 / ratio, "compared_with": ours_name})
    return made


def ours(encoder: Path, sound: NDArray[np.float32]) -> Callable[[], object]:
    """The service's way, from the middle of a second of sound so that no row lies in silence."""
    device = find_devices(GpuSection(enabled=False), OnnxSection())[0]
    features = ModelLoader(OnnxSection(intra_op_threads=1)).features(encoder, device)
    return lambda: features.rows(sound, first_row=3, row_count=ROWS)


def encoder_alone(encoder: Path) -> Callable[[], object]:
    """The network on sixteen windows that lie ready."""
    session, io = one_thread(encoder), encoder_io(encoder)
    windows = np.random.default_rng(6).uniform(-4, 4, (ROWS, 1, 80, 16)).astype(np.float32)
    return lambda: session.run([io.rows], {io.mel: windows})


def straightforward(encoder: Path, sound: NDArray[np.float32]) -> Callable[[], object]:
    """The spectrum of the same second by librosa, and a run of the network for each row."""
    session, io = one_thread(encoder), encoder_io(encoder)
    basis = librosa.filters.mel(sr=RATE, n_fft=800, n_mels=80, fmin=55, fmax=7600)

    def way() -> list[object]:
        emphasised = np.append(sound[0], sound[1:] - 0.97 * sound[:-1])
        spectrum = np.abs(librosa.stft(emphasised, n_fft=800, hop_length=200, win_length=800, pad_mode="constant"))
        level = 20 * np.log10(np.maximum(1e-5, basis @ spectrum)) - 20
        mel = np.clip(8 * (level + 100) / 100 - 4, -4, 4).astype(np.float32)
        starts = [16 * row // 5 for row in range(3, 3 + ROWS)]
        return [session.run([io.rows], {io.mel: mel[None, None, :, start : start + 16]}) for start in starts]

    return way


def one_thread(encoder: Path) -> onnxruntime.InferenceSession:
    """A session on one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(encoder), sess_options=options, providers=["CPUExecutionProvider"])
