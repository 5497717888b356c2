"""Composes the demo's frames: drawn layers, each shifted, turned and bent a little for the posture of the frame.

Coordinates of the drawing are picture pixels from the point between the eyes, y down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import Picture, Rect
from tools.demo_drawing.motion import LIDS, Posture

Grid: TypeAlias = NDArray[np.float32]
Pixels: TypeAlias = NDArray[np.float32]
"""[height, width, 3 or 4] of 0..1: BGR, or BGRA with the colours multiplied by the fourth channel."""

WIDTH, HEIGHT = 1280, 720
DENSITY = 2  # layer pixels to a picture pixel, so that moving by fractions of a pixel costs no sharpness
EYES = (640.0, 282.0)  # the drawing's origin in the picture
MOUTH = (0.0, 103.0)  # in the drawing: where the lips of the resting mouth meet in the middle
RECT_SIZE = 180
RECT_UP = 84  # rows of the rectangle above the mouth: it begins below the eyes and ends below the chin

# Left, top, width and height in the drawing.
BACK_HAIR = (-170, -190, 340, 480)
BODY = (-280, 80, 560, 370)
HEAD = (-170, -200, 340, 500)
EYES_PART = (-84, -30, 168, 52)

_NECK_Y = 190.0  # in the drawing: the head tilts about it
_BODY_Y = 320.0  # in the drawing: from here down the body does not follow the head


@dataclass(frozen=True, slots=True)
class Place:
    """The mouth in a picture: its centre, in pixels from the picture's corner, and its tilt in radians."""

    x: float
    y: float
    roll: float

    def rect(self) -> Rect:
        """The crop rectangle that keeps the mouth in the same place, but for rounding to whole pixels."""
        x1, y1 = round(self.x) - RECT_SIZE // 2, round(self.y) - RECT_UP
        return Rect(x1, y1, x1 + RECT_SIZE, y1 + RECT_SIZE)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A part of the drawing, `DENSITY` pixels to a picture pixel."""

    left: int
    top: int
    pixels: Pixels


class Scene:
    """Composes `layers`, as `draw_layers` gives them. `frame` is thread-safe."""

    def __init__(self, layers: Mapping[str, NDArray[np.uint8]]) -> None:
        pixels = {name: premultiplied(layer) for name, layer in layers.items()}
        self._room, self._head = pixels["room"], pixels["head"]
        self._back_hair = _Layer(*BACK_HAIR[:2], pixels["back_hair"])
        self._body = _Layer(*BODY[:2], pixels["body"])
        self._eyeballs, self._irises, self._fringe = pixels["eyeballs"], pixels["irises"], pixels["fringe"]
        self._openings, self._lids = (np.split(pixels[name], len(LIDS)) for name in ("openings", "lids"))

    def frame(self, posture: Posture) -> Picture:
        """[720, 1280, 3] BGR, with the mouth at rest."""
        picture = self._room.copy()
        _draw(picture, self._back_hair, *_turned(self._back_hair, posture, depth=-0.45))
        _draw(picture, self._body, *_bent(self._body, posture))
        head = self._with_eyes(posture)
        _draw(picture, head, *_turned(head, posture, depth=1.0))
        return np.asarray(picture.clip(0, 1) * 255 + 0.5, np.uint8)

    def _with_eyes(self, posture: Posture) -> _Layer:
        """Draws the eyes between the face and the hair in front."""
        aside, down = posture.gaze
        shift = np.array([[1, 0, aside * DENSITY], [0, 1, down * DENSITY]])
        irises = cv2.warpAffine(self._irises, shift, self._irises.shape[1::-1], flags=cv2.INTER_LINEAR)
        eyes = _over(self._eyeballs, np.asarray(irises, np.float32)) * self._openings[posture.lid][..., None]
        pixels = self._head.copy()
        part = part_of_head(EYES_PART)
        for layer in (eyes, self._lids[posture.lid], self._fringe):
            pixels[part] = _over(pixels[part], layer)
        return _Layer(*HEAD[:2], pixels)


def premultiplied(layer: NDArray[np.uint8]) -> Pixels:
    """The pixels of a layer, drawn as 0..255 and not multiplied."""
    pixels = np.asarray(layer, np.float32) / np.float32(255)
    if pixels.shape[2:] == (4,):
        pixels[..., :3] *= pixels[..., 3:]
    return pixels


def part_of_head(window: tuple[int, int, int, int]) -> tuple[slice, slice]:
    """Rows and columns of the head's layer that show a window of the drawing."""
    left, top, width, height = window
    row, column = (top - HEAD[1]) * DENSITY, (left - HEAD[0]) * DENSITY
    return slice(row, row + height * DENSITY), slice(column, column + width * DENSITY)


