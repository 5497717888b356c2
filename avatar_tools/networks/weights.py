"""The weights of the two networks: their names and shapes as in the published checkpoints, and the check against them.

Shapes are PyTorch's: convolutions are [outputs, inputs per group, height, width].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from avatar_kit.errors import AvatarError, shortened
from avatar_tools.networks.layers import Convolution, Layers

Weights: TypeAlias = Mapping[str, NDArray[Any]]
"""State-dict key -> array. Integer arrays only for the counters of batch norms, which nothing here reads."""

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

NORM_EPSILON = 1e-5  # PyTorch's default, which training used
NORM_PARTS = ("weight", "bias", "running_mean", "running_var")

_COUNTER = ".num_batches_tracked"
_STATISTICS = (".running_mean", ".running_var", _COUNTER)


class WeightsError(AvatarError):
    """The weights are not those of this network. `problems` names every key that is missing, unknown or of another shape."""


class WeightShapes(Layers[None]):
    """Collects the names and shapes of the weights that a description needs, in its order."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, ...]] = {}

    def convolution(self, x: None, layer: Convolution) -> None:
        """Adds the weights of both."""
        self.found[f"{layer.key}.weight"] = (layer.outputs, layer.inputs // layer.groups, layer.kernel, layer.kernel)
        if layer.bias:
            self.found[f"{layer.key}.bias"] = (layer.outputs,)
        if layer.norm:
            self.found |= {f"{layer.norm}.{part}": (layer.outputs,) for part in NORM_PARTS}
            self.found[layer.norm + _COUNTER] = ()

    def relu(self, x: None) -> None: ...
    def add(self, x: None, y: None) -> None: ...
    def doubled_size(self, x: None) -> None: ...
    def concatenated(self, parts: Sequence[None], name: str) -> None: ...
    def sigmoid(self, x: None, name: str) -> None: ...
    def flattened(self, x: None, name: str) -> None: ...


def parameter_count(weights: Weights) -> int:
    """Numbers that training adjusts: everything but the batch norms' running statistics and counters."""
    return sum(int(array.size) for key, array in weights.items() if not key.endswith(_STATISTICS))


def check_weights(weights: Weights, shapes: Shapes) -> None:
    """Raises WeightsError unless `weights` has exactly these keys with these shapes, all finite, and variances that are positive.

    The counters of batch norms may be missing: some exporters drop them.
    """
    problems = [f"missing: {key}" for key in shapes if key not in weights and not key.endswith(_COUNTER)]
    problems += [f"unknown: {key[:80]}" for key in weights if key not in shapes]
    for key, shape in shapes.items():
        if key in weights and (problem := _array_problem(key, weights[key], shape)):
            problems.append(f"{key}: {problem}")
    if problems:
        raise WeightsError(shortened(problems))


def _array_problem(key: str, array: NDArray[Any], shape: tuple[int, ...]) -> str | None:
    if array.shape != shape:
        return f"has the shape {list(array.shape)}, not {list(shape)}"
    if not np.isfinite(array).all():
        return "has values that are not finite"
    if key.endswith(".running_var") and (array < 0).any():
        return "has negative variances"
    return None
