"""Computes a network in float16, half of the memory traffic of a GPU, but for what would be seen.

The last convolution and all behind it stay in float32, and so do sums and means of whole pictures: a float16 near 1 has steps of
1/2048, an eighth of a grey level, which the truncation to pixels would show. Inputs and outputs stay float32.
"""

from __future__ import annotations

from collections.abc import Set

import onnx
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from inference_service.graphs.graph import needed_nodes

_SUMS = ("ReduceSum", "ReduceMean", "GlobalAveragePool", "Softmax", "InstanceNormalization", "LayerNormalization")
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})


def to_float16(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """Returns the model in float16, as far as it goes. `output` is the one that must be exact; `model` is used up.

    Raises ValueError, or what onnx raises, for a model whose types contradict each other.
    """
    for number, node in enumerate(model.graph.node):
        node.name = f"{number}"  # the converter goes by names, which exporters may leave out
    own_names = {node.name for node in model.graph.node}
    converted: onnx.ModelProto = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_SUMS],
        node_block_list=_behind_the_last_convolution(model.graph, output),
    )
    _remove_detours(converted.graph, own_names)
    return converted


def _remove_detours(graph: onnx.GraphProto, own_names: Set[str]) -> None:
    """Lets nodes that stay in float32 read each other: the converter puts a cast to float16 and one back between them.

    Leaves the nodes in order: the converter appends its casts.
    """
    makers = {name: node for node in graph.node for name in node.output}
    casts = {name: node for name, node in makers.items() if node.op_type == "Cast" and node.name not in own_names}
    direct = {back: casts[cast.input[0]].input[0] for back, cast in casts.items() if cast.input[0] in casts}
    for value in graph.output:
        source = direct.get(value.name, "")
        if source in makers:  # the name of an output stays
            direct = {back: value.name if name == source else name for back, name in direct.items()} | {source: value.name}
            graph.node.remove(casts[value.name])
            makers[source].output[list(makers[source].output).index(source)] = value.name
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = direct.get(name, name)
    nodes = needed_nodes(graph.node, [value.name for value in graph.output])
    del graph.node[:]
    graph.node.extend(nodes)


def _behind_the_last_convolution(graph: onnx.GraphProto, output: str) -> list[str]:
    """Returns the names of the nodes that lead to the output from the last convolutions on, those among them."""
    makers = {name: node for node in graph.node for name in node.output}
    found: list[str] = []
    waiting = [output]
    while waiting:
        node = makers.pop(waiting.pop(), None)
        if node is None:
            continue
        found.append(node.name)
        if node.op_type not in _CONVOLUTIONS:
            waiting += node.input
    return found
