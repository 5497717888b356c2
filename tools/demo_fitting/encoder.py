"""The demo's audio encoder: from a 200 ms window of the mel spectrogram to the mouth's movements at the middle of it.

Band energies over time go through one small hidden layer. The first numbers of a row are the movements, in the order of
`mouths.Pose`; the rest is 0. Silence gives zeros, as do the rows missing at the edges of a clip, and zeros are the resting mouth.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from avatar_tools.networks.graph import BATCH
from tools.demo_drawing.expressions import ExpressionGraph
from tools.demo_drawing.mouths import POSE_SIZE

MELS, COLUMNS, ROW_SIZE = 80, 16, 512
POOL = (4, 2)  # mel bands and columns averaged into one number
INPUT_SIZE = (MELS // POOL[0]) * (COLUMNS // POOL[1])


class Listening(NamedTuple):
    """The weights of the two layers, float32."""

    hidden: NDArray[np.float32]
    """[INPUT_SIZE, hidden]."""
    hidden_bias: NDArray[np.float32]
    output: NDArray[np.float32]
    """[hidden, POSE_SIZE]."""
    output_bias: NDArray[np.float32]


def build_encoder(weights: Listening) -> onnx.ModelProto:
    """[N,1,80,16] in, [N,512] out, any N."""
    graph = ExpressionGraph()
    mel = graph.input("mel", [BATCH, 1, MELS, COLUMNS])
    bands = graph.node("AveragePool", mel, kernel_shape=POOL, strides=POOL)
    heard = (bands.reshape(0, INPUT_SIZE) / 4.0 + 1.0).matmul(weights.hidden) + weights.hidden_bias
    pose = (heard.at_least(0.0).matmul(weights.output) + weights.output_bias).clip()
    rows = graph.node("Pad", pose, np.array([0, 0, 0, ROW_SIZE - POSE_SIZE], np.int64))
    return graph.model("demo_audio_encoder", {"rows": (rows, [BATCH, ROW_SIZE])})
