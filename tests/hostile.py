"""Ways to harm an avatar's folder, by name. Each takes the folder of an avatar of format version 1 with nothing wrong with it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LONGEST_TEXT = 6000
"""Bytes of what may be said of one avatar: it travels in the metadata of a reply, of which 8 kB are allowed."""

Harm = Callable[[Path], None]


def manifest(text: str | bytes) -> Harm:
    """An `avatar.yaml` of just this."""
    data = text if isinstance(text, bytes) else text.encode()
    return lambda folder: _write(folder / "avatar.yaml", data)


def changed(key: str, value: str) -> Harm:
    """The avatar's own `avatar.yaml` with another value of that key."""

    def harm(folder: Path) -> None:
        text = (folder / "avatar.yaml").read_text()
        text, count = re.subn(rf"^{key}: .*$", lambda _: f"{key}: {value}", text, flags=re.MULTILINE)
        assert count == 1
        _write(folder / "avatar.yaml", text.encode())

    return harm


def network_path(path: str) -> Harm:
    """The avatar's own `avatar.yaml` with that as the place of the network."""

    def harm(folder: Path) -> None:
        text = (folder / "avatar.yaml").read_text()
        assert "network.onnx" in text
        _write(folder / "avatar.yaml", text.replace("network.onnx", path).encode())

    return harm


def network(change: Callable[[onnx.ModelProto], object]) -> Harm:
    """The avatar's own network with something changed in it."""

    def harm(folder: Path) -> None:
        model = onnx.load(folder / "network.onnx")
        change(model)
        _write(folder / "network.onnx", model.SerializeToString())

    return harm


def rects(text: str) -> Harm:
    """A `crop_rects.json` of just this."""
    return lambda folder: _write(folder / "crop_rects.json", text.encode())


