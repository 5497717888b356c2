"""Quantises those convolutions of a network that int8 makes quicker, and of them only so many that it cannot be seen.

These have more weights than values to read: half of the weights' way through memory is spared, and the values are
quickly quantised. Behind a wide picture the quantising takes as long as int8 spares. Statically by ONNX Runtime, as pairs of
quantising and dequantising operators (QDQ) before a convolution and none behind it, with signed weights by channel.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, shape_inference

from avatar_kit.onnx_files import load_model
from avatar_tools.onnx_sessions import open_session, run_session

Feeds: TypeAlias = Sequence[Mapping[str, NDArray[np.float32]]]

LEAST_DB = 46.0  # of a variant in ONNX Runtime: one more than the services ask for is left to bfloat16
_COMPARED = 4  # of the inputs


def in_int8(path: Path, feeds: Feeds, output: str) -> onnx.ModelProto:
    """Returns the network with as many convolutions in int8 as keep its worst output within LEAST_DB, the least noisy first.

    `feeds`: inputs to calibrate with, all of one batch. Raises ValueError when there is no such convolution, and what ONNX
    Runtime raises.
    """
    compared = feeds[:: math.ceil(len(feeds) / _COMPARED)]
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        exact = _prepared(path, prepared)
        candidates = _candidates(exact)
        if not candidates:
            raise ValueError("no convolution that can be in int8 has more weights than values to read, so none would gain")
        reference = _outputs(exact, compared, output)
        quantised = _quantised(prepared, candidates, feeds)
        noises = {
            name: np.square(_outputs(_mixed(exact, quantised, name), compared, output) - reference).mean(axis=(1, 2, 3))
            for name in candidates
        }
        chosen = _unseen(noises)
        if not chosen:
            raise ValueError("each convolution that would gain would be seen in int8")
        return quantised if len(chosen) == len(candidates) else _quantised(prepared, chosen, feeds)


def _prepared(path: Path, prepared: Path) -> onnx.ModelProto:
    """Writes the network as the quantiser wants it: merged with its batch norms, and each node with a name."""
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415  # heavy, and optional

    whole = prepared.with_name("whole.onnx")
    onnx.save(load_model(path), whole)
    quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
    model = load_model(prepared)
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    onnx.save(model, prepared)
    return model


def _candidates(model: onnx.ModelProto) -> list[str]:
    """Returns the names of the dense convolutions with more weights than values to read.

    Not those right behind a concatenation: OpenVINO 2026.4 quantises its parts before they are joined, and mouths come to 16 dB.
    """
    inferred = shape_inference.infer_shapes(model).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in [*inferred.input, *inferred.value_info]}
    weights = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    joined = {name for node in model.graph.node if node.op_type == "Concat" for name in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type != "Conv" or _groups(node) != 1 or node.input[0] in joined:
            continue
        read = math.prod(dimension.dim_value for dimension in list(shapes.get(node.input[0], ()))[1:])
        if 0 < read < weights.get(node.input[1], 0):  # 0: of unknown size
            found.append(node.name)
    return found


def _groups(node: onnx.NodeProto) -> int:
    return next((int(helper.get_attribute_value(found)) for found in node.attribute if found.name == "group"), 1)


def _quantised(prepared: Path, names: Collection[str], feeds: Feeds) -> onnx.ModelProto:
    from onnxruntime import quantization  # noqa: PLC0415  # heavy, and optional

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
        def __init__(self) -> None:
            self._left: Iterator[Mapping[str, NDArray[np.float32]]] = iter(feeds)

        def get_next(self) -> Any:
            return next(self._left, None)

    made = prepared.with_name("made.onnx")
    quantization.quantize_static(
        str(prepared),
        str(made),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        nodes_to_quantize=list(names),
        extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"], "QuantizeBias": False},
    )
    return load_model(made)


def _mixed(exact: onnx.ModelProto, quantised: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Returns the quantised network with all convolutions but the one as they were."""
    originals = {node.name: node for node in exact.graph.node}
    mixed = onnx.ModelProto()
    mixed.CopyFrom(quantised)
    for node in mixed.graph.node:
        if node.op_type == "Conv" and node.name != name:
            node.CopyFrom(originals[node.name])
    present = {tensor.name for tensor in mixed.graph.initializer}
    mixed.graph.initializer.extend(tensor for tensor in exact.graph.initializer if tensor.name not in present)
    return mixed


def _outputs(model: onnx.ModelProto, feeds: Feeds, output: str) -> NDArray[np.float64]:
    """Returns the outputs for all inputs, values kept to 0..1 as those of pixels are."""
    session = open_session(model.SerializeToString(), "the network")
    outputs = [run_session(session, "the network", feed, [output])[0][:1] for feed in feeds]
    return np.clip(np.concatenate(outputs).astype(np.float64), 0, 1)


def _unseen(noises: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """Chooses convolutions by the mean square errors [compared] that each alone makes: independent ones add up."""
    chosen: list[str] = []
    total = np.zeros(1)
    for name in sorted(noises, key=lambda one: float(noises[one].max())):
        total = total + noises[name]
        if not total.max() <= 10 ** (-LEAST_DB / 10):
            break
        chosen.append(name)
    return chosen
