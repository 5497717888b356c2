"""A network whose mouths depend on its weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from ..inference_service.conftest import MIX, network


def mixing(seed: int, *, scale: float = 1.0, visual: str = "input", batch: int | str = "batch") -> onnx.ModelProto:
    """The small network with weights of its own."""
    model = network(scale=scale, visual=visual, batch=batch)
    mix = np.random.default_rng(seed).uniform(-1.2, 1.2, MIX.shape).astype(np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(mix, "mix"))
    return model
