"""The person in the room, frame by frame: every layer is drawn once, then shifted, turned and bent a little for each posture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_kit.demo.background import HEIGHT, WIDTH, draw_background
from avatar_kit.demo.body import draw_body
from avatar_kit.demo.canvas import DENSITY, Layer
from avatar_kit.demo.eyes import draw_eyes
from avatar_kit.demo.hair import back_hair, front_hair
from avatar_kit.demo.head import draw_head
from avatar_kit.demo.motion import Posture
from avatar_kit.demo.mouths import resting_mouth
from avatar_kit.geometry import CROP_SIZE, Picture, Rect

Grid: TypeAlias = NDArray[np.float32]

EYES = (640.0, 282.0)  # where the drawing's origin, between the eyes, stands in the picture
MOUTH = (0.0, 103.0)  # of the drawing: where the lips of the resting mouth meet in the middle
RECT_SIZE = 180
RECT_UP = 84  # rows of the rectangle above the mouth: it begins below the eyes and ends below the chin

_NECK_Y = 190.0  # of the drawing: what the head tilts about
_BODY_Y = 320.0  # from here down the body does not follow the head


@dataclass(frozen=True, slots=True)
class Place:
    """Where the mouth is in a picture: its centre, in pixels from the picture's corner, and its tilt."""

    x: float
    y: float
    roll: float

    def rect(self) -> Rect:
        """The crop rectangle that keeps it in the same place, but for the rounding to whole pixels."""
        x1, y1 = round(self.x) - RECT_SIZE // 2, round(self.y) - RECT_UP
        return Rect(x1, y1, x1 + RECT_SIZE, y1 + RECT_SIZE)


class Scene:
    """Draws on construction what stays; `frame` is thread-safe afterwards."""

    def __init__(self) -> None:
        self._room = _opaque(_drawn(draw_background, 0, 0, WIDTH, HEIGHT))
        self._back = _drawn(back_hair, -170, -190, 340, 480)
        self._body = _drawn(draw_body, -280, 80, 560, 370)
        self._bare_head = _drawn(draw_head, -170, -200, 340, 500)
        self._head = _with_mouth(self._bare_head)
        self._front = _drawn(front_hair, -170, -200, 340, 500)
        self._eyes = (-84, -30, 168, 52)

    def frame(self, posture: Posture, *, bare: bool = False) -> Picture:
        """[720, 1280, 3] BGR; `bare`: without a mouth, as no frame of the avatar is."""
        picture = self._room.copy()
        _over(picture, *_shrunk(self._back, *_turned(self._back, posture, depth=-0.45)))
        _over(picture, *_shrunk(self._body, *_bent(self._body, posture)))
        head = self._finished_head(posture, self._bare_head if bare else self._head)
        _over(picture, *_shrunk(head, *_turned(head, posture, depth=1.0)))
        return np.asarray((picture[..., ::-1].clip(0, 1) * 255 + 0.5), np.uint8)

    def _finished_head(self, posture: Posture, drawn: Layer) -> Layer:
        head = drawn.copy()
        left, top, width, height = self._eyes
        eyes = Layer(left, top, width, height)
        draw_eyes(eyes, lid=posture.lid, gaze=posture.gaze)
        row, column = int((top - head.top) * DENSITY), int((left - head.left) * DENSITY)
        under = head.pixels[row : row + height * DENSITY, column : column + width * DENSITY]
        under[...] = eyes.pixels + under * (1 - eyes.pixels[..., 3:])
        head.pixels = self._front.pixels + head.pixels * (1 - self._front.pixels[..., 3:])
        return head


def mouth_place(posture: Posture) -> Place:
    """Where `Scene.frame` puts the mouth."""
    x, y = MOUTH
    dx, dy = _relief(np.array([[x]]), np.array([[y]]), posture)
    x, y = x + float(dx[0, 0]), y + float(dy[0, 0]) - _NECK_Y
    cos, sin = np.cos(posture.roll), np.sin(posture.roll)
    return Place(
        x=EYES[0] + posture.shift[0] + cos * x - sin * y,
        y=EYES[1] + posture.shift[1] + _NECK_Y + sin * x + cos * y,
        roll=posture.roll,
    )


def _drawn(draw: object, left: float, top: float, width: int, height: int) -> Layer:
    layer = Layer(left, top, width, height)
    draw(layer)  # type: ignore[operator]
    return layer


