"""Training folders and packages as people have them, drawn and written here: the tests share nothing with what they judge."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

WIDTH, HEIGHT, FRAMES = 160, 96, 12

Points = NDArray[Any]


def picture(index: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Its brightness tells its number; the last pixel is not grey."""
    drawn = np.full((height, width, 3), 20 + 8 * (index % 25), np.uint8)
    cv2.circle(drawn, (width // 2 + index % 20, height // 2), 20, (60, 90, 220), -1)
    drawn[-4:, -4:] = 255
    return drawn


def number_of(shown: NDArray[np.uint8]) -> int:
    """Returns its place among the first 25 pictures."""
    return round((float(shown[4:20, 4:20].mean()) - 20) / 8)


@cache
def jpeg(index: int, **size: int) -> bytes:
    return cv2.imencode(".jpg", picture(index, **size), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def points(index: int, count: int = 110, *, kind: type = int) -> Points:
    """Scattered ones, but for those that span `square(index)`. Floats end in .75."""
    scattered = np.random.default_rng(index).integers(1, 90, (count, 2)).astype(np.float64)
    scattered[1, 0], scattered[52, 1], scattered[31, 0], _ = square(index)
    return scattered.astype(np.int64) if kind is int else scattered + 0.75


def square(index: int) -> list[int]:
    left = 40 + index % 50
    return [left, 20, left + 60, 80]


def lms_text(of: Points) -> str:
    return "".join(f"{x} {y}\n" for x, y in of.tolist())


@cache
def _lms(index: int, count: int, kind: type) -> str:
    return lms_text(points(index, count, kind=kind))


def value(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any]) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def network(
    batch: int | str = "N", *, reshape: bool = False, crosswise: bool = False, audio: Sequence[int] = (32, 16, 16)
) -> onnx.ModelProto:
    """Gives the unmasked picture back, darker the louder.

    `reshape`: by way of a reshape to the batch size, as exporters write it. `crosswise`: also mixes the items of a batch.
    """
    nodes = [
        helper.make_node("Slice", ["face", "zero", "three", "one"], ["seen"]),
        helper.make_node("ReduceMean", ["sound"], ["loud"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["loud", "gain"], ["dark"]),
        helper.make_node("Sub", ["seen", "dark"], ["raw"]),
        helper.make_node("Clip", ["raw", "low", "high"], ["mouth"]),
    ]
    weights: dict[str, Any] = {"zero": [0], "three": [3], "one": [1]}
    weights |= {"gain": np.float32(0.02), "low": np.float32(0), "high": np.float32(1)}
    if reshape:
        nodes[1:1] = [helper.make_node("Reshape", ["seen", "shape"], ["seen2"])]
        nodes[4].input[0] = "seen2"
        weights["shape"] = np.array([batch if isinstance(batch, int) else -1, 3, 320, 320], np.int64)
    if crosswise:
        nodes[2:2] = [helper.make_node("ReduceMean", ["loud"], ["louder"], axes=[0], keepdims=1)]
        nodes[3].input[0] = "louder"
    inputs = [value("face", [batch, 6, 320, 320]), value("sound", [batch, *audio])]
    return model(nodes, inputs, [value("mouth", [batch, 3, 320, 320])], weights)


def encoder(batch: int | str = "N") -> onnx.ModelProto:
    nodes = [
        helper.make_node("Flatten", ["mel"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["raw"]),
        helper.make_node("Relu", ["raw"], ["rows"]),
    ]
    weights = np.random.default_rng(3).normal(size=(1280, 512)).astype(np.float32)
    return model(nodes, [value("mel", [batch, 1, 80, 16])], [value("rows", [batch, 512])], {"weights": weights})


def rows(count: int = FRAMES - 1) -> NDArray[np.float32]:
    """Features, one row fewer than there are frames, as the family's tools store them."""
    return np.random.default_rng(1).uniform(0, 10, (count, 512)).astype(np.float32)


def write_video(
    path: Path,
    count: int = FRAMES,
    *,
    rate: Fraction | int = 25,
    codec: str = "libx264",
    stamps: Sequence[int] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Path:
    """Frame i is `picture(i)`; `stamps` are when each is shown, in 1/1000 s, for a rate that varies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 8_000_000
        if codec == "libx264":
            stream.options = {"crf": "12", "preset": "veryfast"}  # with B-frames: packets are not in the order of showing
        if stamps:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="bgr24")
            if stamps:
                frame.pts, frame.time_base = stamps[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


class Layouts:
    """Writes sources into a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def research(
        self,
        name: str = "ada",
        *,
        first: int = 0,
        first_lms: int = 0,
        count: int = FRAMES,
        kind: type = int,
        points_each: int = 110,
    ) -> Path:
        """dataset/NAME beside checkpoint/NAME, whose network is ONNX here."""
        folder = self.root / "dataset" / name
        self.frames(folder / "full_body_img", "{}.jpg", first=first, count=count)
        self.landmarks(folder / "landmarks", first=first_lms, count=count, kind=kind, points_each=points_each)
        np.save(folder / "aud_ave.npy", rows(count - 1))
        (folder / "aud.wav").write_bytes(b"RIFF")
        self.onnx(self.root / "checkpoint" / name / "net.onnx", network())
        return folder

    def package(self, *, name: str = "package", rect_file: bool = True, features: str = "aud_ave.bin") -> Path:
        """Package v2: a video instead of pictures."""
        folder = self.root / name
        write_video(folder / "full_body_video.mp4")
        write_video(folder / "rois_320_video.mp4", size=(320, 320))
        (folder / "dataset_manifest.json").write_text("{}")
        if rect_file:
            self.keyed_rects(folder / "cache" / "crop_rectangles.json")
        else:
            self.landmarks(folder / "landmarks")
        if features == "aud_ave.bin":
            (folder / features).write_bytes(rows().tobytes())
        self.onnx(folder / "models" / "generator.onnx", network())
        self.onnx(folder / "models" / "audio_encoder.onnx", encoder())
        return folder

    def go(self, naming: str = "frame_{:06d}.jpg", *, first: int = 0) -> Path:
        """The earlier servers' layout."""
        folder = self.root / "sanders"
        self.frames(folder / "frames", naming, first=first)
        (folder / "crop_rects.json").write_text(json.dumps([square(index) for index in range(FRAMES)]))
        self.onnx(folder / "checkpoint" / "model_best.onnx", network())
        return folder

    def plain(self, *, rects: bool = True) -> Path:
        """Nothing but pictures, rectangles and a network, side by side."""
        folder = self.root / "plain"
        self.frames(folder, "{:05d}.jpg", first=1)
        if rects:
            (folder / "crop_rects.json").write_text(json.dumps([square(index) for index in range(FRAMES)]))
        self.onnx(folder / "net.onnx", network())
        return folder

    def frames(self, folder: Path, naming: str, *, first: int = 0, count: int = FRAMES) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            suffix = Path(naming).suffix
            data = jpeg(index % 100) if suffix == ".jpg" else cv2.imencode(suffix, picture(index))[1].tobytes()
            (folder / naming.format(index + first)).write_bytes(data)
        return folder

    def landmarks(self, folder: Path, *, first: int = 0, count: int = FRAMES, kind: type = int, points_each: int = 110) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (folder / f"{index + first}.lms").write_text(_lms(index % 100, points_each, kind))
        return folder

    def keyed_rects(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        order = random.Random(4).sample(range(FRAMES), FRAMES)  # so that only the keys can bring them into order
        path.write_text(json.dumps({str(index): {"rect": square(index), "score": 0.5} for index in order}))
        return path

    def onnx(self, path: Path, of: onnx.ModelProto) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(of, path)
        return path


@pytest.fixture
def layouts(tmp_path: Path) -> Layouts:
    return Layouts(tmp_path / "sources")


@pytest.fixture
def models_root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def run(models_root: Path) -> Callable[..., Any]:
    """Runs `lipsync avatar import SOURCE --id ada --models-root ... OPTIONS`: `.exit_code`, `.stdout`, `.stderr`."""
    from lipsync_cli.main import app

    def imported(source: Path, *options: object, avatar_id: str = "ada") -> Any:
        command = ["avatar", "import", source, "--id", avatar_id, "--models-root", models_root, *options]
        return CliRunner().invoke(app, [str(word) for word in command])

    return imported


@pytest.fixture
def refused(run: Callable[..., Any], models_root: Path) -> Callable[..., str]:
    """Runs an import that must fail in one sentence with nothing left behind, and returns the sentence."""

    def refuse(source: Path, *options: object) -> str:
        before = sorted(models_root.rglob("*")) if models_root.exists() else None
        result = run(source, *options)
        assert result.exit_code == 1, result.output
        after = sorted(models_root.rglob("*")) if models_root.exists() else None
        assert after == before
        assert "Traceback" not in result.stderr
        assert "unexpected" not in result.stderr
        return next(line for line in result.stderr.splitlines() if line.startswith("error: "))

    return refuse
