"""Encoders for the tests: one that only picks values, so that its rows show what was read, and one of the real size."""

from __future__ import annotations

import os
from collections.abc import Callable

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from inference_service.audio.encoder import AudioEncoder

# in, out, kernel, strides, padding; a layer that keeps its shape adds its input before the ReLU.
LAYERS = [
    (1, 32, 3, (1, 1), 1),
    *[(32, 32, 3, (1, 1), 1)] * 2,
    (32, 64, 3, (3, 1), 1),
    *[(64, 64, 3, (1, 1), 1)] * 2,
    (64, 128, 3, (3, 3), 1),
    *[(128, 128, 3, (1, 1), 1)] * 2,
    (128, 256, 3, (3, 2), 1),
    (256, 256, 3, (1, 1), 1),
    (256, 512, 3, (1, 1), 0),
    (512, 512, 1, (1, 1), 0),
]


def full_size_encoder(batch: int | None = None) -> onnx.ModelProto:
    """The real encoder's convolutions with random weights, batch norms already folded in."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "mel"
    for i, (inputs, outputs, kernel, strides, pad) in enumerate(LAYERS):
        residual = inputs == outputs and kernel == 3
        scale = (1.0 if residual else 1.4) / np.sqrt(inputs * kernel**2)
        weight = rng.standard_normal((outputs, inputs, kernel, kernel)) * scale
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"weight{i}"))
        weights.append(numpy_helper.from_array((rng.standard_normal(outputs) * 0.1).astype(np.float32), f"bias{i}"))
        nodes.append(helper.make_node("Conv", [last, f"weight{i}", f"bias{i}"], [f"conv{i}"], strides=strides, pads=[pad] * 4))
        if residual:
            nodes.append(helper.make_node("Add", [f"conv{i}", last], [f"sum{i}"]))
        nodes.append(helper.make_node("Relu", [f"sum{i}" if residual else f"conv{i}"], [f"relu{i}"]))
        last = f"relu{i}"
    nodes.append(helper.make_node("Flatten", [last], ["rows"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch or "n", *shape])
        for name, shape in [("mel", (1, 80, 16)), ("rows", (512,))]
    ]
    graph = helper.make_graph(nodes, "encoder", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def open_session(model: onnx.ModelProto, *, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="session")
def full_size_session() -> Callable[..., onnxruntime.InferenceSession]:
    def session(*, threads: int = 1, batch: int | None = None) -> onnxruntime.InferenceSession:
        return open_session(full_size_encoder(batch), threads=threads)

    return session


@pytest.fixture(scope="session")
def picked() -> NDArray[np.int64]:
    """Places, among a window's 1280 values, of those that the picking encoder gives back."""
    return np.random.default_rng(1).permutation(1280)[:512]


@pytest.fixture(scope="session")
def picking_encoder(picked: NDArray[np.int64]) -> AudioEncoder:
    return AudioEncoder(lambda windows: windows.reshape(-1, 1280)[:, picked])


@pytest.fixture(scope="session")
def speech() -> NDArray[np.float32]:
    """10 s that change all the time: tones that glide, noise that comes and goes, pauses of digital silence."""
    rng = np.random.default_rng(2)
    t = np.arange(160000) / 16000
    tone = np.sin(2 * np.pi * (150 * t + 400 * np.sin(2 * np.pi * 0.7 * t))) + 0.5 * np.sin(2 * np.pi * 1900 * t)
    sound = 0.2 * tone * np.abs(np.sin(2 * np.pi * 1.3 * t)) + 0.05 * rng.standard_normal(len(t)) * np.abs(np.sin(3 * t))
    sound[48000:64000] = 0
    return sound.astype(np.float32)
