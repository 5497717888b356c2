"""Computes a description of a network with PyTorch, to compare a conversion with.

PyTorch may be absent, and where it is there its types are not wanted: callers pass the module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avatar_tools.networks.layers import Convolution, Layers
from avatar_tools.networks.weights import NORM_EPSILON, NORM_PARTS, Weights


class TorchLayers(Layers[Any]):
    """Computes at once, in the precision of `dtype`; batch norms are not folded."""

    def __init__(self, torch: Any, weights: Weights, dtype: Any) -> None:
        self._torch, self._functional = torch, torch.nn.functional
        self._weights = {key: torch.from_numpy(array).to(dtype) for key, array in weights.items()}

    def convolution(self, x: Any, layer: Convolution) -> Any:
        weight, bias = self._weights[f"{layer.key}.weight"], self._weights.get(f"{layer.key}.bias")
        y = self._functional.conv2d(x, weight, bias, layer.stride, layer.padding, groups=layer.groups)
        if layer.norm is None:
            return y
        gamma, beta, mean, variance = (self._weights[f"{layer.norm}.{part}"] for part in NORM_PARTS)
        return self._functional.batch_norm(y, mean, variance, gamma, beta, eps=NORM_EPSILON)

    def relu(self, x: Any) -> Any:
        return x.relu()

    def add(self, x: Any, y: Any) -> Any:
        return x + y

    def doubled_size(self, x: Any) -> Any:
        return self._functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    def concatenated(self, parts: Sequence[Any], name: str) -> Any:
        return self._torch.cat(parts, dim=1)

    def sigmoid(self, x: Any, name: str) -> Any:
        return x.sigmoid()

    def flattened(self, x: Any, name: str) -> Any:
        return x.flatten(1)
