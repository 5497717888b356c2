"""The full-size audio encoder: from a window of the mel spectrogram to one row of features."""

from __future__ import annotations

from typing import Any

import onnx

from avatar_tools.networks.graph import BATCH, Graph
from avatar_tools.networks.layers import Convolution, Layers, T
from avatar_tools.networks.onnx_layers import OnnxLayers
from avatar_tools.networks.weights import Weights, WeightShapes, check_weights

MEL, ROWS = "mel", "rows"

# (inputs, outputs, stride) of all layers but the last two; one that keeps the width adds its input.
_LAYERS = (
    *((1, 32, (1, 1)), (32, 32, (1, 1)), (32, 32, (1, 1))),
    *((32, 64, (3, 1)), (64, 64, (1, 1)), (64, 64, (1, 1))),
    *((64, 128, (3, 3)), (128, 128, (1, 1)), (128, 128, (1, 1))),
    *((128, 256, (3, 2)), (256, 256, (1, 1))),
)


def encoder(net: Layers[T], mel: T) -> T:
    """[N,1,80,16] mel windows to [N,512] rows >= 0."""
    x = mel
    for number, (inputs, outputs, stride) in enumerate(_LAYERS):
        y = net.convolution(x, _convolution(number, inputs, outputs, stride=stride, padding=1))
        x = net.relu(net.add(y, x) if inputs == outputs else y)
    x = net.relu(net.convolution(x, _convolution(11, 256, 512)))
    x = net.relu(net.convolution(x, _convolution(12, 512, 512, kernel=1)))
    return net.flattened(x, ROWS)


def encoder_shapes() -> dict[str, tuple[int, ...]]:
    """Key -> shape of the 91 entries of the network's state dict."""
    shapes = WeightShapes()
    encoder(shapes, None)
    return shapes.found


def encoder_graph(weights: Weights) -> onnx.ModelProto:
    """The network as a graph, float32, for any N.

    `weights` is a state dict in the published layout, arrays of any float type. Raises WeightsError.
    """
    check_weights(weights, encoder_shapes())
    graph = Graph()
    rows = encoder(OnnxLayers(graph, weights), graph.input(MEL, [BATCH, 1, 80, 16]))
    return graph.model("lipsync_audio_encoder", {ROWS: (rows, [BATCH, 512])})


def _convolution(number: int, inputs: int, outputs: int, **options: Any) -> Convolution:
    return Convolution(f"{number}.conv_block.0", f"{number}.conv_block.1", inputs, outputs, **options)
