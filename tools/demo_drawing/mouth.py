"""The resting mouth as a picture, by the graph that paints mouths in the demo's network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from avatar_tools.demo.mouths import POSE_SIZE, Pose, paint_mouth
from avatar_tools.networks.graph import Graph


def resting_mouth(skin: NDArray[np.float32], centre: tuple[float, float], step: float) -> NDArray[np.float32]:
    """[h,w,3] of bare skin, BGR 0..1, with the resting mouth on it: `centre` (x, y) in its pixels, which lie `step` apart."""
    graph = Graph()
    height, width = skin.shape[:2]
    y, x = np.indices((height, width), np.float32)
    at_rest = Pose(*(graph.constant(np.zeros((1, 1, 1, 1), np.float32)) for _ in range(POSE_SIZE)))
    below = graph.constant(skin.transpose(2, 0, 1)[None])
    across, down = (graph.constant((place[None, None] - middle) * step) for place, middle in zip((x, y), centre, strict=True))
    painted = paint_mouth(below, across, down, at_rest)
    model = graph.model("resting_mouth", {"mouth": (painted, [1, 3, height, width])})
    result = np.asarray(ReferenceEvaluator(model).run(None, {}))
    return result.reshape(3, height, width).transpose(1, 2, 0)
