"""Making only some channels of a tensor."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from inference_service.graphs.patterns import dense, depthwise, with_constants
from inference_service.graphs.rewriting import Rewriting

_CHANNELWISE = {"Relu", "Add", "Resize"}


def sliceable(graph: Rewriting, tensor: str) -> bool:
    """Whether `sliced` can make some of the tensor's channels without making the others, and nobody else needs the tensor."""
    node = graph.made_by(tensor)
    if node is None or not graph.read_once(tensor):
        return False
    if dense(graph, node):
        return True
    if depthwise(graph, node):
        return sliceable(graph, node.input[0])
    return node.op_type in _CHANNELWISE and all(sliceable(graph, source) for source in _sources(node))


def sliced(graph: Rewriting, tensor: str, channels: NDArray[np.int64], new: list[onnx.NodeProto]) -> str:
    """Adds to `new` the nodes that make those channels of a sliceable tensor, and returns the name of what they make."""
    node = graph.made_by(tensor)
    if node is None:
        raise ValueError(f"{tensor!r} is not made by a node")
    if whole := dense(graph, node):
        made = with_constants(graph, whole, whole.weight[channels], whole.bias[channels])
    elif own := depthwise(graph, node):
        source = sliced(graph, own.source, channels, new)
        made = with_constants(graph, own, own.weight[channels], own.bias[channels], source=source)
    else:
        sources = [sliced(graph, source, channels, new) for source in _sources(node)]
        made = graph.node(node.op_type, [*sources, *node.input[len(sources) :]])
        made.attribute.extend(node.attribute)
    new.append(made)
    return str(made.output[0])


def _sources(node: onnx.NodeProto) -> list[str]:
    """The inputs that have channels: not the scales of a Resize."""
    return list(node.input[:2] if node.op_type == "Add" else node.input[:1])
