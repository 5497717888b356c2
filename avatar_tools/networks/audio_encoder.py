"""The full-size audio encoder: a window of the mel spectrogram to one row of features."""

from __future__ import annotations

import onnx

from avatar_tools.networks.architecture import ENCODER, Weights, check_weights, encoder_shapes
from avatar_tools.networks.layers import Layers

MEL, ROWS = "mel", "rows"


def encoder_graph(weights: Weights) -> onnx.ModelProto:
    """[N,1,80,16] mel windows to [N,512] rows, float32, rows >= 0; N is open.

    `weights` is a state dict in the published layout, arrays of any float type. Raises WeightsError.
    """
    check_weights(weights, encoder_shapes())
    net = Layers(weights)
    x = MEL
    for number, layer in enumerate(ENCODER):
        p = f"{number}.conv_block"
        y = net.convolution(x, f"{p}.0", net.folded(f"{p}.0", f"{p}.1"), stride=layer.stride, padding=layer.padding)
        x = net.relu(net.add(y, x) if layer.residual else y)
    net.node("Flatten", [x], ROWS, axis=1)
    return net.model("lipsync_audio_encoder", [(MEL, (1, 80, 16))], [(ROWS, (512,))])
