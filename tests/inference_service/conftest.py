"""Small avatars with networks whose answer a few lines of numpy give too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avatar_kit.avatar import Avatar
from avatar_kit.geometry import Mask, Rect
from avatar_kit.timeline import Loop
from avatar_kit.writer import AvatarWriter

MIX = np.random.default_rng(7).uniform(-1.2, 1.2, (3, 6, 1, 1)).astype(np.float32)
MakeAvatar = Callable[..., Avatar]


def network(*, batch: int | str = "batch", visual: str = "input", scale: float = 1.0) -> onnx.ModelProto:
    """sigmoid(1x1 convolution of the pictures + mean of the window)."""
    nodes = [
        helper.make_node("Conv", [visual, "mix"], ["mixed"]),
        helper.make_node("ReduceMean", ["sound"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
        helper.make_node("Add", ["mixed", "scaled"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["mouth"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info("sound", TensorProto.FLOAT, [batch, 32, 16, 16]),
            helper.make_tensor_value_info(visual, TensorProto.FLOAT, [batch, 6, 320, 320]),
        ],
        [helper.make_tensor_value_info("mouth", TensorProto.FLOAT, [batch, 3, 320, 320])],
        [numpy_helper.from_array(MIX, "mix"), numpy_helper.from_array(np.array(scale, np.float32), "scale")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def hearing_network(amplitudes: Sequence[float]) -> onnx.ModelProto:
    """sigmoid(the picture + pictures that convolutions of those amplitudes make of the sound).

    The convolutions have more weights than values to read. What is loud shows the steps of int8.
    """
    values = np.random.default_rng(3).normal(0, 1 / 17, (32, 32, 3, 3))
    constants = {
        "starts": np.array([0]),
        "stops": np.array([3]),
        "axes": np.array([1]),
        "sizes": np.array([1, 1, 20, 20], np.float32),
    }
    nodes = [helper.make_node("Slice", ["input", "starts", "stops", "axes"], ["sum0"])]
    for number, amplitude in enumerate(amplitudes):
        constants[f"w{number}"] = (values * amplitude).astype(np.float32)
        nodes += [
            helper.make_node("Conv", ["sound", f"w{number}"], [f"heard{number}"], pads=[1, 1, 1, 1]),
            helper.make_node("Slice", [f"heard{number}", "starts", "stops", "axes"], [f"some{number}"]),
            helper.make_node("Resize", [f"some{number}", "", "sizes"], [f"large{number}"]),
            helper.make_node("Add", [f"sum{number}", f"large{number}"], [f"sum{number + 1}"]),
        ]
    nodes.append(helper.make_node("Sigmoid", [f"sum{len(amplitudes)}"], ["mouth"]))
    graph = helper.make_graph(
        nodes,
        "hearing",
        [
            helper.make_tensor_value_info("sound", TensorProto.FLOAT, ["batch", 32, 16, 16]),
            helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 6, 320, 320]),
        ],
        [helper.make_tensor_value_info("mouth", TensorProto.FLOAT, ["batch", 3, 320, 320])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def encoder() -> onnx.ModelProto:
    """Each row is the window's first 512 values, made positive."""
    nodes = [
        helper.make_node("Reshape", ["mel", "flat"], ["values"]),
        helper.make_node("Slice", ["values", "start", "stop", "axis"], ["first"]),
        helper.make_node("Abs", ["first"], ["rows"]),
    ]
    constants = {"flat": [0, 1280], "start": [0], "stop": [512], "axis": [1]}
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("mel", TensorProto.FLOAT, ["batch", 1, 80, 16])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", 512])],
        [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def foreign_model() -> onnx.ModelProto:
    """A sound ONNX file of another family."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 224, 224])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def picture(index: int, width: int = 400, height: int = 300) -> bytes:
    """A smooth JPEG, different for each index."""
    noise = np.random.default_rng(index).integers(0, 255, (9, 12, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))[1])


@pytest.fixture
def make_avatar(tmp_path: Path) -> MakeAvatar:
    """Writes an avatar under tmp_path / "models"."""

    def make(
        avatar_id: str = "someone",
        *,
        frames: int = 5,
        model: onnx.ModelProto | bytes | None = None,
        loop: Loop = Loop.BOUNCE,
        mask: Mask | None = None,
        reference_frame: int | None = None,
        replace: bool = False,
        own_encoder: bool = True,
    ) -> Avatar:
        root = tmp_path / "models"
        root.mkdir(exist_ok=True)
        if model is None:
            model = network()
        properties = {"loop": loop, "mask": mask, "reference_frame": reference_frame, "replace": replace}
        with AvatarWriter(root, avatar_id, width=400, height=300, **properties) as writer:
            for index in range(frames):
                writer.add_frame(picture(index), Rect(100 + index, 60, 280 + index, 240))
            writer.set_network(model if isinstance(model, bytes) else model.SerializeToString())
            if own_encoder:
                writer.set_audio_encoder(encoder().SerializeToString())
            return writer.finish()

    return make
