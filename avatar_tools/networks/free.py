"""Networks that cost next to nothing, for measuring everything around them: a lip-sync network and an audio encoder.

They have the full networks' ends and depend on the sound. The lip-sync network copies one of a few stored mouths and does not
look at the picture, so that whoever prepares pictures inside the graph sees that work dropped as well.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from avatar_kit.geometry import MOUTH_SIZE
from avatar_tools.networks.audio_encoder import MEL, ROWS
from avatar_tools.networks.layers import Layers
from avatar_tools.networks.unet import AUDIO, OUTPUT, VISUAL

_LEVELS_PER_MOUTH = 7.0  # a mean of rows is some tenths for speech: another mouth for each seventh


def free_network(mouths: NDArray[np.uint8]) -> onnx.ModelProto:
    """[N,6,320,320], which it does not read, and [N,32,16,16] to [N,3,320,320]; N is open.

    `mouths` are [M, 320, 320, 3], BGR; which one is given follows from the mean of the sound. The values are such that x 255,
    truncated, gives the mouths again.
    """
    if mouths.ndim != 4 or mouths.shape[1:] != (MOUTH_SIZE, MOUTH_SIZE, 3) or not len(mouths):
        raise ValueError(f"mouths of shape {mouths.shape}, expected [M, {MOUTH_SIZE}, {MOUTH_SIZE}, 3]")
    net = Layers({})
    values = np.minimum((mouths.transpose(0, 3, 1, 2).astype(np.float32) + np.float32(0.5)) / 255, np.float32(1))
    net.constant("mouths", values)
    mean = net.node("ReduceMean", [AUDIO], "mean", axes=[1, 2, 3], keepdims=0)
    level = net.node("Mul", [mean, net.constant("levels", np.array(_LEVELS_PER_MOUTH, np.float32))], "level")
    whole = net.node("Cast", [level], "whole", to=onnx.TensorProto.INT64)
    index = net.node("Mod", [whole, net.constant("count", np.array(len(mouths), np.int64))], "index")
    net.node("Gather", ["mouths", index], OUTPUT, axis=0)
    size = (MOUTH_SIZE, MOUTH_SIZE)
    return net.model("free_network", [(VISUAL, (6, *size)), (AUDIO, (32, 16, 16))], [(OUTPUT, (3, *size))])


def free_encoder() -> onnx.ModelProto:
    """[N,1,80,16] to [N,512]: the spectrum's 64 lower bands in 8 steps of time, raised so that silence is 0; N is open."""
    net = Layers({})
    steps = net.node("AveragePool", [MEL], "steps", kernel_shape=[1, 2], strides=[1, 2])
    bounds = [net.constant(name, np.array([value], np.int64)) for name, value in (("first", 0), ("end", 64), ("bands", 2))]
    low = net.node("Slice", [steps, *bounds], "low")
    raised = net.relu(net.add(low, net.constant("silence", np.array(4, np.float32))))
    net.node("Flatten", [raised], ROWS, axis=1)
    return net.model("free_encoder", [(MEL, (1, 80, 16))], [(ROWS, (512,))])
