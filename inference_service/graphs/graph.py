"""A network's graph in a form that can be rewritten: the maker, the readers and the shape of each tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

Array = NDArray[Any]

_LARGE = 64  # numbers of a constant; shapes and scales have fewer, and shape inference reads them


class Graph:
    """The nodes of a model's main graph, in order, to be replaced one by one. The model itself stays as it is.

    An open batch dimension is fixed, to 1 unless another input or output says more: ONNX Runtime adds in place only where it
    knows all shapes. Raises ValueError when the graph contradicts itself.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        # Everything but nodes and constants. Models of the old kind list their weights among the inputs too.
        self._frame = onnx.ModelProto(
            ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions, graph={"name": graph.name}
        )
        self._frame.graph.sparse_initializer.extend(graph.sparse_initializer)
        self._frame.graph.input.extend(value for value in graph.input if value.name not in self._constants)
        self._frame.graph.output.extend(graph.output)
        _fix_batch([*self._frame.graph.input, *self._frame.graph.output])
        self.outputs = {value.name for value in graph.output}
        self.changed = False
        self._names = 0
        self._index([node for node in graph.node if node.output[0] not in self._constants])
        self._shapes = self._inferred_shapes()

    def maker(self, tensor: str, kind: str | None = None) -> onnx.NodeProto | None:
        """Returns the node that makes a tensor, if there is one and it is of that kind."""
        node = self._makers.get(tensor)
        return node if node is not None and kind in (None, node.op_type) else None

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """Returns the nodes that read a tensor, one entry for each time."""
        return self._readers.get(tensor, [])

    def is_read_once(self, tensor: str) -> bool:
        """Tells if exactly one node needs the tensor, and no caller."""
        return len(self.readers(tensor)) == 1 and tensor not in self.outputs

    def shape(self, tensor: str) -> tuple[int | None, ...]:
        """Returns a tensor's dimensions in the given model, None where unknown; empty when nothing is known."""
        return self._shapes.get(tensor, ())

    def value(self, tensor: str) -> Array | None:
        """Returns a constant's value; None when the tensor is no constant."""
        proto = self._constants.get(tensor)
        return None if proto is None else numpy_helper.to_array(proto)

    def constant(self, value: Array) -> str:
        """Adds a float32 constant and returns its name."""
        name = self._name("constant")
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
        return name

    def node(
        self, kind: str, inputs: list[str], output: str | None = None, *, like: onnx.NodeProto | None = None, **attributes: Any
    ) -> onnx.NodeProto:
        """Makes a node, not yet in the graph, with the attributes given and those that only `like` has."""
        made = helper.make_node(kind, inputs, [output or self._name(kind)], **attributes)
        made.name = made.output[0]
        if like is not None:
            made.attribute.extend(attribute for attribute in like.attribute if attribute.name not in attributes)
        return made

    def replace(self, old: onnx.NodeProto, new: Sequence[onnx.NodeProto]) -> None:
        """Puts `new` in the place of `old`, and drops the nodes that then lead nowhere."""
        place = next(index for index, node in enumerate(self.nodes) if node is old)
        self._index([*self.nodes[:place], *new, *self.nodes[place + 1 :]])
        self.changed = True

    def model(self) -> onnx.ModelProto:
        """Returns a model of the nodes as they are now, and of the constants that they read."""
        model = onnx.ModelProto()
        model.CopyFrom(self._frame)
        model.graph.node.extend(self.nodes)
        self._add_constants(model.graph)
        return model

    def _index(self, nodes: Sequence[onnx.NodeProto]) -> None:
        self.nodes = needed_nodes(nodes, self.outputs)
        self._makers = {output: node for node in self.nodes for output in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in _tensors_read(node):
                self._readers.setdefault(name, []).append(node)

    def _add_constants(self, graph: onnx.GraphProto, *, largest: float = math.inf) -> None:
        """Adds the constants that are read; those of more numbers than `largest` as inputs."""
        for name, tensor in self._constants.items():
            if name not in self._readers and name not in self.outputs:
                continue
            if math.prod(tensor.dims) > largest:
                graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
            else:
                graph.initializer.add().CopyFrom(tensor)
                graph.initializer[-1].name = name

    def _inferred_shapes(self) -> dict[str, tuple[int | None, ...]]:
        light = onnx.ModelProto()
        light.CopyFrom(self._frame)
        light.graph.node.extend(self.nodes)
        self._add_constants(light.graph, largest=_LARGE)  # inference copies the whole model, with its weights for half a second
        try:
            found = shape_inference.infer_shapes(light, data_prop=True).graph
        except shape_inference.InferenceError as error:
            raise ValueError(str(error)) from error
        return {
            value.name: tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)
            for value in [*found.input, *found.value_info, *found.output]
        }

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"cpu_form/{kind}_{self._names}"


def needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Returns the nodes that lead to one of the outputs, each after those that it reads. ONNX Runtime would run the others too.

    ONNX asks for that order, but converters to half precision leave their casts at the end. Nodes in order keep theirs.
    """
    makers: dict[str, list[int]] = {}  # by tensor; two while a node is being replaced
    for index, node in enumerate(nodes):
        for output in node.output:
            makers.setdefault(output, []).append(index)
    sources: dict[int, list[int]] = {}
    waiting = [index for name in outputs for index in makers.get(name, [])]
    while waiting:
        index = waiting.pop()
        if index not in sources:
            sources[index] = [maker for name in _tensors_read(nodes[index]) for maker in makers.get(name, [])]
            waiting += sources[index]
    placed: dict[int, None] = {}
    opened = set[int]()
    for start in sorted(sources):
        waiting = [start]
        while waiting:
            index = waiting[-1]
            if index in opened:  # its sources are placed, or lead back to it, which ONNX Runtime refuses
                placed.setdefault(waiting.pop())
            else:
                opened.add(index)
                waiting += [source for source in sources[index] if source not in opened]
    return [nodes[index] for index in placed]


def _tensors_read(node: onnx.NodeProto) -> Iterator[str]:
    """Yields the node's inputs, and the tensors that branches and bodies inside it read."""
    yield from node.input
    for attribute in node.attribute:
        for body in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            yield from (value.name for value in body.output)
            for inner in body.node:
                yield from _tensors_read(inner)


def _fix_batch(values: Sequence[onnx.ValueInfoProto]) -> None:
    batches = [value.type.tensor_type.shape.dim[0] for value in values if value.type.tensor_type.shape.dim]
    size = max((batch.dim_value for batch in batches), default=0)
    for batch in batches:
        batch.dim_value = batch.dim_value if batch.dim_value > 0 else max(size, 1)
