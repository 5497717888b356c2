"""A small avatar in both layouts, drawn and wired here so that the tests share nothing with what they judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from avatar_kit.avatar import Avatar
from avatar_kit.geometry import Rect
from avatar_kit.writer import AvatarWriter

from .encoded_videos import Films, Kind, Pictures, in_order
from .encoded_videos import write as write_video

WIDTH, HEIGHT, FRAMES = 160, 96, 6


def draw_frame(index: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A face that moves a little; no two frames are alike, and the last pixel is not grey."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:] = np.linspace(40, 200, width, dtype=np.uint8)[None, :, None]
    picture[..., 2] = np.linspace(10, 90, height, dtype=np.uint8)[:, None]
    x, y, unit = width // 2 + index, height // 2, height // 96 or 1
    cv2.ellipse(picture, (x, y), (30 * unit, 40 * unit), 0, 0, 360, (150, 180, 230), -1, cv2.LINE_AA)
    for side in (-1, 1):
        cv2.circle(picture, (x + side * 12 * unit, y - 10 * unit), 4 * unit, (60, 40, 30), -1, cv2.LINE_AA)
    cv2.ellipse(picture, (x, y + 18 * unit), (12 * unit, (3 + index % 3) * unit), 0, 0, 360, (70, 60, 180), -1, cv2.LINE_AA)
    return picture


def encode(picture: NDArray[np.uint8], suffix: str = ".jpg", *options: int) -> bytes:
    encoded, data = cv2.imencode(suffix, picture, list(options))
    assert encoded
    return data.tobytes()


def rect_of(index: int) -> Rect:
    return Rect(50 + index, 30, 110 + index, 90)


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], weights: dict[str, Any]) -> onnx.ModelProto:
    initializers = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    made = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make_network(batch: str | int = "N", *, gain: float = 0.05, visual: str = "input", audio: str = "audio") -> onnx.ModelProto:
    """Gives the unmasked picture back, darker the louder the audio input: sigmoid-like in 0..1, [N,3,320,320]."""
    nodes = [
        helper.make_node("Slice", [visual, "zero", "three", "one"], ["seen"]),
        helper.make_node("ReduceMean", [audio], ["loud"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["loud", "gain"], ["dark"]),
        helper.make_node("Sub", ["seen", "dark"], ["raw"]),
        helper.make_node("Clip", ["raw", "low", "high"], ["output"]),
    ]
    weights = {
        "zero": np.array([0]),
        "three": np.array([3]),
        "one": np.array([1]),
        "gain": np.float32(gain),
        "low": np.float32(0),
        "high": np.float32(1),
    }
    inputs = [value(visual, [batch, 6, 320, 320]), value(audio, [batch, 32, 16, 16])]
    return graph(nodes, inputs, [value("output", [batch, 3, 320, 320])], weights)


def make_encoder(batch: str | int = "N") -> onnx.ModelProto:
    """[N,1,80,16] to [N,512], positive."""
    nodes = [
        helper.make_node("Flatten", ["mel"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["raw"]),
        helper.make_node("Relu", ["raw"], ["rows"]),
    ]
    weights = np.random.default_rng(3).normal(size=(1280, 512)).astype(np.float32)
    return graph(nodes, [value("mel", [batch, 1, 80, 16])], [value("rows", [batch, 512])], {"weights": weights})


@pytest.fixture
def frame() -> Callable[..., NDArray[np.uint8]]:
    return draw_frame


@pytest.fixture
def jpeg_of() -> Callable[..., bytes]:
    return lambda index: encode(draw_frame(index))


@pytest.fixture
def network() -> Callable[..., onnx.ModelProto]:
    return make_network


@pytest.fixture
def encoder() -> Callable[..., onnx.ModelProto]:
    return make_encoder


@pytest.fixture
def models_root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    return root


@pytest.fixture
def write_avatar(models_root: Path) -> Callable[..., Avatar]:
    """Writes a complete avatar of format version 1 into models_root."""

    def write(avatar_id: str = "ada", **options: Any) -> Avatar:
        with AvatarWriter(models_root, avatar_id, width=WIDTH, height=HEIGHT, **options) as writer:
            for index in range(FRAMES):
                writer.add_frame(encode(draw_frame(index)), rect_of(index))
            writer.set_network(make_network().SerializeToString())
            writer.set_audio_encoder(make_encoder().SerializeToString())
            return writer.finish()

    return write


@pytest.fixture
def avatar(write_avatar: Callable[..., Avatar]) -> Avatar:
    return write_avatar()


@pytest.fixture
def old_avatar(models_root: Path) -> Callable[..., Path]:
    """Lays an avatar out as the earlier servers had it, and returns its folder."""

    def lay(avatar_id: str = "sanders", *, naming: str = "frame_{:06d}.jpg", first: int = 0, rects_as: str = "array") -> Path:
        folder = models_root / avatar_id
        for part in ("checkpoint", "frames"):
            (folder / part).mkdir(parents=True)
        onnx.save(make_network(), folder / "checkpoint" / "model_best.onnx")
        rects = []
        for index in range(FRAMES):
            name = naming.format(index + first)
            (folder / "frames" / name).write_bytes(encode(draw_frame(index), Path(name).suffix))
            rect = rect_of(index)
            rects.append([rect.x1, rect.y1, rect.x2, rect.y2])
        # Written backwards, so that only the numbers can bring the object into order.
        keyed = {str(index): {"rect": rects[index]} for index in reversed(range(FRAMES))}
        (folder / "crop_rects.json").write_text(json.dumps(rects if rects_as == "array" else keyed))
        return folder

    return lay


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    """A video of each kind and its frames, made once."""
    folder = tmp_path_factory.mktemp("films")
    made: dict[str, tuple[Path, Pictures]] = {}

    def film(kind: Kind) -> tuple[Path, Pictures]:
        if kind.name not in made:
            path = write_video(folder / kind.name, kind)
            made[kind.name] = path, in_order(path)
        return made[kind.name]

    return film
