"""Writes a description of a network as ONNX nodes, with the batch norms folded into the convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_tools.networks.graph import Graph
from avatar_tools.networks.layers import Convolution, Layers
from avatar_tools.networks.weights import NORM_EPSILON, NORM_PARTS, Weights

_Array = NDArray[np.floating[Any]]


class OnnxLayers(Layers[str]):
    """Adds nodes to `graph`; tensors go by their names, which come from the weights behind them."""

    def __init__(self, graph: Graph, weights: Weights) -> None:
        self._graph, self._weights = graph, weights

    def convolution(self, x: str, layer: Convolution) -> str:
        """One node; its constants are float32."""
        weight, bias = self._folded(layer)
        return self._graph.node(
            "Conv",
            x,
            self._graph.constant(weight, f"{layer.key}.weight"),
            self._graph.constant(bias, f"{layer.key}.bias"),
            name=layer.key,
            kernel_shape=[layer.kernel] * 2,
            strides=layer.stride,
            pads=[layer.padding] * 4,
            group=layer.groups,
        )

    def relu(self, x: str) -> str:
        return self._graph.node("Relu", x, name=f"{x}.relu")

    def add(self, x: str, y: str) -> str:
        return self._graph.node("Add", x, y, name=f"{x}.sum")

    def doubled_size(self, x: str) -> str:
        scales = self._graph.constant(np.array([1, 1, 2, 2], np.float32), "twice")
        align = "align_corners"
        return self._graph.node("Resize", x, None, scales, name=f"{x}.up", mode="linear", coordinate_transformation_mode=align)

    def concatenated(self, parts: Sequence[str], name: str) -> str:
        return self._graph.node("Concat", *parts, name=name, axis=1)

    def sigmoid(self, x: str, name: str) -> str:
        return self._graph.node("Sigmoid", x, name=name)

    def flattened(self, x: str, name: str) -> str:
        return self._graph.node("Flatten", x, name=name, axis=1)

    def _folded(self, layer: Convolution) -> tuple[_Array, _Array]:
        """Weight and bias in float64, with the batch norm folded in."""
        weight = self._double(f"{layer.key}.weight")
        bias = self._double(f"{layer.key}.bias") if layer.bias else np.zeros(layer.outputs)
        if layer.norm is None:
            return weight, bias
        gamma, beta, mean, variance = (self._double(f"{layer.norm}.{part}") for part in NORM_PARTS)
        scale = gamma / np.sqrt(variance + NORM_EPSILON)
        return weight * scale[:, None, None, None], (bias - mean) * scale + beta

    def _double(self, key: str) -> _Array:
        return self._weights[key].astype(np.float64)
