"""Fits the two layers of the encoder by gradient descent and writes the encoder as an ONNX file."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from avatar_tools.demo.build import ENCODER_PATH
from tools.demo_drawing.mouths import POSE_SIZE
from tools.demo_fitting.corpus import windows_and_movements
from tools.demo_fitting.encoder import COLUMNS, INPUT_SIZE, MELS, POOL, Listening, build_encoder

_HIDDEN = 80
_EPOCHS = 20
_BATCH = 512
_RATE = 3e-3
_DECAY = 2e-5
# Viewers notice nothing more than lips that fail to close.
_WEIGHTS = np.array([1, 1, 1.2, 2, 1.5, 1, 1], np.float32)
_WEIGHTS_WHEN_DONE = np.array([1, 1, 1, 3, 3, 1, 1.5], np.float32)
_BELOW_ZERO = 0.05  # weight of errors below 0, which clipping makes harmless

log = logging.getLogger(__name__)


def main() -> None:
    """Makes the speech, fits the weights, writes the encoder."""
    windows, movements = windows_and_movements()
    log.info("%d windows", len(windows))
    ENCODER_PATH.write_bytes(build_encoder(fit(pooled(windows), movements)).SerializeToString(deterministic=True))


def pooled(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """[windows, INPUT_SIZE]: the encoder's input to its first layer."""
    bands, columns = POOL
    blocks = windows.reshape(-1, MELS // bands, bands, COLUMNS // columns, columns)
    return np.asarray(blocks.mean((2, 4)).reshape(-1, INPUT_SIZE) / 4 + 1, np.float32)


def fit(inputs: NDArray[np.float32], wanted: NDArray[np.float32], *, seed: int = 0) -> Listening:
    """Adam with a cosine schedule on a weighted square error."""
    chance = np.random.default_rng(seed)
    hidden = chance.standard_normal((INPUT_SIZE, _HIDDEN)) * (1.4 / np.sqrt(INPUT_SIZE))
    output = chance.standard_normal((_HIDDEN, POSE_SIZE)) * (0.5 / np.sqrt(_HIDDEN))
    layers = [part.astype(np.float32) for part in (hidden, np.zeros(_HIDDEN), output, np.full(POSE_SIZE, 0.1))]
    means, squares = [np.zeros_like(part) for part in layers], [np.zeros_like(part) for part in layers]
    steps = _EPOCHS * (len(inputs) // _BATCH)
    for step in range(1, steps + 1):
        if step % (len(inputs) // _BATCH) == 1:
            order = chance.permutation(len(inputs))
        place = (step - 1) % (len(inputs) // _BATCH) * _BATCH
        batch = order[place : place + _BATCH]
        rate = _RATE * (0.5 + 0.5 * np.cos(np.pi * step / steps)) + 1e-5
        for i, slope in enumerate(_slopes(layers, inputs[batch], wanted[batch])):
            means[i] += 0.1 * (slope - means[i])
            squares[i] += 0.001 * (slope**2 - squares[i])
            layers[i] -= rate * (means[i] / (1 - 0.9**step)) / (np.sqrt(squares[i] / (1 - 0.999**step)) + 1e-8)
    return Listening(*layers)


def _slopes(
    layers: list[NDArray[np.float32]], inputs: NDArray[np.float32], wanted: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    hidden, hidden_bias, output, output_bias = layers
    heard = np.maximum(inputs @ hidden + hidden_bias, 0)
    done = heard @ output + output_bias
    error = (done - wanted) * _WEIGHTS * (1 + _WEIGHTS_WHEN_DONE * wanted) / _BATCH
    error = np.where((done < 0) & (wanted < 0.02), _BELOW_ZERO * error, error).astype(np.float32)
    back = (error @ output.T) * (heard > 0)
    return [inputs.T @ back + _DECAY * hidden, back.sum(0), heard.T @ error + _DECAY * output, error.sum(0)]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main()
