"""The demo's audio encoder: what the mouth does at the middle of a 200 ms window of the mel spectrogram.

Band energies over time go through one small hidden layer. Its weights were fitted to synthetic speech, of which it is known
which sound is spoken when: see `fitting`. The movements stand in the first numbers of a row, in the order of `mouths.Pose`; the
rest is 0.
Silence gives zeros, as do the missing rows of the reference's edges, and zeros are the resting mouth.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray

from avatar_tools.demo.graph import Graph
from avatar_tools.demo.mouths import POSE_SIZE

MELS, COLUMNS, ROW_SIZE = 80, 16, 512
POOL = (4, 2)  # mel bands and columns averaged into one number
INPUT_SIZE = (MELS // POOL[0]) * (COLUMNS // POOL[1])

_WEIGHTS_PATH = Path(__file__).with_name("listening.yaml")


@dataclass(frozen=True, slots=True)
class Listening:
    """Weights of the two layers, float32."""

    hidden: NDArray[np.float32]
    """[INPUT_SIZE, hidden]."""
    hidden_bias: NDArray[np.float32]
    output: NDArray[np.float32]
    """[hidden, POSE_SIZE]."""
    output_bias: NDArray[np.float32]


def load_listening(path: Path = _WEIGHTS_PATH) -> Listening:
    """The fitted weights as shipped."""
    stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Listening(**{name: _unpacked(**stored[name]) for name in Listening.__dataclass_fields__})


def save_listening(listening: Listening, path: Path = _WEIGHTS_PATH) -> None:
    """Writes weights as 8-bit numbers with a scale for each column, which costs them no accuracy that a mouth could show."""
    stored = {name: _packed(getattr(listening, name)) for name in Listening.__dataclass_fields__}
    note = "# Weights of the demo's audio encoder, written by tools.demo_fitting: int8 in base85, a scale for each column.\n"
    path.write_text(note + yaml.safe_dump(stored, width=120, sort_keys=False), encoding="utf-8")


def build_encoder(listening: Listening | None = None) -> onnx.ModelProto:
    """[N,1,80,16] in, [N,512] out, any N."""
    weights = load_listening() if listening is None else listening
    graph = Graph()
    mel = graph.input("mel", ["N", 1, MELS, COLUMNS])
    bands = graph.node("AveragePool", mel, kernel_shape=POOL, strides=POOL)
    heard = (bands.reshape(0, INPUT_SIZE) / 4.0 + 1.0).matmul(weights.hidden) + weights.hidden_bias
    pose = (heard.at_least(0.0).matmul(weights.output) + weights.output_bias).clip()
    rows = graph.node("Pad", pose, np.array([0, 0, 0, ROW_SIZE - POSE_SIZE], np.int64))
    return graph.model("demo_audio_encoder", {"rows": (rows, ["N", ROW_SIZE])})


def _packed(weights: NDArray[np.float32]) -> dict[str, object]:
    scales = [float(f"{scale:.4g}") for scale in np.atleast_1d(np.abs(weights).max(0) / 127 + 1e-9)]
    if weights.ndim == 1:
        scales = [max(scales)]
    data = np.round(weights / np.array(scales)).clip(-127, 127).astype(np.int8)
    return {"shape": list(weights.shape), "scales": scales, "data": base64.b85encode(data.tobytes()).decode()}


def _unpacked(shape: list[int], scales: list[float], data: str) -> NDArray[np.float32]:
    weights = np.frombuffer(base64.b85decode(data), np.int8).reshape(shape)
    return np.asarray(weights * np.array(scales), np.float32)
