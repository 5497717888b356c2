"""Random weights for benchmarks and tests, the same for the same seed, with activations of ordinary size in every layer.

Saturated, vanishing or subnormal values would run at another speed than those of a trained network. The variances follow He
initialisation; depthwise kernels mostly average, so that a mouth made from a smooth picture is smooth too, as a real one is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_tools.networks.network import Network

_RELU_GAIN = 2.0  # compensates for the half that a ReLU cuts off
_BRANCH_GAIN = 0.5  # a block adds less than its input, or the sums would grow from block to block
_OUTPUT_GAIN = 6.0  # spreads the sigmoid's input
_ROUGHNESS = 0.2  # of depthwise kernels, which average and find some edges

_DEPTHWISE = ".conv.3.weight"
_BACK_TO_NARROW = ".conv.6.weight"
_ENCODER_LAYER = ".conv_block.0.weight"


def random_weights(network: Network, seed: int) -> dict[str, NDArray[Any]]:
    """A state dict: float32, and int64 counters."""
    generator = np.random.default_rng(seed)
    return {key: _random_array(generator, key, shape) for key, shape in network.shapes().items()}


def _random_array(generator: np.random.Generator, key: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if key.endswith(".num_batches_tracked"):
        return np.array(1000, np.int64)
    if len(shape) == 4:
        return _random_kernel(generator, key, shape)
    if key.endswith(".running_var"):
        return generator.uniform(0.8, 1.25, shape).astype(np.float32)
    if key.endswith(".weight"):
        return generator.uniform(0.8, 1.2, shape).astype(np.float32)
    return generator.normal(0, 0.1, shape).astype(np.float32)


def _random_kernel(generator: np.random.Generator, key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    fan_in = math.prod(shape[1:])
    if shape[1:] == (1, 3, 3) and key.endswith(_DEPTHWISE):
        return generator.normal(1 / fan_in, _ROUGHNESS, shape).astype(np.float32)
    return generator.normal(0, math.sqrt(_gain(key, shape) / fan_in), shape).astype(np.float32)


def _gain(key: str, shape: tuple[int, ...]) -> float:
    """Variance out over the mean square in."""
    if key.startswith("outc"):
        return _OUTPUT_GAIN
    adds_to_its_input = shape[0] == shape[1] and key.endswith(_ENCODER_LAYER)
    return _BRANCH_GAIN if adds_to_its_input or key.endswith(_BACK_TO_NARROW) else _RELU_GAIN