def _with_mouth(head: Layer) -> Layer:
    """The head with the mouth at rest, as the network paints it."""
    painted = head.copy()
    (x0, y0), (x1, y1) = (MOUTH[0] - 60, MOUTH[1] - 26), (MOUTH[0] + 60, MOUTH[1] + 36)
    rows = slice(int((y0 - head.top) * DENSITY), int((y1 - head.top) * DENSITY))
    columns = slice(int((x0 - head.left) * DENSITY), int((x1 - head.left) * DENSITY))
    part = painted.pixels[rows, columns, :3]
    centre = ((MOUTH[0] - x0) * DENSITY - 0.5, (MOUTH[1] - y0) * DENSITY - 0.5)
    part[...] = resting_mouth(part[..., ::-1], centre, CROP_SIZE / RECT_SIZE / DENSITY)[..., ::-1]
    return painted


def _opaque(layer: Layer) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(layer.pixels[..., :3], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.float32)


def _relief(x: Grid, y: Grid, posture: Posture) -> tuple[Grid, Grid]:
    """How far each point of the face moves when it turns: the more the nearer it is to the viewer."""
    dome = np.sqrt(np.maximum(0, 1 - (x / 135) ** 2 - ((y - 40) / 230) ** 2))
    near = 62 * dome + 13 * np.exp(-(x * x + (y - 48) ** 2) / 500)
    return near * np.sin(posture.yaw), near * np.sin(posture.pitch)


def _turned(layer: Layer, posture: Posture, *, depth: float) -> tuple[Grid, Grid]:
    """For each pixel of the layer's window, moved with the head, the point of the drawing that lands there."""
    x, y = _plane(layer)
    x, y = x - np.float32(posture.shift[0]), y - np.float32(posture.shift[1] + _NECK_Y)
    cos, sin = np.float32(np.cos(posture.roll)), np.float32(np.sin(posture.roll))
    x, y = cos * x + sin * y, cos * y - sin * x + np.float32(_NECK_Y)
    dx, dy = _relief(x, y, posture)
    return x - depth * dx, y - depth * dy


def _bent(layer: Layer, posture: Posture) -> tuple[Grid, Grid]:
    """The same for the body: the neck goes with the head, the shoulders rise with the breath."""
    x, y = _plane(layer)
    follow = np.clip((_BODY_Y - y) / (_BODY_Y - 130), 0, 1)
    follow = follow * follow * (3 - 2 * follow)
    aside = posture.shift[0] * (0.15 + 0.8 * follow) + (_NECK_Y - y) * posture.roll * -follow
    lift = -1.3 * posture.breath * np.clip((470 - y) / 150, 0, 1)
    swell = 1 + 0.002 * posture.breath * (1 - follow)
    return (x - aside) / swell, y - (lift * (1 - 0.7 * follow) + posture.shift[1] * follow)


def _plane(layer: Layer) -> tuple[Grid, Grid]:
    height, width = layer.pixels.shape[:2]
    x = layer.left + (np.arange(width, dtype=np.float32) + 0.5) / DENSITY
    y = layer.top + (np.arange(height, dtype=np.float32) + 0.5) / DENSITY
    return x[None, :] + np.zeros((height, 1), np.float32), y[:, None] + np.zeros((1, width), np.float32)


def _shrunk(layer: Layer, x: Grid, y: Grid) -> tuple[NDArray[np.float32], int, int]:
    """The warped layer at the picture's density, and its place there. The layer's window must lie on whole pixels."""
    column = ((x - layer.left) * DENSITY - 0.5).astype(np.float32)
    row = ((y - layer.top) * DENSITY - 0.5).astype(np.float32)
    warped = cv2.remap(layer.pixels, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    height, width = warped.shape[:2]
    small = cv2.resize(warped, (width // DENSITY, height // DENSITY), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32), int(EYES[0] + layer.left), int(EYES[1] + layer.top)


def _over(picture: NDArray[np.float32], layer: NDArray[np.float32], left: int, top: int) -> None:
    height = min(layer.shape[0], picture.shape[0] - top)
    layer = layer[:height]
    part = picture[top : top + height, left : left + layer.shape[1]]
    part *= 1 - layer[..., 3:]
    part += layer[..., :3]
