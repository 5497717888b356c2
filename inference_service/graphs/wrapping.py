"""Puts the work around an avatar's network into its graph: a batch costs one upload of sound and one download of pixels.

The wrapped graph takes a bank of the avatar's crops (uint8), the slots of the batch's crops in it, the slot of the crop that is
the reference of all frames (where the avatar has one), pictures that a caller sent itself, and windows of feature rows. It gives
the mouths of the network (float32). For a GPU it also gives them as pixels (uint8), and a sum per frame, which shows values that
are not finite; on a CPU `inference_service.engines.outputs` makes these, and the network is rewritten (`graphs.cpu_form`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from avatar_kit.errors import BrokenAvatar, as_broken_avatar
from avatar_kit.geometry import MOUTH_SIZE, Mask
from avatar_kit.onnx_files import load_model, runtime_reason
from avatar_kit.onnx_io import NetworkIO, network_io
from inference_service.graphs.cpu_form import ONNX_RUNTIME, in_cpu_form
from inference_service.graphs.float16 import to_float16
from inference_service.graphs.graph import needed_nodes

BANK = "lipsync/bank"  # uint8 [slots, 3, 320, 320]
SLOTS = "lipsync/slots"  # int64 [n]
REFERENCE_SLOT = "lipsync/reference_slot"  # int64 [1]
SENT_PICTURES = "lipsync/sent_pictures"  # float32 [m, 6, 320, 320]
MOUTHS_UINT8 = "lipsync/mouths_uint8"  # uint8 [n + m, 3, 320, 320]
SUMS = "lipsync/sums"  # float32 [n + m]

MIN_OPSET = 13  # ReduceSum takes its axes as an input from here on


@dataclass(frozen=True)
class WrappedNetwork:
    """The names and the batch of a wrapped network. Windows and float mouths keep the names that the file gives them."""

    windows: str  # input, float32 [n + m, 32, 16, 16]
    mouths_float: str  # output, float32 [n + m, 3, 320, 320]
    inputs: frozenset[str]  # those that the graph reads: a network may ignore its pictures
    batch: int | None  # fixed size; None: any
    producer: str  # the program that wrote the file; "" when the file does not say


@as_broken_avatar("the network")
def wrap_network(
    path: Path, mask: Mask, *, for_cpu: bool, fixed_reference: bool, float16: bool = False
) -> tuple[onnx.ModelProto, WrappedNetwork]:
    """Reads the network at `path` and wraps it. The model may be dropped once sessions are open on it.

    With `fixed_reference` the first three channels are of the crop at REFERENCE_SLOT, whichever crop is masked in the others.
    With `float16` the network computes in it, but for its last convolution (`graphs.float16`).

    Numerics: bank values / 255 in float32, the masked copy is the product with a 0/1 mask; pixels are the output x 255 in
    float32, clamped to 0..255 and truncated (reference: SyncTalk_2D's inference script).

    Raises BrokenAvatar when the file is no ONNX network of this family.
    """
    model = load_model(path)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, MIN_OPSET)
        except Exception as error:  # of many kinds
            told = f"{path.name} is of operator set {opset} and cannot be converted to {MIN_OPSET}: {runtime_reason(error)}"
            raise BrokenAvatar(told) from error
    producer = model.producer_name
    network_io(model)  # refuses what does not fit before anything is rewritten
    if for_cpu:
        model = in_cpu_form(model, ONNX_RUNTIME, path.name)
    io = network_io(model)
    if float16:
        model = to_float16(model, io.output)
    graph = model.graph
    # The nodes that the network does not read are left out: ONNX Runtime would run them all the same.
    before = _before(io, mask, fixed_reference=fixed_reference)
    outputs = _outputs(io)[: 1 if for_cpu else None]
    nodes = needed_nodes([*before, *graph.node, *_after(io)], [value.name for value in outputs])
    read = {name for node in nodes for name in node.input}
    own_inputs = [value for value in graph.input if value.name not in (io.visual, io.audio)]
    inputs = [*(value for value in _inputs(io) if value.name in read), *own_inputs]
    replaced: list[tuple[Any, Any]] = [(graph.node, nodes), (graph.input, inputs), (graph.output, outputs)]
    for values, new in replaced:
        del values[:]
        values.extend(new)
    return model, WrappedNetwork(io.audio, io.output, frozenset(value.name for value in inputs), io.batch, producer)


def without_sent_pictures(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy of a wrapped network that takes the avatar's own pictures alone.

    A captured CUDA graph needs that: ONNX Runtime joins tensors of different sizes by tables. It uploads them from memory that it
    uses for other things after the run, and that each replay would read again (CudaAsyncBuffer in its concat.cc).
    """
    own = onnx.ModelProto()
    own.CopyFrom(model)
    for node in own.graph.node:
        if SENT_PICTURES in node.input:
            node.op_type = "Identity"
            node.input.remove(SENT_PICTURES)
            del node.attribute[:]
    inputs = [value for value in own.graph.input if value.name != SENT_PICTURES]
    del own.graph.input[:]
    own.graph.input.extend(inputs)
    return own


def _inputs(io: NetworkIO) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(BANK, TensorProto.UINT8, ["slots", 3, MOUTH_SIZE, MOUTH_SIZE]),
        helper.make_tensor_value_info(SLOTS, TensorProto.INT64, ["from_bank"]),
        helper.make_tensor_value_info(REFERENCE_SLOT, TensorProto.INT64, [1]),
        helper.make_tensor_value_info(SENT_PICTURES, TensorProto.FLOAT, ["sent", 6, MOUTH_SIZE, MOUTH_SIZE]),
        helper.make_tensor_value_info(io.audio, TensorProto.FLOAT, [io.batch or "frames", 32, 16, 16]),
    ]


