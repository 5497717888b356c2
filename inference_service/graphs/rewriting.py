"""A graph in a form that can be rewritten: who makes a tensor, who reads it, what shape it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from inference_service.graphs.pruning import needed_nodes, tensors_read
from inference_service.graphs.shapes import inferred_values

Array: TypeAlias = NDArray[Any]


class Rewriting:
    """The nodes of a model's main graph, in order, to be replaced one by one. The model that it is made from belongs to it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        self._outputs = {value.name for value in model.graph.output}
        self._shapes = _inferred_shapes(model)
        self._fresh = 0
        self._changed = False
        self._nodes = [node for node in model.graph.node if node.output[0] not in self._constants]
        self._drop_unread()

    @property
    def changed(self) -> bool:
        """Whether anything has been replaced."""
        return self._changed

    @property
    def inputs(self) -> list[str]:
        """What the caller gives: not the weights that models of the old kind list as well."""
        return [value.name for value in self._model.graph.input if value.name not in self._constants]

    def has(self, node: onnx.NodeProto) -> bool:
        """Whether this very node is still there."""
        return any(node is current for current in self._nodes)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes as they are now; a copy of the list."""
        return list(self._nodes)

    def made_by(self, tensor: str, kind: str | None = None) -> onnx.NodeProto | None:
        """The node that makes it, if there is one and it is of that kind."""
        node = self._makers.get(tensor)
        return node if node is not None and kind in (None, node.op_type) else None

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read it, one entry for each time."""
        return self._readers.get(tensor, [])

    def is_output(self, tensor: str) -> bool:
        """Whether the graph gives it to its caller."""
        return tensor in self._outputs

    def read_once(self, tensor: str) -> bool:
        """Whether exactly one node needs it, and no caller."""
        return len(self.readers(tensor)) == 1 and not self.is_output(tensor)

    def shape(self, tensor: str) -> tuple[int | None, ...]:
        """Its dimensions in the model as it was, None where unknown; empty when nothing is known."""
        return self._shapes.get(tensor, ())

    def value(self, tensor: str) -> Array | None:
        """A constant's value; None when it is no constant."""
        proto = self._constants.get(tensor)
        return None if proto is None else numpy_helper.to_array(proto)

    def constant(self, value: Array) -> str:
        """A new constant, float32."""
        return self._new_constant(np.ascontiguousarray(value, np.float32))

    def integers(self, values: Sequence[int | None]) -> str:
        """A new constant, int64."""
        return self._new_constant(np.array(values, np.int64))

    def _new_constant(self, value: Array) -> str:
        name = self._name("constant")
        self._constants[name] = numpy_helper.from_array(value, name)
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> onnx.NodeProto:
        """A new node, not yet in the graph; without `output` its tensor gets a new name."""
        output = output or self._name(kind)
        return helper.make_node(kind, list(inputs), [output], name=output, **attributes)

    def replace(self, old: onnx.NodeProto, new: Sequence[onnx.NodeProto]) -> None:
        """Puts `new` where `old` was; what nobody needs any more goes."""
        place = next(index for index, node in enumerate(self._nodes) if node is old)
        self._nodes[place : place + 1] = new
        self._changed = True
        self._drop_unread()

    def insert_behind(self, tensor: str, node: onnx.NodeProto) -> None:
        """Puts in the first place a node that reads an input of the graph; the input's readers read its output instead."""
        for reader in self.readers(tensor):
            for index, name in enumerate(reader.input):
                if name == tensor:
                    reader.input[index] = node.output[0]
        self._nodes.insert(0, node)
        self._changed = True
        self._index()

    def model(self) -> onnx.ModelProto:
        """A new model of the nodes as they are now, and of the constants that they read."""
        read = {name for node in self._nodes for name in tensors_read(node)} | self._outputs
        weights = {tensor.name for tensor in self._model.graph.initializer}
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        graph = model.graph
        for field in (graph.node, graph.initializer, graph.value_info, graph.input):
            del field[:]
        graph.node.extend(self._nodes)
        graph.input.extend(value for value in self._model.graph.input if value.name in read or value.name not in weights)
        for name, tensor in self._constants.items():
            if name in read:
                graph.initializer.add().CopyFrom(tensor)
                graph.initializer[-1].name = name
        return model

    def _drop_unread(self) -> None:
        self._nodes = needed_nodes(self._nodes, self._outputs)
        self._index()

    def _index(self) -> None:
        self._makers = {output: node for node in self._nodes for output in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._nodes:
            for name in tensors_read(node):
                self._readers.setdefault(name, []).append(node)

    def _name(self, kind: str) -> str:
        self._fresh += 1
        return f"cpu_form/{kind}_{self._fresh}"


def _inferred_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Raises ValueError when the graph contradicts itself."""
    return {
        value.name: tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)
        for value in inferred_values(model)
        if value.type.tensor_type.elem_type != TensorProto.UNDEFINED
    }
