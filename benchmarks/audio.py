"""Sound to features on one core: 640 ms, sixteen rows, with the full-size encoder, in float32 and where it can be in bfloat16.

It is compared with the encoder alone, which no way in float32 can avoid, and with the straightforward way by librosa.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import librosa
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from avatar_kit.onnx_io import encoder_io
from avatar_tools.networks.audio_encoder import AUDIO_ENCODER
from avatar_tools.networks.random_weights import random_weights
from benchmarks.figures import Figure, figure, in_turn, median_ratio
from inference_service.engines.devices import find_devices
from inference_service.engines.openvino_models import is_installed, processor_has_bfloat16
from inference_service.models.choosing import IN_FLOAT32, EngineChoice
from inference_service.models.model import ModelLoader
from inference_service.settings import GpuSection, OnnxSection

RATE = 16_000
ROWS = 16  # 640 ms
ROUNDS = 25
GOAL_MS = 25.0
BFLOAT16_MS = 10.0


def run() -> list[Figure]:
    """Measures milliseconds. About ten seconds."""
    sound = np.random.default_rng(5).normal(0, 0.1, RATE).astype(np.float32)
    ours, quick = "640 ms of sound to features", "640 ms of sound to features, bfloat16"
    with tempfile.TemporaryDirectory() as folder:
        encoder = Path(folder) / "audio_encoder.onnx"
        encoder.write_bytes(AUDIO_ENCODER.graph(random_weights(AUDIO_ENCODER, 0)).SerializeToString())
        ways = {
            ours: of_the_service(encoder, sound, IN_FLOAT32),
            "the encoder alone": encoder_alone(encoder),
            "librosa and the encoder row by row": straightforward(encoder, sound),
        }
        if is_installed() and processor_has_bfloat16():
            ways[quick] = of_the_service(encoder, sound, EngineChoice(bfloat16=True, bfloat16_always=True))
        seconds = in_turn(ways, rounds=ROUNDS)
    milliseconds = {name: median(rounds) * 1000 for name, rounds in seconds.items()}
    quickest = min(seconds[ours]) * 1000
    figures = [figure(f"{ours} (quickest round {quickest:.1f})", milliseconds[ours], "ms", at_most=GOAL_MS)]
    for other in list(ways)[1:]:
        ratio = 1 / median_ratio(seconds[other], seconds[ours])
        title, goal = (
            (other, None) if other != quick else (f"{quick} (quickest round {min(seconds[quick]) * 1000:.1f})", BFLOAT16_MS)
        )
        figures.append(figure(title, milliseconds[other], "ms", ratio=ratio, compared_with=ours, at_most=goal))
    return figures


def of_the_service(encoder: Path, sound: NDArray[np.float32], choice: EngineChoice) -> Callable[[], object]:
    """Makes rows as the service does, from the middle of a second of sound, so that none is made from silence."""
    device = find_devices(GpuSection(enabled=False), OnnxSection())[0]
    features = ModelLoader(OnnxSection(intra_op_threads=1), choice=choice).features(encoder, device)
    return lambda: features.rows(sound, first_row=3, row_count=ROWS)


def encoder_alone(encoder: Path) -> Callable[[], object]:
    """Runs the network on sixteen windows of spectrum made beforehand."""
    session, io = one_thread(encoder), encoder_io(encoder)
    windows = np.random.default_rng(6).uniform(-4, 4, (ROWS, 1, 80, 16)).astype(np.float32)
    return lambda: session.run([io.rows], {io.mel: windows})


def straightforward(encoder: Path, sound: NDArray[np.float32]) -> Callable[[], object]:
    """Computes the spectrum of the same second by librosa, and runs the network once for each row."""
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
    """Opens a session on one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(encoder), sess_options=options, providers=["CPUExecutionProvider"])
