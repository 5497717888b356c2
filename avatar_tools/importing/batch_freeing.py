"""Frees an exported network from its fixed batch size, when a trial shows that nothing else depends on it.

Some exporters write a batch of 1 into the inputs and outputs, and into the reshapes between. The changed network is accepted
only after running: its batches of 1 must give the original's values, and its batches of 2 those of the two items alone. The two
differ so much that any mixing is visible. Values must agree to a thousandth: kernels for open and fixed sizes round differently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from avatar_kit.errors import AvatarError
from avatar_tools.onnx_sessions import open_session, run_session

_TOLERANCE = 1e-3  # a quarter of a grey level; sharp networks were seen to differ by a tenth of it
_OPEN = "N"
_NAME = "the network"
_TOP_OF_ROWS = 10.0  # the largest values of audio features
_STRENGTHS = (1.0, 0.3)


def freed(model: onnx.ModelProto, binding: Callable[[onnx.ModelProto], Any]) -> onnx.ModelProto | None:
    """The model with an open batch dimension; None when that is not safe, or cannot be tried here.

    `binding`: `network_io` or `encoder_io`, whichever the model fits.
    """
    batch = binding(model).batch
    opened = _opened(model, batch)
    try:
        same = _gives_the_same(model, opened, batch)
    except AvatarError:
        return None
    return opened if same else None


def _opened(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {tensor.name for tensor in copy.graph.initializer}
    for value in [*copy.graph.input, *copy.graph.output]:
        dimensions = value.type.tensor_type.shape.dim
        if value.name not in weights and dimensions and dimensions[0].dim_value == batch:
            dimensions[0].dim_param = _OPEN
    del copy.graph.value_info[:]  # they have the fixed batch
    _open_reshapes(copy.graph, batch)
    return copy


def _open_reshapes(graph: onnx.GraphProto, batch: int) -> None:
    """Lets reshapes to [batch, ...] take the first dimension from their input."""
    targets = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    others = {name for node in graph.node for place, name in enumerate(node.input) if node.op_type != "Reshape" or place != 1}
    for tensor in graph.initializer:
        if tensor.name in targets - others and (opened := _without_batch(tensor, batch)):
            tensor.CopyFrom(opened)
    for node in graph.node:
        if node.op_type != "Constant" or node.output[0] not in targets - others:
            continue
        for attribute in node.attribute:
            if attribute.name == "value" and (opened := _without_batch(attribute.t, batch)):
                attribute.t.CopyFrom(opened)


def _without_batch(tensor: onnx.TensorProto, batch: int) -> onnx.TensorProto | None:
    """The shape with its first dimension open; None for a shape that is not [batch, known, ...]."""
    shape = numpy_helper.to_array(tensor)
    if shape.ndim != 1 or len(shape) < 2 or shape[0] != batch or (shape[1:] <= 0).any():
        return None
    return numpy_helper.from_array(np.array([-1, *shape[1:]], np.int64), tensor.name)


def _gives_the_same(model: onnx.ModelProto, opened: onnx.ModelProto, batch: int) -> bool:
    """The opened model gives the original's values in batches of 1 and of 2. Raises AvatarError."""
    original = open_session(model.SerializeToString(), _NAME)
    changed = open_session(opened.SerializeToString(), _NAME)
    generator = np.random.default_rng(5)
    items = [_random_inputs(original, generator, strength) for strength in _STRENGTHS]
    singles = [run_session(changed, _NAME, _stacked([item])) for item in items]
    pair = run_session(changed, _NAME, _stacked(items))
    for index, item in enumerate(items):
        wanted = [output[:1] for output in run_session(original, _NAME, _stacked([item] * batch))]
        alone, paired = singles[index], [output[index : index + 1] for output in pair]
        if not (_all_close(alone, wanted) and _all_close(paired, wanted)):
            return False
    return True


def _random_inputs(session: Any, generator: np.random.Generator, strength: float) -> dict[str, NDArray[np.float32]]:
    """One item of each input, of the sizes in the model; `strength`: brightness and loudness, 0..1."""
    inputs = {}
    for end in session.get_inputs():
        top = 1.0 if len(end.shape) == 4 and end.shape[1] == 6 else _TOP_OF_ROWS
        inputs[end.name] = generator.uniform(0, top * strength, end.shape[1:]).astype(np.float32)
    return inputs


def _stacked(items: list[dict[str, NDArray[np.float32]]]) -> dict[str, NDArray[np.float32]]:
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


def _all_close(given: list[NDArray[Any]], wanted: list[NDArray[Any]]) -> bool:
    return all(
        one.shape == other.shape and np.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE)
        for one, other in zip(given, wanted, strict=True)
    )
