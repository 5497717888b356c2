"""The two networks' layers and their weights' names and shapes, as in the published checkpoints.

One description serves the builders, the check of weights and the random weights. Shapes are PyTorch's: convolutions are
[outputs, inputs per group, height, width].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from avatar_kit.errors import AvatarError, shortened

Weights: TypeAlias = Mapping[str, NDArray[Any]]
"""State-dict key -> array. Integer arrays only for `num_batches_tracked`, which nothing here reads."""

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

BATCH_NORM_EPSILON = 1e-5  # PyTorch's default, which training used
EXPANSION = 2  # a block's middle is twice as wide as its input

# (inputs, outputs) of the blocks, in the order of the data.
STEM = (6, 32)
DOWN = ((32, 32), (32, 64), (64, 128), (128, 256), (256, 512))
FUSE = ((1024, 512), (512, 256))
UP = ((512, 128), (256, 64), (128, 32), (64, 32), (64, 16))
OUTPUT = (16, 3)

_COUNTER = ".num_batches_tracked"
_STATISTICS = (".running_mean", ".running_var", _COUNTER)


class WeightsError(AvatarError):
    """The weights are not those of this network. `problems` names every key that is missing, unknown or of another shape."""


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """Convolution with bias, batch norm, for a residual layer the sum with its input, ReLU."""

    inputs: int
    outputs: int
    kernel: int = 3
    stride: tuple[int, int] = (1, 1)
    padding: int = 1
    residual: bool = False


def _residual(width: int) -> EncoderLayer:
    return EncoderLayer(width, width, residual=True)


ENCODER: tuple[EncoderLayer, ...] = (
    EncoderLayer(1, 32),
    _residual(32),
    _residual(32),
    EncoderLayer(32, 64, stride=(3, 1)),
    _residual(64),
    _residual(64),
    EncoderLayer(64, 128, stride=(3, 3)),
    _residual(128),
    _residual(128),
    EncoderLayer(128, 256, stride=(3, 2)),
    _residual(256),
    EncoderLayer(256, 512, padding=0),
    EncoderLayer(512, 512, kernel=1, padding=0),
)


def unet_shapes() -> dict[str, tuple[int, ...]]:
    """Key -> shape of the 556 entries of the U-Net's state dict."""
    return dict(_unet_entries())


def encoder_shapes() -> dict[str, tuple[int, ...]]:
    """Key -> shape of the 91 entries of the audio encoder's state dict."""
    return dict(_encoder_entries())


def parameter_count(weights: Weights) -> int:
    """Numbers that training adjusts: everything but the batch norms' running statistics and counters."""
    return sum(int(array.size) for key, array in weights.items() if not key.endswith(_STATISTICS))


def check_weights(weights: Weights, shapes: Shapes) -> None:
    """Raises WeightsError unless `weights` has exactly these keys with these shapes, all finite, and variances that are positive.

    The counters of batch norms may be missing: some exporters drop them.
    """
    problems = [f"missing: {key}" for key in shapes if key not in weights and not key.endswith(_COUNTER)]
    problems += [f"unknown: {key[:80]}" for key in weights if key not in shapes]
    for key, shape in shapes.items():
        if key in weights and (problem := _array_problem(key, weights[key], shape)):
            problems.append(f"{key}: {problem}")
    if problems:
        raise WeightsError(shortened(problems))


def _array_problem(key: str, array: NDArray[Any], shape: tuple[int, ...]) -> str | None:
    if array.shape != shape:
        return f"has the shape {list(array.shape)}, not {list(shape)}"
    if not np.isfinite(array).all():
        return "has values that are not finite"
    if key.endswith(".running_var") and (array < 0).any():
        return "has negative variances"
    return None


def _unet_entries() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _inverted_residual("inc.inconv.0", *STEM)
    for number, (inputs, outputs) in enumerate(DOWN, 1):
        yield from _double(f"down{number}.maxpool_conv.0", inputs, outputs)
    yield from _audio_branch()
    for number, (inputs, outputs) in enumerate(FUSE):
        yield from _double(f"fuse_conv.{number}", inputs, outputs)
    for number, (inputs, outputs) in enumerate(UP, 1):
        yield from _double(f"up{number}.conv", inputs, outputs)
    yield from _convolution("outc.conv", (OUTPUT[1], OUTPUT[0], 1, 1))


def _audio_branch() -> Iterator[tuple[str, tuple[int, ...]]]:
    p = "audio_model"
    yield from _inverted_residual(f"{p}.conv1", 32, 64)
    yield from _inverted_residual(f"{p}.conv2", 64, 128)
    yield from _convolution(f"{p}.conv3", (256, 128, 3, 3))
    yield from _batch_norm(f"{p}.bn3", 256)
    yield from _inverted_residual(f"{p}.conv4", 256, 256)
    yield from _convolution(f"{p}.conv5", (512, 256, 3, 3))
    yield from _batch_norm(f"{p}.bn5", 512)
    yield from _inverted_residual(f"{p}.conv6", 512, 512)
    yield from _inverted_residual(f"{p}.conv7", 512, 512)


def _encoder_entries() -> Iterator[tuple[str, tuple[int, ...]]]:
    for number, layer in enumerate(ENCODER):
        p = f"{number}.conv_block"
        yield from _convolution(f"{p}.0", (layer.outputs, layer.inputs, layer.kernel, layer.kernel))
        yield from _batch_norm(f"{p}.1", layer.outputs)


def _double(prefix: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _inverted_residual(f"{prefix}.double_conv.0", inputs, outputs)
    yield from _inverted_residual(f"{prefix}.double_conv.1", outputs, outputs)


def _inverted_residual(prefix: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    middle = EXPANSION * inputs
    yield f"{prefix}.conv.0.weight", (middle, inputs, 1, 1)
    yield from _batch_norm(f"{prefix}.conv.1", middle)
    yield f"{prefix}.conv.3.weight", (middle, 1, 3, 3)
    yield from _batch_norm(f"{prefix}.conv.4", middle)
    yield f"{prefix}.conv.6.weight", (outputs, middle, 1, 1)
    yield from _batch_norm(f"{prefix}.conv.7", outputs)


def _convolution(prefix: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}.weight", shape
    yield f"{prefix}.bias", shape[:1]


def _batch_norm(prefix: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in (".weight", ".bias", ".running_mean", ".running_var"):
        yield prefix + part, (width,)
    yield prefix + _COUNTER, ()
