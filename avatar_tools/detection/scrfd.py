"""Finds faces with an SCRFD detector, in the form that the family publishes.

One picture of 640 x 640, RGB, (value - 127.5) / 128. For each of the strides 8, 16 and 32 two anchors at every location, row by
row: scores [n, 1], and boxes [n, 4] as the distances left, up, right and down from the location, in strides. Points of the face,
[n, 10], are ignored. Some exports keep a batch dimension of 1 in front.

Published exports give scores in 0..1. Some leave the last sigmoid out; these are recognised by the negative scores that
background always gets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import Picture
from avatar_tools.detection.letterbox import SIDE, letterbox
from avatar_tools.detection.models import PictureModel

STRIDES = (8, 16, 32)
ANCHORS = 2
MIN_SCORE = 0.5
MAX_OVERLAP = 0.4  # of two boxes on the same face: intersection over union
_MAX_CANDIDATES = 1000
_MAX_SIDE = 1.25 * SIDE  # a box may cross the edge, but a larger one is no face
_MEAN, _SCALE = 127.5, 1 / 128

Boxes = NDArray[np.float64]
"""[n, 4]: x1, y1, x2, y2."""


class FaceDetector:
    """An opened detector. Raises BrokenAvatar when the file is not one; for one thread."""

    def __init__(self, path: Path) -> None:
        self._model = PictureModel(path, SIDE)
        blank = np.zeros((SIDE, SIDE, 3), np.uint8)
        self.faces(blank)  # models often do not declare their outputs

    def faces(self, picture: Picture) -> Boxes:
        """The boxes of all faces of sufficient score, in the picture's pixels, best first. Raises BrokenAvatar."""
        height, width = picture.shape[:2]
        box = letterbox(width, height)
        blob = cv2.dnn.blobFromImage(box.enclose(picture), _SCALE, mean=(_MEAN,) * 3, swapRB=True)
        scores, boxes = self._scores_and_boxes(self._model.outputs(np.asarray(blob, np.float32)))
        if not np.isfinite(scores).all():
            raise BrokenAvatar(f"{self._model.name}: gives scores that are not finite numbers")
        return box.boxes_in_picture(_best(_as_shares(scores), boxes))

    def _scores_and_boxes(self, outputs: list[NDArray[Any]]) -> tuple[NDArray[np.float64], Boxes]:
        """Scores [n] and boxes in the square, of all strides; outputs are told apart by their shapes."""
        shaped: dict[tuple[int, ...], NDArray[Any]] = {}
        for output in outputs:
            matrix = output[0] if output.ndim == 3 and output.shape[0] == 1 else output
            shaped.setdefault(matrix.shape, matrix)
        counts = {stride: ANCHORS * (SIDE // stride) ** 2 for stride in STRIDES}
        if not all((count, columns) in shaped for count in counts.values() for columns in (1, 4)):
            wanted = ", ".join(f"[{count}, 1] and [{count}, 4]" for count in counts.values())
            raise self._model.refusal(outputs, f"a face detector of two anchors a location gives {wanted}")
        scores = np.concatenate([shaped[count, 1][:, 0] for count in counts.values()])
        boxes = [_around_locations(shaped[count, 4], stride) for stride, count in counts.items()]
        return scores.astype(np.float64), np.concatenate(boxes)


def main_face(boxes: Boxes, *, width: int, height: int) -> NDArray[np.float64] | None:
    """[4], the box of the person that the picture is of; None without a face.

    This is the largest face, where a face half way to the corner counts half.
    """
    if not len(boxes):
        return None
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    distances = np.hypot(*(centres - [width / 2, height / 2]).T) / np.hypot(width / 2, height / 2)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return np.asarray(boxes[np.argmax(areas * np.maximum(1 - distances, 0))])


def _around_locations(distances: NDArray[Any], stride: int) -> Boxes:
    along = np.arange(0, SIDE, stride)
    locations = np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2).repeat(ANCHORS, axis=0)
    reach = distances.astype(np.float64) * stride
    return np.concatenate([locations - reach[:, :2], locations + reach[:, 2:]], axis=1)


def _as_shares(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    if scores.min() >= 0 and scores.max() <= 1:
        return scores
    return 1 / (1 + np.exp(-np.clip(scores, -50, 50)))


def _best(scores: NDArray[np.float64], boxes: Boxes) -> Boxes:
    """One box for each face."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    usable = np.isfinite(boxes).all(axis=1) & (sizes > 0).all(axis=1) & (sizes < _MAX_SIDE).all(axis=1)
    found = np.flatnonzero(usable & (scores >= MIN_SCORE))
    found = found[np.argsort(-scores[found], kind="stable")][:_MAX_CANDIDATES]
    if not len(found):
        return np.empty((0, 4))
    corners_and_sizes = np.concatenate([boxes[found, :2], sizes[found]], axis=1)
    kept = cv2.dnn.NMSBoxes(corners_and_sizes.tolist(), scores[found].tolist(), 0.0, MAX_OVERLAP)
    return boxes[found[np.asarray(kept, np.int64)]]
