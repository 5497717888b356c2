"""The full-size lip-sync network: what an avatar's mouth looks like, given its picture and the sound."""

from __future__ import annotations

import onnx

from avatar_tools.networks.architecture import DOWN, FUSE, UP, Weights, check_weights, unet_shapes
from avatar_tools.networks.layers import Layers

VISUAL, AUDIO, OUTPUT = "input", "audio", "output"


def unet_graph(weights: Weights) -> onnx.ModelProto:
    """[N,6,320,320] pictures and [N,32,16,16] sound to [N,3,320,320] mouths, float32 in 0..1, BGR; N is open.

    `weights` is a state dict in the published layout, arrays of any float type. The graph is the plain one; `cpu_form` makes it
    quicker on a CPU. Raises WeightsError.
    """
    check_weights(weights, unet_shapes())
    net = Layers(weights)
    scales = [net.inverted_residual(VISUAL, "inc.inconv.0")]  # from the full size to a 32nd
    for number in range(1, len(DOWN) + 1):
        scales.append(net.double(scales[-1], f"down{number}.maxpool_conv.0", stride=2))
    x = net.concatenated([scales.pop(), _audio_branch(net)], "fuse_conv")
    for number in range(len(FUSE)):
        x = net.double(x, f"fuse_conv.{number}")
    for number in range(1, len(UP) + 1):
        x = net.concatenated([net.doubled_size(x), scales.pop()], f"up{number}.conv")
        x = net.double(x, f"up{number}.conv")
    net.node("Sigmoid", [net.convolution(x, "outc.conv", net.folded("outc.conv"))], OUTPUT)
    return net.model("lipsync_unet_328", [(VISUAL, (6, 320, 320)), (AUDIO, (32, 16, 16))], [(OUTPUT, (3, 320, 320))])


def _audio_branch(net: Layers) -> str:
    """16 rows of sound to 512 channels of 10x10, the size of the smallest picture."""
    p = "audio_model"
    x = net.inverted_residual(AUDIO, f"{p}.conv1")
    x = net.inverted_residual(x, f"{p}.conv2")
    x = net.relu(net.convolution(x, f"{p}.conv3", net.folded(f"{p}.conv3", f"{p}.bn3"), padding=1))
    x = net.inverted_residual(x, f"{p}.conv4", residual=True)
    x = net.relu(net.convolution(x, f"{p}.conv5", net.folded(f"{p}.conv5", f"{p}.bn5"), stride=(2, 2), padding=3))
    x = net.inverted_residual(x, f"{p}.conv6", residual=True)
    return net.inverted_residual(x, f"{p}.conv7", residual=True)