def _outputs(io: NetworkIO) -> list[onnx.ValueInfoProto]:
    frames = io.batch or "frames"
    return [
        helper.make_tensor_value_info(io.output, TensorProto.FLOAT, [frames, 3, MOUTH_SIZE, MOUTH_SIZE]),
        helper.make_tensor_value_info(MOUTHS_UINT8, TensorProto.UINT8, [frames, 3, MOUTH_SIZE, MOUTH_SIZE]),
        helper.make_tensor_value_info(SUMS, TensorProto.FLOAT, [frames]),
    ]


def _constant(name: str, value: np.ndarray[Any, Any]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))


def _before(io: NetworkIO, mask: Mask, *, fixed_reference: bool) -> list[onnx.NodeProto]:
    p = "lipsync/pre/"
    reference = p + ("reference" if fixed_reference else "unmasked")
    joined = p + "pictures" if io.batch else io.visual
    nodes = [
        _constant(p + "255", np.array(255, np.float32)),
        _constant(p + "mask", mask.kept().astype(np.float32).reshape(1, 1, MOUTH_SIZE, MOUTH_SIZE)),
        helper.make_node("Gather", [BANK, SLOTS], [p + "crops"], axis=0),
        helper.make_node("Cast", [p + "crops"], [p + "crops_float"], to=TensorProto.FLOAT),
        helper.make_node("Div", [p + "crops_float", p + "255"], [p + "unmasked"]),
        helper.make_node("Mul", [p + "unmasked", p + "mask"], [p + "masked"]),
        helper.make_node("Gather", [BANK, REFERENCE_SLOT], [p + "reference_crop"], axis=0),
        helper.make_node("Cast", [p + "reference_crop"], [p + "reference_float"], to=TensorProto.FLOAT),
        helper.make_node("Div", [p + "reference_float", p + "255"], [p + "reference_unmasked"]),
        helper.make_node("Shape", [p + "unmasked"], [p + "shape"]),
        helper.make_node("Expand", [p + "reference_unmasked", p + "shape"], [p + "reference"]),
        helper.make_node("Concat", [reference, p + "masked"], [p + "own_pictures"], axis=1),
        helper.make_node("Concat", [p + "own_pictures", SENT_PICTURES], [joined], axis=0),
    ]
    if io.batch:  # ONNX Runtime plans memory best where it knows all shapes; it cannot infer that of the joined pictures
        shape = np.array([io.batch, 6, MOUTH_SIZE, MOUTH_SIZE], np.int64)
        nodes += [_constant(p + "shape_of_all", shape), helper.make_node("Reshape", [joined, p + "shape_of_all"], [io.visual])]
    return nodes


def _after(io: NetworkIO) -> list[onnx.NodeProto]:
    p = "lipsync/post/"
    return [
        _constant(p + "255", np.array(255, np.float32)),
        _constant(p + "0", np.array(0, np.float32)),
        _constant(p + "axes", np.array([1, 2, 3], np.int64)),
        helper.make_node("ReduceSum", [io.output, p + "axes"], [SUMS], keepdims=0),
        helper.make_node("Mul", [io.output, p + "255"], [p + "scaled"]),
        helper.make_node("Clip", [p + "scaled", p + "0", p + "255"], [p + "clamped"]),
        helper.make_node("Cast", [p + "clamped"], [MOUTHS_UINT8], to=TensorProto.UINT8),
    ]
