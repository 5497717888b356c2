"""Puts what surrounds an avatar's network into its graph: a batch costs one upload of sound and one download of pixels.

Inputs of the wrapped graph: the avatar's crops in a bank (uint8), which of them to take, pictures that a caller sent itself, and
the windows of feature rows. Outputs: the mouths as the network gives them (float32), as pixels (uint8), and a sum per frame that
shows values that are not finite.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import MOUTH_SIZE, Mask
from avatar_kit.onnx_io import NetworkIO, network_io

BANK = "lipsync/bank"  # uint8 [slots, 3, 320, 320]
SLOTS = "lipsync/slots"  # int64 [n]
SENT_PICTURES = "lipsync/sent_pictures"  # float32 [m, 6, 320, 320]
WINDOWS = "lipsync/windows"  # float32 [n + m, 32, 16, 16]
MOUTHS_FLOAT = "lipsync/mouths_float"  # float32 [n + m, 3, 320, 320]
MOUTHS_UINT8 = "lipsync/mouths_uint8"  # uint8 [n + m, 320, 320, 3]
SUMS = "lipsync/sums"  # float32 [n + m]

MIN_OPSET = 13  # ReduceSum, Unsqueeze and Clip take their parameters as inputs from here on
PIXELS = MOUTH_SIZE * MOUTH_SIZE


def wrap_network(path: Path, mask: Mask) -> tuple[onnx.ModelProto, int | None]:
    """The network at `path` with pre- and post-processing around it, and its fixed batch size (None: any).

    Numerics: bank values / 255 in float32, the masked copy is the product with a 0/1 mask; pixels are the output x 255 in
    float32, clamped to 0..255 and truncated (reference: SyncTalk_2D's inference script).

    Raises BrokenAvatar when the file is no ONNX network of this family.
    """
    try:
        model = onnx.load(str(path))
    except FileNotFoundError:
        raise BrokenAvatar([f"{path.name}: the network is missing"]) from None
    except Exception as error:  # protobuf and onnx raise many types for a damaged file
        raise BrokenAvatar([f"{path.name}: not an ONNX file ({type(error).__name__})"]) from error
    io = network_io(model)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        model = onnx.version_converter.convert_version(model, MIN_OPSET)
    _splice(model.graph, io, mask)
    return model, io.batch


def _splice(graph: onnx.GraphProto, io: NetworkIO, mask: Mask) -> None:
    pre, post = _before(io, mask), _after(io)
    network = list(graph.node)
    del graph.node[:]
    graph.node.extend([*pre, *network, *post])
    kept_inputs = [value for value in graph.input if value.name not in (io.visual, io.audio)]
    del graph.input[:]
    graph.input.extend(
        [
            helper.make_tensor_value_info(BANK, TensorProto.UINT8, ["slots", 3, MOUTH_SIZE, MOUTH_SIZE]),
            helper.make_tensor_value_info(SLOTS, TensorProto.INT64, ["from_bank"]),
            helper.make_tensor_value_info(SENT_PICTURES, TensorProto.FLOAT, ["sent", 6, MOUTH_SIZE, MOUTH_SIZE]),
            helper.make_tensor_value_info(WINDOWS, TensorProto.FLOAT, ["frames", 32, 16, 16]),
            *kept_inputs,
        ]
    )
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info(MOUTHS_FLOAT, TensorProto.FLOAT, ["frames", 3, MOUTH_SIZE, MOUTH_SIZE]),
            helper.make_tensor_value_info(MOUTHS_UINT8, TensorProto.UINT8, ["frames", MOUTH_SIZE, MOUTH_SIZE, 3]),
            helper.make_tensor_value_info(SUMS, TensorProto.FLOAT, ["frames"]),
        ]
    )


def _constant(name: str, value: np.ndarray[Any, Any]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))


def _before(io: NetworkIO, mask: Mask) -> list[onnx.NodeProto]:
    p = "lipsync/pre/"
    return [
        _constant(p + "255", np.array(255, np.float32)),
        _constant(p + "mask", mask.kept().astype(np.float32).reshape(1, 1, MOUTH_SIZE, MOUTH_SIZE)),
        helper.make_node("Gather", [BANK, SLOTS], [p + "crops"], axis=0),
        helper.make_node("Cast", [p + "crops"], [p + "crops_float"], to=TensorProto.FLOAT),
        helper.make_node("Div", [p + "crops_float", p + "255"], [p + "unmasked"]),
        helper.make_node("Mul", [p + "unmasked", p + "mask"], [p + "masked"]),
        helper.make_node("Concat", [p + "unmasked", p + "masked"], [p + "own_pictures"], axis=1),
        helper.make_node("Concat", [p + "own_pictures", SENT_PICTURES], [io.visual], axis=0),
        helper.make_node("Identity", [WINDOWS], [io.audio]),
    ]


def _after(io: NetworkIO) -> list[onnx.NodeProto]:
    p = "lipsync/post/"
    return [
        _constant(p + "255", np.array(255, np.float32)),
        _constant(p + "0", np.array(0, np.float32)),
        _constant(p + "planes", np.array([0, 3, PIXELS], np.int64)),
        _constant(p + "pixels", np.array([0, MOUTH_SIZE, MOUTH_SIZE, 3], np.int64)),
        _constant(p + "axes", np.array([1, 2, 3], np.int64)),
        helper.make_node("Identity", [io.output], [MOUTHS_FLOAT]),
        helper.make_node("ReduceSum", [io.output, p + "axes"], [SUMS], keepdims=0),
        helper.make_node("Mul", [io.output, p + "255"], [p + "scaled"]),
        helper.make_node("Clip", [p + "scaled", p + "0", p + "255"], [p + "clamped"]),
        helper.make_node("Cast", [p + "clamped"], [p + "uint8"], to=TensorProto.UINT8),
        helper.make_node("Reshape", [p + "uint8", p + "planes"], [p + "flat"]),
        helper.make_node("Transpose", [p + "flat"], [p + "interleaved"], perm=[0, 2, 1]),
        helper.make_node("Reshape", [p + "interleaved", p + "pixels"], [MOUTHS_UINT8]),
    ]
