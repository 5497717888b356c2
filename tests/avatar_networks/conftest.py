"""Running ONNX models, and the two networks computed step by step with numpy from the published description."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]
Run = Callable[..., Array]


@pytest.fixture(scope="session")
def run() -> Run:
    """run(model, **inputs) -> its first output, by ONNX Runtime."""

    def run_model(model: onnx.ModelProto, **inputs: Array) -> Array:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, inputs)[0])

    return run_model


def with_batch(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """A copy that takes and gives `size` items."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in [*copy.graph.input, *copy.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = size
    return copy


class Reference:
    """Layers in float64 on one item, [channels, height, width], batch norms not folded."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self._weights = weights

    def get(self, key: str) -> Array:
        return self._weights[key].astype(np.float64)

    def norm(self, x: Array, key: str) -> Array:
        gamma, beta, mean, var = (
            self.get(f"{key}.{p}")[:, None, None] for p in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * gamma + beta

    def conv(self, x: Array, key: str, *, stride: tuple[int, int] = (1, 1), pad: int = 0) -> Array:
        weight = self.get(f"{key}.weight")
        height, width = weight.shape[2:]
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))[:, :: stride[0], :: stride[1]]
        if weight.shape[1] == 1 and len(x) == len(weight):
            y = np.einsum("cyxhw,chw->cyx", windows, weight[:, 0], optimize=True)
        else:
            y = np.tensordot(weight, windows, axes=((1, 2, 3), (0, 3, 4)))
        return y + self.get(f"{key}.bias")[:, None, None] if f"{key}.bias" in self._weights else y

    def ir(self, x: Array, key: str, stride: int = 1, *, res: bool = False) -> Array:
        y = np.maximum(self.norm(self.conv(x, f"{key}.conv.0"), f"{key}.conv.1"), 0)
        y = np.maximum(self.norm(self.conv(y, f"{key}.conv.3", stride=(stride, stride), pad=1), f"{key}.conv.4"), 0)
        y = self.norm(self.conv(y, f"{key}.conv.6"), f"{key}.conv.7")
        return x + y if res else y

    def dbl(self, x: Array, key: str, stride: int = 1) -> Array:
        return self.ir(self.ir(x, f"{key}.double_conv.0", stride), f"{key}.double_conv.1", res=True)

    def twice(self, x: Array) -> Array:
        """Bilinear with aligned corners, axis by axis."""
        for axis in (1, 2):
            size = x.shape[axis]
            at = np.arange(2 * size) * (size - 1) / (2 * size - 1)
            low = np.minimum(at.astype(int), size - 2)
            share = (at - low).reshape([-1 if axis == a else 1 for a in range(3)])
            x = x.take(low, axis) * (1 - share) + x.take(low + 1, axis) * share
        return x

    def unet(self, picture: Array, sound: Array) -> Array:
        skips = [self.ir(picture.astype(np.float64), "inc.inconv.0")]
        for k in range(1, 6):
            skips.append(self.dbl(skips[-1], f"down{k}.maxpool_conv.0", 2))
        a = self.ir(self.ir(sound.astype(np.float64), "audio_model.conv1"), "audio_model.conv2")
        a = np.maximum(self.norm(self.conv(a, "audio_model.conv3", pad=1), "audio_model.bn3"), 0)
        a = self.ir(a, "audio_model.conv4", res=True)
        a = np.maximum(self.norm(self.conv(a, "audio_model.conv5", stride=(2, 2), pad=3), "audio_model.bn5"), 0)
        a = self.ir(self.ir(a, "audio_model.conv6", res=True), "audio_model.conv7", res=True)
        x = self.dbl(self.dbl(np.concatenate([skips[5], a]), "fuse_conv.0"), "fuse_conv.1")
        for k in range(1, 6):
            x = self.dbl(np.concatenate([self.twice(x), skips[5 - k]]), f"up{k}.conv")
        return 1 / (1 + np.exp(-self.conv(x, "outc.conv")))

    def encoder(self, mel: Array) -> Array:
        x = mel.astype(np.float64)
        table = [
            ((1, 1), 1, False),
            ((1, 1), 1, True),
            ((1, 1), 1, True),
            ((3, 1), 1, False),
            ((1, 1), 1, True),
            ((1, 1), 1, True),
        ]
        table += [((3, 3), 1, False), ((1, 1), 1, True), ((1, 1), 1, True), ((3, 2), 1, False), ((1, 1), 1, True)]
        table += [((1, 1), 0, False), ((1, 1), 0, False)]
        for k, (stride, pad, res) in enumerate(table):
            y = self.norm(self.conv(x, f"{k}.conv_block.0", stride=stride, pad=pad), f"{k}.conv_block.1")
            x = np.maximum(y + x if res else y, 0)
        return x.reshape(-1)


@pytest.fixture(scope="session")
def reference() -> type[Reference]:
    return Reference


@pytest.fixture(scope="session")
def picture() -> NDArray[np.float32]:
    """[2, 6, 320, 320] in 0..1: two pictures and their masked copies."""
    generator = np.random.default_rng(11)
    coarse = generator.random((2, 3, 20, 20))
    seen = np.clip(np.kron(coarse, np.ones((16, 16))) + 0.05 * generator.standard_normal((2, 3, 320, 320)), 0, 1)
    kept = np.ones((320, 320))
    kept[5:310, 5:315] = 0
    return np.concatenate([seen, seen * kept], axis=1).astype(np.float32)


@pytest.fixture(scope="session")
def sound() -> NDArray[np.float32]:
    """[2, 32, 16, 16] rows of features as an encoder gives them: half of them zeros."""
    return np.maximum(np.random.default_rng(12).normal(0, 3, (2, 32, 16, 16)), 0).astype(np.float32)
