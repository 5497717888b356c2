"""Layers of the two networks, written as ONNX nodes with the batch norms folded into the convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from avatar_tools.networks.architecture import BATCH_NORM_EPSILON, Weights

OPSET = 17
IR_VERSION = 8
BATCH = "N"  # the name of the open batch dimension

_Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A convolution's constants, float64: weight [outputs, inputs per group, height, width], bias [outputs]."""

    weight: _Array
    bias: _Array


class Layers:
    """Collects nodes and constants. Methods take and return the names of tensors, NCHW."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def inverted_residual(self, x: str, prefix: str, *, stride: int = 1, residual: bool = False) -> str:
        """1x1 to the wide middle, ReLU; depthwise 3x3, ReLU; 1x1 back, linear; for a residual block the sum with `x`."""
        wide = self.relu(self.convolution(x, f"{prefix}.conv.0", self.folded(f"{prefix}.conv.0", f"{prefix}.conv.1")))
        depthwise = self.folded(f"{prefix}.conv.3", f"{prefix}.conv.4")
        wide = self.relu(
            self.convolution(wide, f"{prefix}.conv.3", depthwise, stride=(stride, stride), padding=1, groups=len(depthwise.bias))
        )
        y = self.convolution(wide, f"{prefix}.conv.6", self.folded(f"{prefix}.conv.6", f"{prefix}.conv.7"))
        return self.add(y, x) if residual else y

    def double(self, x: str, prefix: str, *, stride: int = 1) -> str:
        """Two inverted residuals, the second with the sum."""
        y = self.inverted_residual(x, f"{prefix}.double_conv.0", stride=stride)
        return self.inverted_residual(y, f"{prefix}.double_conv.1", residual=True)

    def folded(self, convolution: str, batch_norm: str | None = None) -> Kernel:
        """The convolution of that key with the batch norm behind it folded in."""
        weight = self._weights[f"{convolution}.weight"].astype(np.float64)
        bias = np.zeros(len(weight))
        if f"{convolution}.bias" in self._weights:
            bias = self._weights[f"{convolution}.bias"].astype(np.float64)
        if batch_norm is None:
            return Kernel(weight, bias)
        gamma, beta, mean, variance = (
            self._weights[f"{batch_norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        return Kernel(weight * scale[:, None, None, None], (bias - mean) * scale + beta)

    def convolution(
        self, x: str, name: str, kernel: Kernel, *, stride: tuple[int, int] = (1, 1), padding: int = 0, groups: int = 1
    ) -> str:
        """A convolution with bias; its constants are stored as float32 under `name`."""
        return self.node(
            "Conv",
            [
                x,
                self.constant(f"{name}.weight", kernel.weight.astype(np.float32)),
                self.constant(f"{name}.bias", kernel.bias.astype(np.float32)),
            ],
            name,
            kernel_shape=list(kernel.weight.shape[2:]),
            strides=list(stride),
            pads=[padding] * 4,
            group=groups,
        )

    def relu(self, x: str) -> str:
        """Negative values become 0."""
        return self.node("Relu", [x], f"{x}.relu")

    def add(self, x: str, y: str) -> str:
        """The sum of two tensors of one shape."""
        return self.node("Add", [x, y], f"{x}.sum")

    def doubled_size(self, x: str) -> str:
        """Bilinear, twice the height and width; the corner pixels keep their places."""
        scales = self.constant("twice", np.array([1, 1, 2, 2], np.float32))
        return self.node("Resize", [x, "", scales], f"{x}.up", mode="linear", coordinate_transformation_mode="align_corners")

    def concatenated(self, parts: Sequence[str], name: str) -> str:
        """Along the channels."""
        return self.node("Concat", parts, name, axis=1)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A constant; asking again for the same name gives the one that is there."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Any node with one output."""
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def model(
        self, name: str, inputs: Sequence[tuple[str, tuple[int, ...]]], outputs: Sequence[tuple[str, tuple[int, ...]]]
    ) -> onnx.ModelProto:
        """The model; `inputs` and `outputs` are names and shapes without the batch dimension, which stays open. All float32."""
        graph = helper.make_graph(
            self._nodes, name, [_end(*end) for end in inputs], [_end(*end) for end in outputs], list(self._constants.values())
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="avatar_kit"
        )


def _end(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, *shape])
