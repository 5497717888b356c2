"""Recognising the kinds of convolution and interpolation that the family's networks are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from inference_service.graphs.rewriting import Rewriting

_CONVEX = {"align_corners", "half_pixel", "asymmetric", "pytorch_half_pixel"}


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution with constant weights, float64: weight [outputs, inputs per group, height, width], bias [outputs]."""

    node: onnx.NodeProto
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    @property
    def source(self) -> str:
        """The tensor that it reads."""
        return str(self.node.input[0])

    @property
    def output(self) -> str:
        """The tensor that it makes."""
        return str(self.node.output[0])


def dense(graph: Rewriting, node: onnx.NodeProto | None) -> Convolution | None:
    """The node as a convolution in which every output reads every input channel."""
    found = _convolution(graph, node)
    return found if found and attribute(found.node, "group", 1) == 1 else None


def pointwise(graph: Rewriting, node: onnx.NodeProto | None) -> Convolution | None:
    """The node as a dense 1x1 convolution without stride or padding: a matrix applied to each pixel."""
    found = dense(graph, node)
    if found is None or found.weight.shape[2:] != (1, 1):
        return None
    plain = set(attribute(found.node, "strides", [1])) == {1} and set(attribute(found.node, "pads", [0])) == {0}
    return found if plain else None


def depthwise(graph: Rewriting, node: onnx.NodeProto | None) -> Convolution | None:
    """The node as a convolution of each channel by itself."""
    found = _convolution(graph, node)
    channels = len(found.bias) if found else 0
    return found if found and found.weight.shape[1] == 1 and attribute(found.node, "group", 1) == channels > 1 else None


def interpolation(graph: Rewriting, tensor: str) -> onnx.NodeProto | None:
    """The Resize that makes the tensor, when each of its values is a mean of values of one channel, with weights of sum 1."""
    node = graph.made_by(tensor, "Resize")
    if node is None or len(node.input) < 3:
        return None
    scales = graph.value(node.input[2])
    if scales is None or scales.shape != (4,) or scales[0] != 1 or scales[1] != 1:
        return None
    if attribute(node, "mode", b"nearest") not in {b"linear", b"nearest"} or attribute(node, "antialias", 0):
        return None
    return node if attribute(node, "coordinate_transformation_mode", b"half_pixel").decode() in _CONVEX else None


def with_constants(
    graph: Rewriting,
    convolution: Convolution,
    weight: NDArray[np.float64],
    bias: NDArray[np.float64] | None,
    *,
    source: str | None = None,
    output: str | None = None,
) -> onnx.NodeProto:
    """A new node like the convolution's, with other constants (`bias` None: without), perhaps another source, a new output."""
    inputs = [source or convolution.source, graph.constant(weight)] + ([] if bias is None else [graph.constant(bias)])
    new = graph.node("Conv", inputs, output)
    new.attribute.extend(found for found in convolution.node.attribute if found.name != "group")
    groups = len(weight) if attribute(convolution.node, "group", 1) > 1 else 1
    new.attribute.append(helper.make_attribute("group", groups))
    return new


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The attribute's value; texts are bytes."""
    return next((helper.get_attribute_value(found) for found in node.attribute if found.name == name), default)


def _convolution(graph: Rewriting, node: onnx.NodeProto | None) -> Convolution | None:
    if node is None or node.op_type != "Conv" or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return None
    weight = graph.value(node.input[1])
    if weight is None or weight.ndim != 4 or weight.dtype != np.float32:
        return None
    bias = graph.value(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(len(weight))
    return None if bias is None else Convolution(node, weight.astype(np.float64), bias.astype(np.float64))