def large(name: str, size: int) -> Harm:
    """A file that claims so many bytes, and has none on the disk."""

    def harm(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        with (folder / name).open("wb") as file:
            file.truncate(size)

    return harm


def instead(name: str, put: Callable[[Path], object]) -> Harm:
    """Something else in the place of a file or folder."""

    def harm(folder: Path) -> None:
        place = folder / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        put(place)

    return harm


def _elsewhere(location: str, *, offset: str = "0", length: str = "4") -> Callable[[onnx.ModelProto], None]:
    """A network that also has a weight in another file."""

    def change(model: onnx.ModelProto) -> None:
        weight = model.graph.initializer.add(name="elsewhere", data_type=TensorProto.FLOAT, dims=[1])
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": offset, "length": length}.items():
            weight.external_data.add(key=key, value=value)

    return change


def _sparse_elsewhere(model: onnx.ModelProto) -> None:
    """A sound network whose mouth has the bytes of another file in it, as a sparse constant."""
    sparse = onnx.SparseTensorProto(dims=[1], indices=numpy_helper.from_array(np.array([0], np.int64)))
    sparse.values.CopyFrom(TensorProto(name="bytes", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL))
    for key, value in {"location": "../../../../../../../../etc/hostname", "length": "4"}.items():
        sparse.values.external_data.add(key=key, value=value)
    output = model.graph.output[0].name
    model.graph.node[-1].output[0] = "whole"
    model.graph.node.append(helper.make_node("Constant", [], ["stolen"], sparse_value=sparse))
    model.graph.node.append(helper.make_node("Add", ["whole", "stolen"], [output]))


def _torn_weight(model: onnx.ModelProto) -> None:
    """A convolution over weights of which most are missing."""
    weight = numpy_helper.from_array(np.zeros((3, 3, 1, 1), np.float32), "torn")
    weight.raw_data = b"xyz"
    model.graph.initializer.append(weight)
    output = model.graph.output[0].name
    model.graph.node[-1].output[0] = "whole"
    model.graph.node.append(helper.make_node("Conv", ["whole", "torn"], [output]))


def _old(model: onnx.ModelProto) -> None:
    """Operators that no version converter knows."""
    model.opset_import[0].version = 1
    model.graph.node[-1].op_type = "Nonsense"


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


_HUGE = "0x" + "f" * 15_000

HOSTILE: dict[str, Harm] = {
    "number of frames of 15,000 digits": changed("frame_count", _HUGE),
    "format version of 15,000 digits": changed("format_version", _HUGE),
    "width of 15,000 digits": changed("width", _HUGE),
    "key of 15,000 digits": changed("loop", f"bounce\n? {_HUGE}\n: 1"),
    "list of huge numbers": changed("mask", f"[{_HUGE[:4000]}, {_HUGE[:4000]}, 1, 1]"),
    "number in base 60": changed("frame_count", "59:" * 5000 + "59"),
    "not a number": changed("frame_count", ".nan"),
    "infinite": changed("fps", ".inf"),
    "half a character": changed("id", '"\\ud800"'),
    "path of half a character": network_path('"net\\udc80.onnx"'),
    "characters that turn the line": changed("id", '"\\u202e\\u2066abc"'),
    "path of a terminal's commands": network_path('"\\e[2J\\n\\r.onnx"'),
    "deep lists": manifest("[" * 15_000),
    "deep keys": manifest("{a: " * 4000),
    "deep and closed": manifest("a: " + "[" * 7000 + "]" * 7000),
    "aliases": manifest("a: &a [1]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n"),
    "merged keys": manifest("a: &a {k: 1}\nb: {<<: *a}\n"),
    "keys that are lists": manifest("? [1, 2]\n: 3\n"),
    "date that there is not": changed("loop", "2001-99-99"),
    "number of no digits": changed("frame_count", "!!int ''"),
    "number that is a word": changed("frame_count", "!!float word"),
    "bytes that are none": changed("loop", "!!binary '%%%'"),
    "pairs that are none": changed("loop", "!!omap [1, 2]"),
    "object of Python": manifest("!!python/object/apply:os.getcwd []"),
    "unknown tag": manifest("a: !nothing 1\n"),
    "UTF-16": manifest("format_version: 2".encode("utf-16")),
    "no text at all": manifest(bytes(range(256))),
    "two documents": manifest("a: 1\n---\nb: 2\n"),
    "manifest of 1 TB": large("avatar.yaml", 1 << 40),
    "manifest of as much as is allowed": manifest("a: " + "x" * 16_000),
    "manifest that is a folder": instead("avatar.yaml", Path.mkdir),
    "manifest that is a pipe": instead("avatar.yaml", os.mkfifo),
    "manifest that is a link to itself": instead("avatar.yaml", lambda place: place.symlink_to(place.name)),
    "deep rectangles": rects("[" * 50_000),
    "rectangle of huge numbers": rects(json.dumps([[0, 0, 10**4000, 9]] * 6)),
    "number of 5,000 digits": rects("[" + "9" * 5000 + "]"),
    "key of digits that are not of ASCII": rects('{"٣": [0, 0, 9, 9]}'),
    "rectangles of half a character": rects('{"\\ud800": [0, 0, 9, 9]}'),
    "rectangles of 15 MB for a few frames": rects("[" + "[0, 0, 9, 9]," * 1_000_000 + "[0, 0, 9, 9]]"),
    "rectangles of 1 TB": large("crop_rects.json", 1 << 40),
    "network of 11 GB": large("network.onnx", 11 << 30),
    "audio encoder of 11 GB": large("audio_encoder.onnx", 11 << 30),
    "network of a later format": network(lambda model: setattr(model, "ir_version", 99)),
    "network of later operators": network(lambda model: setattr(model.opset_import[0], "version", 999)),
    "network of early operators": network(_old),
    "network of weights torn off": network(_torn_weight),
    "network of weights outside": network(_elsewhere("../../../etc/hostname")),
    "network of sparse weights outside": network(_sparse_elsewhere),
    "network of weights nowhere": network(_elsewhere("nowhere.data")),
    "network of weights that end early": network(_elsewhere("avatar.yaml", length=str(2**40))),
    "network of weights before the beginning": network(_elsewhere("avatar.yaml", offset="-5")),
    "network of weights at no place": network(_elsewhere("avatar.yaml", offset="word")),
    "network that is a folder": instead("network.onnx", Path.mkdir),
    "picture of 1 TB": large("frames/frame_000000.jpg", 1 << 40),
    "frames that are a file": instead("frames", lambda place: place.write_bytes(b"x")),
    "frames that are a link to themselves": instead("frames", lambda place: place.symlink_to("frames")),
}
