"""Writes ONNX graphs as expressions: operators between tensors add nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from avatar_kit.onnx_io import DEMO_PRODUCER
from avatar_tools.networks.graph import Graph

Operand: TypeAlias = "Value | float | NDArray[Any]"


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph under construction. `+ - * /` with another, a number or an array add a node."""

    graph: ExpressionGraph
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


class ExpressionGraph:
    """A `Graph` of the demo whose tensors are `Value`s."""

    def __init__(self) -> None:
        self._graph = Graph()

    def input(self, name: str, shape: Sequence[int | str]) -> Value:
        """A float32 input of the model; a named dimension is open."""
        return Value(self, self._graph.input(name, shape))

    def constant(self, value: float | NDArray[Any], name: str | None = None) -> Value:
        """A number or an array; floats are stored as float32, equal ones without a name once."""
        return Value(self, self._graph.constant(value, name))

    def node(self, kind: str, *operands: Operand | None, **attributes: Any) -> Value:
        """Any operator with one output. An operand that is None is left out."""
        given = (operand.name if isinstance(operand, Value) else operand for operand in operands)
        return Value(self, self._graph.node(kind, *given, **attributes))

    def join(self, values: Sequence[Value], axis: int) -> Value:
        """Concatenates along an axis."""
        return self.node("Concat", *values, axis=axis)

    def model(self, name: str, outputs: Mapping[str, tuple[Value, Sequence[int | str]]]) -> onnx.ModelProto:
        """The finished model; `outputs` gives each its name and shape."""
        named = {output: (value.name, shape) for output, (value, shape) in outputs.items()}
        return self._graph.model(name, named, producer=DEMO_PRODUCER)
