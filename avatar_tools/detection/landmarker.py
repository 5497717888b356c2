"""110 points of a face by the family's landmarker.

Its input is a square of 1.05 x the face box's larger side around the box's centre, black outside the picture: 192 x 192, BGR,
value / 255. It gives 220 numbers, x and y of each point as shares of that square's side. The network as trained gives the
differences from a mean face instead, whose 220 numbers are in a text file beside its weights; an export may have added them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import Picture
from avatar_kit.safe_files import FileProblem, read_bounded
from avatar_tools.detection.models import PictureModel

POINTS = 110
SIDE = 192
BOX_SCALE = 1.05
MEAN_FACE_NAME = "mean_face.txt"

_MAX_TEXT_BYTES = 2**20
_MIN_POSITION = 0.25  # positions in a square around the face average to a half, differences from a mean face to 0

Landmarks: TypeAlias = NDArray[np.float32]
"""[110, 2]: x, y."""


class Landmarker:
    """An opened landmarker, with the mean face from beside it if there is one. Raises BrokenAvatar; for one thread."""

    def __init__(self, path: Path) -> None:
        self._model = PictureModel(path, SIDE)
        mean_face = path.with_name(MEAN_FACE_NAME)
        self._mean_face = _read_mean_face(mean_face) if mean_face.exists() else None
        self._is_relative: bool | None = None  # unknown before the first face
        self._values(np.zeros((SIDE, SIDE, 3), np.uint8))

    def landmarks(self, picture: Picture, face: NDArray[np.float64]) -> Landmarks:
        """The points of the face in that box (x1, y1, x2, y2), in the picture's pixels. Raises BrokenAvatar."""
        left, top, side = square_around(face)
        values = self._values(_cut_out(picture, left, top, side))
        if self._is_relative is None:
            self._is_relative = bool(values.mean() < _MIN_POSITION)
        if self._is_relative:
            if self._mean_face is None:
                raise BrokenAvatar(
                    f"{self._model.name}: gives differences from a mean face, not positions: put the {MEAN_FACE_NAME} of the "
                    "training tree beside it, or export it with the mean face added"
                )
            values = values + self._mean_face
        return (values.reshape(POINTS, 2) * side + [left, top]).astype(np.float32)

    def _values(self, crop: Picture) -> NDArray[np.float64]:
        """[220]"""
        planes = cv2.resize(crop, (SIDE, SIDE)).transpose(2, 0, 1)[None]
        outputs = self._model.outputs(np.divide(planes, 255, dtype=np.float32))
        fitting = [output for output in outputs if output.size == 2 * POINTS]
        if len(fitting) != 1:
            raise self._model.refusal(outputs, f"a landmarker of {POINTS} points gives one [1, {2 * POINTS}]")
        values = fitting[0].astype(np.float64).reshape(-1)
        if not np.isfinite(values).all():
            raise BrokenAvatar(f"{self._model.name}: gives landmarks that are not finite numbers")
        return values


def square_around(face: NDArray[np.float64]) -> tuple[int, int, int]:
    """Left, top and side of the landmarker's square, in whole pixels, rounded as in the family's own preparation."""
    x1, y1, x2, y2 = (int(value) for value in face)
    side = max(int(BOX_SCALE * max(x2 - x1, y2 - y1)), 1)
    return (x1 + x2) // 2 - side // 2, (y1 + y2) // 2 - side // 2, side


def _cut_out(picture: Picture, left: int, top: int, side: int) -> Picture:
    """[side, side, 3]"""
    height, width = picture.shape[:2]
    square = np.zeros((side, side, 3), np.uint8)
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    if x1 < x2 and y1 < y2:
        square[y1 - top : y2 - top, x1 - left : x2 - left] = picture[y1:y2, x1:x2]
    return square


def _read_mean_face(path: Path) -> NDArray[np.float64]:
    try:
        numbers = [float(word) for word in read_bounded(path, _MAX_TEXT_BYTES).decode("ascii").replace(",", " ").split()]
    except FileProblem as problem:
        raise BrokenAvatar(problem.of(f"{path.name}:")) from None
    except ValueError:
        raise BrokenAvatar(f"{path.name}: has something in it that is not a number") from None
    values = np.array(numbers)
    if len(values) != 2 * POINTS or not np.isfinite(values).all():
        raise BrokenAvatar(f"{path.name}: has {len(values)} numbers; expected {2 * POINTS} finite ones, x and y of each point")
    return values
