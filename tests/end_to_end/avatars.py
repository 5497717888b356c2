"""Small avatars whose networks are exact: copies, products with powers of two and sums of two values, everywhere the same floats.

The picture that a small network gives shows every one of the 8192 values of the window that it heard, and the avatar's crop.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from avatar_kit.avatar import Avatar
from avatar_kit.geometry import Rect
from avatar_kit.writer import AvatarWriter

WIDTH, HEIGHT = 416, 304


def model(nodes: list[onnx.NodeProto], inputs: dict, outputs: dict, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model of float32 inputs and outputs."""

    def values(shapes: dict) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]

    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small", values(inputs), values(outputs), weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def exact_network(*, batch: int | str = "batch", side: int = 320, gain: float = 0.125) -> onnx.ModelProto:
    """Planes B and G: the window as tiles of 5 x 5 pixels, over a quarter of the crop; plane R: both pictures' planes."""
    nodes = [
        helper.make_node("Reshape", ["sound", "tiles"], ["small"]),
        helper.make_node("Resize", ["small", "", "scales"], ["large"], mode="nearest", nearest_mode="floor",
                         coordinate_transformation_mode="asymmetric"),
        helper.make_node("Mul", ["large", "gain"], ["heard"]),
        helper.make_node("Slice", ["picture", "0", "2", "1"], ["seen_bg"]),
        helper.make_node("Mul", ["seen_bg", "quarter"], ["faint_bg"]),
        helper.make_node("Add", ["heard", "faint_bg"], ["bg"]),
        helper.make_node("Slice", ["picture", "2", "3", "1"], ["red"]),
        helper.make_node("Slice", ["picture", "5", "6", "1"], ["masked_red"]),
        helper.make_node("Mul", ["red", "quarter"], ["faint_red"]),
        helper.make_node("Mul", ["masked_red", "half"], ["half_red"]),
        helper.make_node("Add", ["faint_red", "half_red"], ["r"]),
        helper.make_node("Concat", ["bg", "r"], ["both"], axis=1),
        helper.make_node("Clip", ["both", "zero", "one"], ["mouth"]),
    ]  # fmt: skip
    integers = {"tiles": [0, 2, 64, 64], "0": [0], "1": [1], "2": [2], "3": [3], "5": [5], "6": [6]}
    floats = {"gain": gain, "quarter": 0.25, "half": 0.5, "zero": 0.0, "one": 1.0, "scales": [1, 1, side / 64, side / 64]}
    return model(
        nodes,
        {"picture": [batch, 6, side, side], "sound": [batch, 32, 16, 16]},
        {"mouth": [batch, 3, side, side]},
        {name: np.array(value, np.int64) for name, value in integers.items()}
        | {name: np.array(value, np.float32) for name, value in floats.items()},
    )


def exact_encoder() -> onnx.ModelProto:
    """Half of the first 1024 of a window's 1280 values, made positive."""
    nodes = [
        helper.make_node("Reshape", ["mel", "flat"], ["values"]),
        helper.make_node("Slice", ["values", "start", "stop", "axis", "step"], ["some"]),
        helper.make_node("Abs", ["some"], ["rows"]),
    ]
    constants = {"flat": [0, 1280], "start": [0], "stop": [1024], "axis": [1], "step": [2]}
    integers = {name: np.array(value, np.int64) for name, value in constants.items()}
    return model(nodes, {"mel": ["batch", 1, 80, 16]}, {"rows": ["batch", 512]}, integers)