def mouth_place(posture: Posture) -> Place:
    """The place of the mouth in the frame of that posture."""
    x, y = MOUTH
    dx, dy = _relief(np.array([[x]]), np.array([[y]]), posture)
    x, y = x + float(dx[0, 0]), y + float(dy[0, 0]) - _NECK_Y
    cos, sin = np.cos(posture.roll), np.sin(posture.roll)
    return Place(
        x=EYES[0] + posture.shift[0] + cos * x - sin * y,
        y=EYES[1] + posture.shift[1] + _NECK_Y + sin * x + cos * y,
        roll=posture.roll,
    )


def _relief(x: Grid, y: Grid, posture: Posture) -> tuple[Grid, Grid]:
    """The distance that each point of the face moves when the head turns: nearer to the viewer, farther."""
    dome = np.sqrt(np.maximum(0, 1 - (x / 135) ** 2 - ((y - 40) / 230) ** 2))
    near = 62 * dome + 13 * np.exp(-(x * x + (y - 48) ** 2) / 500)
    return near * np.sin(posture.yaw), near * np.sin(posture.pitch)


def _turned(layer: _Layer, posture: Posture, *, depth: float) -> tuple[Grid, Grid]:
    """For each picture pixel of the layer's window the point of the drawing to show, moved with the head."""
    x, y = _plane(layer)
    x, y = x - posture.shift[0], y - (posture.shift[1] + _NECK_Y)
    cos, sin = np.cos(posture.roll), np.sin(posture.roll)
    x, y = cos * x + sin * y, cos * y - sin * x + _NECK_Y
    dx, dy = _relief(x, y, posture)
    return x - depth * dx, y - depth * dy


def _bent(layer: _Layer, posture: Posture) -> tuple[Grid, Grid]:
    """The same for the body: the neck follows the head, the shoulders rise with the breath."""
    x, y = _plane(layer)
    follow = np.clip((_BODY_Y - y) / (_BODY_Y - 130), 0, 1)
    follow = follow * follow * (3 - 2 * follow)
    aside = posture.shift[0] * (0.15 + 0.8 * follow) + (_NECK_Y - y) * posture.roll * -follow
    lift = -1.3 * posture.breath * np.clip((470 - y) / 150, 0, 1)
    swell = 1 + 0.002 * posture.breath * (1 - follow)
    return (x - aside) / swell, y - (lift * (1 - 0.7 * follow) + posture.shift[1] * follow) + 0 * x


def _plane(layer: _Layer) -> tuple[Grid, Grid]:
    """Centres of the picture's pixels in the layer's window: x as a row, y as a column."""
    height, width = layer.pixels.shape[:2]
    x = layer.left + np.arange(width // DENSITY, dtype=np.float32) + np.float32(0.5)
    y = layer.top + np.arange(height // DENSITY, dtype=np.float32) + np.float32(0.5)
    return x[None, :], y[:, None]


def _draw(picture: Pixels, layer: _Layer, x: Grid, y: Grid) -> None:
    """Draws a layer over the picture; `x` and `y`: for each picture pixel of its window the point of the drawing to show."""
    height, width = layer.pixels.shape[:2]
    # The bend is smooth: computed at the picture's density, it serves the layer's as well.
    column, row = (
        cv2.resize(((place - corner) * DENSITY - 0.5).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        for place, corner in ((x, layer.left), (y, layer.top))
    )
    warped = cv2.remap(layer.pixels, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    small = cv2.resize(warped, (width // DENSITY, height // DENSITY), interpolation=cv2.INTER_AREA)
    left, top = int(EYES[0] + layer.left), int(EYES[1] + layer.top)
    part = picture[top : top + small.shape[0], left : left + small.shape[1]]
    part[...] = _over(part, np.asarray(small[: len(part)], np.float32))


def _over(below: Pixels, layer: Pixels) -> Pixels:
    """A premultiplied layer over pixels of 3 or 4 channels."""
    channels = below.shape[-1]
    clear = cv2.merge([1 - layer[..., 3]] * channels)
    return np.asarray(cv2.multiply(below, clear) + layer[..., :channels], np.float32)
