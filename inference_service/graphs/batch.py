"""Fixing the batch size of a model whose batch dimension is open."""

from __future__ import annotations

import onnx


def with_static_batch(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """A copy of the model that takes and gives exactly `size` items. Raises ValueError when it is fixed to another size.

    Some published exports are like that (size 1); and ONNX Runtime, when it knows every shape, lets sums share memory with a
    convolution's output.
    """
    if size < 1:
        raise ValueError(f"a batch of {size}: at least 1")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {tensor.name for tensor in copy.graph.initializer}
    for value in [*copy.graph.input, *copy.graph.output]:
        if value.name not in weights:  # models of the old kind list their weights among the inputs
            _fix(value, size)
    del copy.graph.value_info[:]  # they may speak of the open dimension
    return copy


def _fix(value: onnx.ValueInfoProto, size: int) -> None:
    dimensions = value.type.tensor_type.shape.dim
    if not dimensions:
        raise ValueError(f"{value.name!r} has no batch dimension")
    if dimensions[0].HasField("dim_value") and dimensions[0].dim_value not in (0, -1, size):
        raise ValueError(f"{value.name!r} is fixed to a batch of {dimensions[0].dim_value}, not {size}")
    dimensions[0].dim_value = size