def slow_network(*, layers: int = 6) -> onnx.ModelProto:
    """Tenths of a second a frame, more with more layers: convolutions in a row whose result is the picture's own planes."""
    generator = np.random.default_rng(5)
    sizes = [6, *[32] * (layers - 1), 3]
    weights = {
        f"w{k}": generator.normal(0, 0.05, (after, before, 3, 3)).astype(np.float32)
        for k, (before, after) in enumerate(itertools.pairwise(sizes))
    }
    names = ["picture", *[f"x{k}" for k in range(layers)]]
    nodes = [
        helper.make_node("Conv", [names[k], f"w{k}"], [names[k + 1]], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        for k in range(layers)
    ]
    nodes += [
        helper.make_node("ReduceMean", ["sound"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Add", [names[-1], "mean"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["mouth"]),
    ]
    shapes = {"picture": ["batch", 6, 320, 320], "sound": ["batch", 32, 16, 16]}
    return model(nodes, shapes, {"mouth": ["batch", 3, 320, 320]}, weights)


def foreign_model() -> onnx.ModelProto:
    """A sound ONNX file of another family."""
    shape = [1, 3, 224, 224]
    return model([helper.make_node("Relu", ["x"], ["y"])], {"x": shape}, {"y": shape}, {})


def endless_network() -> onnx.ModelProto:
    """Divides by the mean of the window: with silence that is the same everywhere it gives what is no finite number."""
    nodes = [
        helper.make_node("Slice", ["picture", "0", "3", "1"], ["seen"]),
        helper.make_node("ReduceMean", ["sound"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Sub", ["mean", "mean"], ["nothing"]),
        helper.make_node("Div", ["mean", "nothing"], ["endless"]),
        helper.make_node("Add", ["seen", "endless"], ["mouth"]),
    ]
    constants = {name: np.array([int(name)], np.int64) for name in ("0", "3", "1")}
    shapes = {"picture": ["batch", 6, 320, 320], "sound": ["batch", 32, 16, 16]}
    return model(nodes, shapes, {"mouth": ["batch", 3, 320, 320]}, constants)


def picky_network(least: float = 8) -> onnx.ModelProto:
    """Fails in the run where a value of the sound is `least` or more: it gives the mouth a shape that does not fit."""
    network = exact_network()
    network.graph.output[0].name = "shaped"
    network.graph.node.extend([
        *_loudest_is(least, "more", 1e6),
        helper.make_node("Mul", ["more", "columns"], ["wider"]),
        helper.make_node("Add", ["wider", "whole"], ["shape"]),
        helper.make_node("Reshape", ["mouth", "shape"], ["shaped"]),
    ])  # fmt: skip
    for name, values in {"columns": [0, 0, 0, 1], "whole": [0, 3, 320, 320]}.items():
        network.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return network


def _loudest_is(least: float, name: str, then: float) -> list[onnx.NodeProto]:
    """Gives `then` as int64 where some value of the sound is `least` or more, else 0."""
    return [
        helper.make_node("Constant", [], ["least"], value_float=float(least)),
        helper.make_node("Constant", [], ["then"], value_float=then),
        helper.make_node("ReduceMax", ["sound"], ["loudest"], keepdims=0),
        helper.make_node("GreaterOrEqual", ["loudest", "least"], ["is_loud"]),
        helper.make_node("Cast", ["is_loud"], ["one_or_none"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["one_or_none", "then"], ["float_number"]),
        helper.make_node("Cast", ["float_number"], [name], to=TensorProto.INT64),
    ]


def _endless_loop(rounds: str, start: str, end: str) -> onnx.NodeProto:
    """Adds nothing to `start`, so many rounds."""
    flag = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go_on", "goes_on")]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("value", "next_value")]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["goes_on"]), helper.make_node("Add", ["value", "nought"], ["next_value"])],
        "round",
        [helper.make_tensor_value_info("round", TensorProto.INT64, []), flag[0], value[0]],
        [flag[1], value[1]],
        [numpy_helper.from_array(np.array(0, np.float32), "nought")],
    )
    return helper.make_node("Loop", [rounds, "", start], [end], body=body)


def looping_network(least: float) -> onnx.ModelProto:
    """Goes on for ever where a value of the sound is `least` or more. ONNX Runtime can end it between two rounds."""
    network = exact_network()
    network.graph.output[0].name = "looped"
    network.graph.node.extend([
        *_loudest_is(least, "rounds", 1e15),
        helper.make_node("Constant", [], ["none"], value_float=0.0),
        _endless_loop("rounds", "none", "nothing"),
        helper.make_node("Add", ["mouth", "nothing"], ["looped"]),
    ])  # fmt: skip
    return network


def looping_encoder(least: float) -> onnx.ModelProto:
    """Goes on for ever where a value of the spectrum, which ends at 4, is `least` or more."""
    encoder = exact_encoder()
    encoder.graph.output[0].name = "looped"
    loud = _loudest_is(least, "rounds", 1e15)
    loud[2].input[0] = "mel"
    encoder.graph.node.extend([*loud, _endless_loop("rounds", "rows", "looped")])
    return encoder


def stuck_network(least: float) -> onnx.ModelProto:
    """Compares a million boxes with each other where a value of the sound is `least` or more: nothing ends one operator."""
    network = exact_network()
    network.graph.output[0].name = "counted"
    network.graph.node.extend([
        *_loudest_is(least, "boxes", 1e6),
        *[helper.make_node("Constant", [], [name], value_int=value) for name, value in (("0i", 0), ("1i", 1), ("most", 10**7))],
        helper.make_node("Constant", [], ["row"], value_ints=[1, 1, -1]),
        helper.make_node("Constant", [], ["column"], value_ints=[1, -1, 1]),
        helper.make_node("Constant", [], ["0.5"], value_float=0.5),
        helper.make_node("Constant", [], ["0f"], value_float=0.0),
        helper.make_node("Add", ["boxes", "1i"], ["some_boxes"]),
        helper.make_node("Range", ["0i", "some_boxes", "1i"], ["numbers"]),
        helper.make_node("Cast", ["numbers"], ["numbers_f"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers_f", "row"], ["scores"]),
        helper.make_node("Reshape", ["numbers_f", "column"], ["begin"]),
        helper.make_node("Add", ["begin", "0.5"], ["end"]),
        helper.make_node("Concat", ["begin", "begin", "end", "end"], ["corners"], axis=2),
        helper.make_node("NonMaxSuppression", ["corners", "scores", "most"], ["chosen"]),
        helper.make_node("Cast", ["chosen"], ["chosen_f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["chosen_f"], ["chosen_sum"], keepdims=0),
        helper.make_node("Mul", ["chosen_sum", "0f"], ["nothing"]),
        helper.make_node("Add", ["mouth", "nothing"], ["counted"]),
    ])  # fmt: skip
    return network


def background(index: int) -> bytes:
    """A smooth JPEG, different for each index."""
    noise = np.random.default_rng(index).integers(0, 255, (9, 12, 3), np.uint8)
    picture = cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 93])[1].tobytes()


def rect(index: int) -> Rect:
    """Moves and changes its size."""
    return Rect(101 + 3 * index, 62 + index, 101 + 3 * index + 178 + index % 3, 62 + index + 181)


def wide_rect(index: int) -> Rect:
    """Over nearly all of the picture, so that splicing saves nothing."""
    return Rect(2 + index, 1, WIDTH - 6 + index, HEIGHT - 2)


def write_avatar(
    models_root: Path,
    avatar_id: str,
    *,
    network: onnx.ModelProto | bytes | None = None,
    frames: int = 5,
    seed: int = 0,
    rects: Callable[[int], Rect] = rect,
    features: np.ndarray | None = None,
    encoder: onnx.ModelProto | None = None,
    **properties: Any,
) -> Avatar:
    """A small avatar with an encoder of its own; `properties` are AvatarWriter's."""
    content = network if isinstance(network, bytes) else (network or exact_network()).SerializeToString()
    with AvatarWriter(models_root, avatar_id, width=WIDTH, height=HEIGHT, **properties) as writer:
        for index in range(frames):
            writer.add_frame(background(seed + index), rects(index))
        writer.set_network(content)
        writer.set_audio_encoder((encoder or exact_encoder()).SerializeToString())
        if features is not None:
            writer.set_features(features)
        return writer.finish()


def _missing_frame(avatar: Avatar) -> None:
    avatar.frame_paths[2].unlink()


def _truncated_frame(avatar: Avatar) -> None:
    path = avatar.frame_paths[2]
    path.write_bytes(path.read_bytes()[:-400])


def _rect_outside(avatar: Avatar) -> None:
    assert avatar.rects_path
    rects = json.loads(avatar.rects_path.read_text())
    rects[1] = [WIDTH - 50, 10, WIDTH + 130, 190]
    avatar.rects_path.write_text(json.dumps(rects))


def _truncated_network(avatar: Avatar) -> None:
    avatar.network_path.write_bytes(avatar.network_path.read_bytes()[:300])


def _replaced_network(replacement: Callable[[], onnx.ModelProto]) -> Callable[[Avatar], None]:
    return lambda avatar: avatar.network_path.write_bytes(replacement().SerializeToString()) and None


def _truncated_encoder(avatar: Avatar) -> None:
    assert avatar.audio_encoder_path
    avatar.audio_encoder_path.write_bytes(avatar.audio_encoder_path.read_bytes()[:80])


BROKEN: dict[str, Callable[[Avatar], None]] = {
    "missing-frame": _missing_frame,
    "truncated-jpeg": _truncated_frame,
    "rect-outside": _rect_outside,
    "truncated-onnx": _truncated_network,
    "empty-onnx": lambda avatar: avatar.network_path.write_bytes(b"") and None,
    "foreign-onnx": _replaced_network(foreign_model),
    "wrong-shapes": _replaced_network(lambda: exact_network(side=256)),
    "not-finite": _replaced_network(endless_network),
    "truncated-encoder": _truncated_encoder,
    "no-manifest-text": lambda avatar: (avatar.root / "avatar.yaml").write_bytes(b"\x00\xff{") and None,
}


def write_broken_avatars(models_root: Path) -> None:
    """One for each way in `BROKEN`, under its name."""
    for name, break_it in BROKEN.items():
        break_it(write_avatar(models_root, name))
