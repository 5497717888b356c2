"""Builds the demo's network for the demo's face: its skin, and the mouth's place in a crop.

Rectangles are whole pixels and the head tilts, so the network has to find the mouth; a linear map from pixels is enough.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from avatar_kit.geometry import CROP_SIZE, MARGIN, Picture, Rect, crop_328, inner
from tools.demo_drawing.layers import draw_bare_head
from tools.demo_drawing.motion import FRAME_COUNT, STILL, posture
from tools.demo_drawing.network import MOUTH_CENTRE, SKIN_BOX, TRACKED_BOX, TRACKED_POOL, Face, build_network
from tools.demo_drawing.scene import Place, Scene, mouth_place

_RIDGE = 0.05  # keeps the tracker from reading the noise of single pixels


def demo_network(layers: Mapping[str, NDArray[np.uint8]]) -> onnx.ModelProto:
    """The network for the person of these layers."""
    bare = Scene({**layers, "head": draw_bare_head()})
    skin = inner(crop_328(bare.frame(STILL), mouth_place(STILL).rect()))[SKIN_BOX]
    return build_network(Face(np.ascontiguousarray(skin), *_fitted_tracker(Scene(layers))))


def _fitted_tracker(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`Face.tracker` and `Face.tracker_offset`, by ridge regression from pixels to offsets over the loop itself."""
    places = [mouth_place(posture(index)) for index in range(FRAME_COUNT)]
    seen = np.stack([_pooled(inner(crop_328(scene.frame(posture(index)), place.rect()))) for index, place in enumerate(places)])
    wanted = np.stack([_offset(place, place.rect()) for place in places])
    mean_seen, mean_wanted = seen.mean(0), wanted.mean(0)
    seen, wanted = seen - mean_seen, wanted - mean_wanted
    tracker = seen.T @ np.linalg.solve(seen @ seen.T + _RIDGE * np.eye(len(seen)), wanted)
    return tracker.astype(np.float32), (mean_wanted - mean_seen @ tracker).astype(np.float32)


def _offset(place: Place, rect: Rect) -> NDArray[np.float64]:
    scale = CROP_SIZE / rect.width
    x = (place.x - rect.x1) * scale - 0.5 - MARGIN - MOUTH_CENTRE[0]
    y = (place.y - rect.y1) * scale - 0.5 - MARGIN - MOUTH_CENTRE[1]
    return np.array([x, y, place.roll])


def _pooled(crop: Picture) -> NDArray[np.float64]:
    """The tracker's pixels, one row."""
    rows, columns = TRACKED_BOX
    green = crop[rows, columns, 1].astype(np.float32) / 255
    height, width = green.shape
    blocks = green.reshape(height // TRACKED_POOL, TRACKED_POOL, width // TRACKED_POOL, TRACKED_POOL)
    return np.asarray(blocks.mean((1, 3)), np.float64).ravel()
