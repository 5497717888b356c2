"""Models whose answers a few lines of arithmetic give too.

The detector reports a box around every cell of 8 x 8 pixels (16, 32) that is bright, reaching a known number of strides in each
direction. The landmarker gives fixed points, or reads the points' places off the picture's colours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

REACH = (5, 6, 7, 8)  # left, up, right, down, in strides
Save = Callable[[str, onnx.ModelProto], Path]


class Graph:
    """A model in the making."""

    def __init__(self, shape: Sequence[int | str]) -> None:
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.outputs: list[str] = []

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, kind: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def shaped(self, x: str, *shape: int) -> str:
        return self.add("Reshape", x, self.constant(shape, np.int64))

    def model(self, *outputs: str) -> onnx.ModelProto:
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, self.shape)
        graph = helper.make_graph(self.nodes, "test", [picture], ends, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def detector(
    *,
    strides: Sequence[int] = (8,),
    rgb: Sequence[float] = (1 / 3, 1 / 3, 1 / 3),
    right_reach: Sequence[float] = REACH,
    keypoints: bool = False,
    logits: bool = False,
    batch: bool = False,
    shape: Sequence[int | str] = (1, 3, 640, 640),
    columns: int = 4,
    scale: float = 1.0,
) -> onnx.ModelProto:
    """Scores are the brightness, 0..1, in cells of the given strides, and 0 in others; the second anchor has 9 tenths of it.

    `right_reach` holds in the right half. `rgb` are the channels' weights.
    """
    net = Graph(shape)
    weight = net.constant(np.array(rgb).reshape(1, 3, 1, 1) * 128 / 255)
    bright = net.add("Conv", "picture", weight, net.constant([sum(rgb) * 127.5 / 255]))
    scores, boxes, points = [], [], []
    for stride in (8, 16, 32):
        cells = net.add("AveragePool", bright, kernel_shape=[stride] * 2, strides=[stride] * 2)
        column = net.shaped(cells, -1, 1)
        gain = scale * (stride in strides)
        pair = [net.add("Mul", column, net.constant(gain * share)) for share in (1, 0.9)]
        score = net.shaped(net.add("Concat", *pair, axis=1), -1, 1)
        if logits:
            inside = net.add("Clip", score, net.constant(1e-6), net.constant(1 - 1e-6))
            score = net.add("Log", net.add("Div", inside, net.add("Sub", net.constant(1), inside)))
        side = 640 // stride
        reach = np.empty((side, side, 2, columns), np.float32)
        reach[:, : side // 2] = REACH[:columns]
        reach[:, side // 2 :] = right_reach[:columns]
        box = net.add("Identity", net.constant(reach.reshape(-1, columns)))
        point = net.add("Identity", net.constant(np.zeros((2 * side**2, 10))))
        if batch:
            score, box, point = (net.shaped(x, 1, 2 * side**2, -1) for x in (score, box, point))
        scores.append(score)
        boxes.append(box)
        points.append(point)
    return net.model(*scores, *boxes, *(points if keypoints else []))


def fixed_landmarker(points: NDArray[Any], *, shape: Sequence[int | str] = (1, 3, 192, 192)) -> onnx.ModelProto:
    """The same shares whatever the picture."""
    net = Graph(shape)
    nothing = net.add("Mul", net.add("ReduceMean", "picture", keepdims=0), net.constant(0))
    return net.model(net.add("Add", nothing, net.constant(points.reshape(1, -1))))


def reading_landmarker() -> onnx.ModelProto:
    """Point number 11 r + c has the mean blue and the mean red of block (r, c), 19 x 17 pixels, as its x and y."""
    net = Graph(["N", 3, 192, 192])
    blocks = net.add("AveragePool", "picture", kernel_shape=[19, 17], strides=[19, 17])
    colours = net.shaped(net.add("Gather", blocks, net.constant([0, 2], np.int64), axis=1), 1, 2, 110)
    points = net.add("Transpose", colours, perm=[0, 2, 1])
    unused = net.add("ReduceMean", "picture", axes=[2, 3], keepdims=0)
    return net.model(unused, net.shaped(points, 1, 220))


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save_model(name: str, model: onnx.ModelProto) -> Path:
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return path

    return save_model
