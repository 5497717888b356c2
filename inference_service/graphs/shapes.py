"""The shapes of all tensors of a model, as far as ONNX can tell them."""

from __future__ import annotations

import math

import onnx
from onnx import helper, shape_inference

_LARGE = 64  # numbers; shapes and the like have fewer, and inference reads them


def inferred_values(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Types and shapes of inputs, outputs and what lies between. Raises ValueError when the graph contradicts itself.

    Inference copies the whole model, so it sees large constants as inputs.
    """
    graph = model.graph
    large = [tensor for tensor in graph.initializer if math.prod(tensor.dims) > _LARGE]
    names = {tensor.name for tensor in large}
    inputs = [value for value in graph.input if value.name not in names]
    inputs += [helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in large]
    small = [tensor for tensor in graph.initializer if tensor.name not in names]
    light = helper.make_model(
        helper.make_graph(list(graph.node), graph.name, inputs, list(graph.output), small),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
    try:
        found = shape_inference.infer_shapes(light, data_prop=True).graph
    except shape_inference.InferenceError as error:
        raise ValueError(str(error)) from error
    return [*found.input, *found.value_info, *found.output]
