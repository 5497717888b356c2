"""One of the family's networks: its description, and the weights and the graph that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from avatar_tools.networks.graph import BATCH, Graph
from avatar_tools.networks.onnx_layers import OnnxLayers
from avatar_tools.networks.weights import Weights, WeightShapes, check_weights


@dataclass(frozen=True, slots=True)
class Network:
    """A network by its description, the name of its graph, and the names and shapes of its ends, without the batch."""

    description: Callable[..., Any]
    """Takes a reading of layers and a tensor for each input; returns the output."""
    name: str
    inputs: Mapping[str, tuple[int, ...]]
    output: str
    output_shape: tuple[int, ...]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Key -> shape of the entries of the network's state dict."""
        shapes = WeightShapes()
        self.description(shapes, *[None] * len(self.inputs))
        return shapes.found

    def graph(self, weights: Weights) -> onnx.ModelProto:
        """The network as a plain graph, float32, for any batch; the inference service's `cpu_form` makes it quicker on a CPU.

        `weights` is a state dict in the published layout, arrays of any float type. Raises WeightsError.
        """
        check_weights(weights, self.shapes())
        graph = Graph()
        inputs = [graph.input(name, [BATCH, *shape]) for name, shape in self.inputs.items()]
        output = self.description(OnnxLayers(graph, weights), *inputs)
        return graph.model(self.name, {self.output: (output, [BATCH, *self.output_shape])})
