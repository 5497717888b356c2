"""Builds ONNX models: expressions over `Value`s become the nodes of a graph."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # came with that opset, so that older runtimes load the files too
BATCH = "N"  # the name of the open batch dimension

Operand: TypeAlias = "Value | float | NDArray[Any]"


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph under construction. `+ - * /` with another, a number or an array add a node."""

    graph: Graph
    name: str
    __array_ufunc__: ClassVar[None] = None  # lets an array on the left hand over to the methods below

    def __add__(self, other: Operand) -> Value:
        return self.graph.node("Add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return self.graph.node("Add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return self.graph.node("Sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.graph.node("Sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return self.graph.node("Mul", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return self.graph.node("Mul", other, self)

    def __truediv__(self, other: Operand) -> Value:
        return self.graph.node("Div", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self.graph.node("Div", other, self)

    def __neg__(self) -> Value:
        return self.graph.node("Neg", self)

    def exp(self) -> Value:
        """e to this power."""
        return self.graph.node("Exp", self)

    def sqrt(self) -> Value:
        """The square root."""
        return self.graph.node("Sqrt", self)

    def abs(self) -> Value:
        """The magnitude."""
        return self.graph.node("Abs", self)

    def power(self, exponent: Operand) -> Value:
        """This to a power."""
        return self.graph.node("Pow", self, exponent)

    def at_least(self, low: Operand) -> Value:
        """The larger of the two."""
        return self.graph.node("Max", self, low)

    def at_most(self, high: Operand) -> Value:
        """The smaller of the two."""
        return self.graph.node("Min", self, high)

    def clip(self, low: float = 0.0, high: float = 1.0) -> Value:
        """Limited to a range."""
        return self.graph.node("Clip", self, low, high)

    def sigmoid(self) -> Value:
        """1 / (1 + e^-x)."""
        return self.graph.node("Sigmoid", self)

    def reshape(self, *shape: int) -> Value:
        """The same numbers in another shape; 0 keeps a dimension, -1 fits."""
        return self.graph.node("Reshape", self, np.array(shape, np.int64))

    def part(self, axis: int, start: int, stop: int) -> Value:
        """start .. stop - 1 of one axis."""
        bounds = (np.array([number], np.int64) for number in (start, stop, axis))
        return self.graph.node("Slice", self, *bounds)

    def matmul(self, other: Operand) -> Value:
        """The matrix product."""
        return self.graph.node("MatMul", self, other)


class Graph:
    """Collects the nodes and constants of one model."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[Hashable, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str]) -> Value:
        """A float32 input of the model; a named dimension is open."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return Value(self, name)

    def constant(self, value: float | NDArray[Any], name: str | None = None) -> Value:
        """A number or an array; floats are stored as float32, ones of the same name, or equal ones without a name, once."""
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" or isinstance(value, (int, float)) else array
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = name or (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, name or f"c{len(self._constants)}")
        return Value(self, self._constants[key].name)

    def node(self, kind: str, *operands: Operand | None, name: str | None = None, **attributes: Any) -> Value:
        """Any operator with one output. An operand that is None is left out."""
        inputs = ["" if operand is None else self._value(operand).name for operand in operands]
        output = name or f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return Value(self, output)

    def join(self, values: Sequence[Value], axis: int) -> Value:
        """Concatenates along an axis."""
        return self.node("Concat", *values, axis=axis)

    def model(
        self, name: str, outputs: Mapping[str, tuple[Value, Sequence[int | str]]], *, producer: str = "avatar_kit"
    ) -> onnx.ModelProto:
        """The finished model; `outputs` gives each its name and shape."""
        for output, (value, _) in outputs.items():
            if value.name != output:
                self.node("Identity", value, name=output)
        infos = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape) for output, (_, shape) in outputs.items()]
        graph = helper.make_graph(self._nodes, name, self._inputs, infos, list(self._constants.values()))
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name=producer)

    def _value(self, operand: Operand) -> Value:
        return operand if isinstance(operand, Value) else self.constant(operand)
