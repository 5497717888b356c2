"""Builds ONNX models, node by node. Tensors go by their names."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # came with that opset, so that older runtimes load the files too
BATCH = "N"  # the name of the open batch dimension

Operand: TypeAlias = "str | float | NDArray[Any]"
"""A tensor by its name, or a constant."""


class Graph:
    """Collects the nodes and constants of one model."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[Hashable, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str]) -> str:
        """A float32 input of the model; a named dimension is open."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def constant(self, value: float | NDArray[Any], name: str | None = None) -> str:
        """A number or an array; floats are stored as float32, ones of the same name, or equal ones without a name, once."""
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" or isinstance(value, (int, float)) else array
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = name or (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, name or f"c{len(self._constants)}")
        return str(self._constants[key].name)

    def node(self, kind: str, *operands: Operand | None, name: str | None = None, **attributes: Any) -> str:
        """Any operator with one output. An operand that is None is left out."""
        inputs = ["" if x is None else x if isinstance(x, str) else self.constant(x) for x in operands]
        output = name or f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def model(
        self, name: str, outputs: Mapping[str, tuple[str, Sequence[int | str]]], *, producer: str = "avatar_kit"
    ) -> onnx.ModelProto:
        """The finished model; `outputs` gives each its name and shape."""
        for output, (tensor, _) in outputs.items():
            if tensor != output:
                self.node("Identity", tensor, name=output)
        infos = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape) for output, (_, shape) in outputs.items()]
        graph = helper.make_graph(self._nodes, name, self._inputs, infos, list(self._constants.values()))
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name=producer)
