"""The full-size audio encoder: from a window of the mel spectrogram to one row of features."""

from __future__ import annotations

from typing import Any

from avatar_tools.networks.layers import Convolution, Layers, T
from avatar_tools.networks.network import Network

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


AUDIO_ENCODER = Network(encoder, "lipsync_audio_encoder", {MEL: (1, 80, 16)}, ROWS, (512,))
"""Its state dict has 91 entries."""


def _convolution(number: int, inputs: int, outputs: int, **options: Any) -> Convolution:
    return Convolution(f"{number}.conv_block.0", f"{number}.conv_block.1", inputs, outputs, **options)
