"""Networks that cost next to nothing, for measuring everything around them: a lip-sync network and an audio encoder.

They have the inputs and outputs of the full networks and depend on the sound. The lip-sync network copies one of a few stored
mouths and ignores the picture, so that what prepares pictures inside the graph is dropped as well.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from avatar_kit.geometry import MOUTH_SIZE
from avatar_tools.networks.audio_encoder import MEL, ROWS
from avatar_tools.networks.graph import BATCH, Graph
from avatar_tools.networks.unet import AUDIO, OUTPUT, VISUAL

_LEVELS_PER_MOUTH = 7.0  # a mean of rows is some tenths for speech: another mouth for each seventh


def free_network(mouths: NDArray[np.uint8]) -> onnx.ModelProto:
    """[N,6,320,320], which it does not read, and [N,32,16,16] to [N,3,320,320]; N is open.

    `mouths` are [M, 320, 320, 3], BGR. The mean of the sound chooses one. Its values are such that x 255, truncated, gives the
    mouths again.
    """
    if mouths.ndim != 4 or mouths.shape[1:] != (MOUTH_SIZE, MOUTH_SIZE, 3) or not len(mouths):
        raise ValueError(f"mouths of shape {mouths.shape}, expected [M, {MOUTH_SIZE}, {MOUTH_SIZE}, 3]")
    values = np.minimum((mouths.transpose(0, 3, 1, 2).astype(np.float32) + np.float32(0.5)) / 255, np.float32(1))
    graph = Graph()
    graph.input(VISUAL, [BATCH, 6, MOUTH_SIZE, MOUTH_SIZE])
    sound = graph.input(AUDIO, [BATCH, 32, 16, 16])
    level = graph.node("Mul", graph.node("ReduceMean", sound, axes=[1, 2, 3], keepdims=0), _LEVELS_PER_MOUTH)
    index = graph.node("Mod", graph.node("Cast", level, to=onnx.TensorProto.INT64), np.array(len(mouths), np.int64))
    mouth = graph.node("Gather", graph.constant(values, "mouths"), index, axis=0)
    return graph.model("free_network", {OUTPUT: (mouth, [BATCH, 3, MOUTH_SIZE, MOUTH_SIZE])})


def free_encoder() -> onnx.ModelProto:
    """[N,1,80,16] to [N,512]: the spectrum's 64 lower bands in 8 steps of time, raised so that silence is 0; N is open."""
    graph = Graph()
    steps = graph.node("AveragePool", graph.input(MEL, [BATCH, 1, 80, 16]), kernel_shape=[1, 2], strides=[1, 2])
    lower = graph.node("Slice", steps, *(np.array([bound], np.int64) for bound in (0, 64, 2)))  # of axis 2
    raised = graph.node("Relu", graph.node("Add", lower, 4.0))
    return graph.model("free_encoder", {ROWS: (graph.node("Flatten", raised, axis=1), [BATCH, 512])})
