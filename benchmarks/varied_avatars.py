"""Avatars whose networks have the same graph and different weights, as those of one family have."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from avatar_kit.avatar import Avatar
from avatar_kit.geometry import MOUTH_SIZE
from avatar_kit.writer import AvatarWriter
from avatar_tools.benchmark_frames import HEIGHT, WIDTH, benchmark_clip
from avatar_tools.networks.graph import BATCH, Graph
from avatar_tools.networks.random_weights import random_weights
from avatar_tools.networks.unet import AUDIO, OUTPUT, UNET, VISUAL

_MANY = 16  # numbers: what has fewer may be a scale or a shape


def varied_avatars(network: onnx.ModelProto, count: int, *, frames: int = 1) -> Iterator[Avatar]:
    """Yields `count` avatars, each with weights of its own. Its files are gone when the next one comes."""
    clip = benchmark_clip()
    for number in range(count):
        with tempfile.TemporaryDirectory() as folder:
            with AvatarWriter(Path(folder), f"a{number}", width=WIDTH, height=HEIGHT) as writer:
                for index in range(frames):
                    writer.add_frame(clip.jpeg(index), clip.rect(index))
                writer.set_network(_varied(network, 1 + number / 1000).SerializeToString())
                avatar = writer.finish()
            yield avatar


def full_network() -> onnx.ModelProto:
    """The family's network with random weights."""
    return UNET.graph(random_weights(UNET, 3))


def small_network() -> onnx.ModelProto:
    """A network with the family's inputs and output that runs in milliseconds: two convolutions, and the mean of the sound."""
    random, graph = np.random.default_rng(5), Graph()
    picture = graph.input(VISUAL, [BATCH, 6, MOUTH_SIZE, MOUTH_SIZE])
    sound = graph.node("ReduceMean", graph.input(AUDIO, [BATCH, 32, 16, 16]), axes=[1, 2, 3], keepdims=1)
    first, second = (random.normal(0, 0.3, shape) for shape in ((8, 6, 3, 3), (3, 8, 1, 1)))
    seen = graph.node("Relu", graph.node("Conv", picture, first, pads=[1, 1, 1, 1]))
    mouth = graph.node("Sigmoid", graph.node("Add", graph.node("Conv", seen, second), sound))
    return graph.model("small_network", {OUTPUT: (mouth, [BATCH, 3, MOUTH_SIZE, MOUTH_SIZE])})


def _varied(network: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(network)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) >= _MANY:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    return model
