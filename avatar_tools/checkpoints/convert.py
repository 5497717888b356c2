"""Converts a checkpoint file to an ONNX model, and checks that both compute the same."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_kit.errors import AvatarError, BrokenAvatar
from avatar_tools.checkpoints.files import read_checkpoint
from avatar_tools.checkpoints.kinds import NAMES, NETWORKS, Kind
from avatar_tools.checkpoints.torch_layers import TorchLayers
from avatar_tools.checkpoints.weights import read_weights
from avatar_tools.networks.audio_encoder import MEL
from avatar_tools.networks.unet import AUDIO, VISUAL
from avatar_tools.networks.weights import Weights, parameter_count
from avatar_tools.onnx_sessions import open_session, run_session

MAX_DIFFERENCE = 1e-3  # a quarter of a grey level
_ROUNDING_FOLDS = 8  # sharp networks differ by more; PyTorch's own distance from double precision measures the rounding

_Feeds = Mapping[str, NDArray[np.float32]]


class TorchMissing(AvatarError):
    """PyTorch is not installed."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A checkpoint as an ONNX model for any batch size."""

    onnx: bytes
    parameters: int
    """The count of numbers that training has adjusted."""
    largest_difference: float
    """The largest distance between values that PyTorch and ONNX Runtime compute from the same random input."""


def convert_checkpoint(path: Path, *, kind: Kind) -> Converted:
    """Converts the lip-sync network or the audio encoder, and compares the two on random input. Takes seconds.

    Accepts a plain state dict, and one inside `model`, `model_state_dict` or `state_dict`, with or without prefixes such as
    `module.`; it must have exactly the weights of that network. No code of the file is run. Raises BrokenAvatar, and TorchMissing
    without PyTorch.
    """
    data = read_checkpoint(path)
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise TorchMissing(
            f"{path.name}: converting a checkpoint needs PyTorch: install the extra [import], "
            "as in pip install 'lipsync-serving[import]', or convert it elsewhere and import the ONNX file"
        ) from None
    weights = read_weights(path.name, data, kind, torch)
    inputs = _random_inputs(kind)
    model = NETWORKS[kind].graph(weights).SerializeToString(deterministic=True)
    expected = _computed_by_torch(torch, torch.float32, kind, weights, inputs)
    difference = _largest_difference(_computed_by_onnxruntime(path.name, model, inputs), expected)
    rounding = _largest_difference(_computed_by_torch(torch, torch.float64, kind, weights, inputs), expected)
    if not difference <= max(MAX_DIFFERENCE, _ROUNDING_FOLDS * rounding):  # also true for NaN
        raise BrokenAvatar(
            f"{path.name}: {NAMES[kind]} whose ONNX form differs from PyTorch's by {difference:.3g}, "
            "more than rounding explains: its weights are out of the range of single precision"
        )
    return Converted(model, parameter_count(weights), difference)


def _computed_by_torch(torch: Any, dtype: Any, kind: Kind, weights: Weights, inputs: _Feeds) -> NDArray[np.floating]:
    with torch.inference_mode():
        given = (torch.from_numpy(x).to(dtype) for x in inputs.values())
        output = NETWORKS[kind].description(TorchLayers(torch, weights, dtype), *given)
    return np.asarray(output.numpy())


def _computed_by_onnxruntime(name: str, model: bytes, inputs: _Feeds) -> NDArray[np.float32]:
    (output,) = run_session(open_session(model, name), name, inputs)
    return np.asarray(output, np.float32)


def _largest_difference(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    if one.shape != other.shape:
        return float("nan")
    with np.errstate(invalid="ignore"):  # both may be infinite
        return float(np.abs(one - other).max())


def _random_inputs(kind: Kind) -> _Feeds:
    """Two of each input, in the network's order; only more than one tests an open batch."""
    generator = np.random.default_rng(0)
    if kind == "audio_encoder":
        return {MEL: generator.uniform(-4, 4, (2, 1, 80, 16)).astype(np.float32)}
    picture = generator.uniform(0, 1, (2, 6, 320, 320)).astype(np.float32)
    sound = np.maximum(generator.normal(0, 3, (2, 32, 16, 16)), 0).astype(np.float32)  # half zeros, as the encoder gives it
    return {VISUAL: picture, AUDIO: sound}
