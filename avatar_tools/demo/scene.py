"""The person in the room, frame by frame: every layer is drawn once, then shifted, turned and bent a little for each posture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import CROP_SIZE, Picture, Rect
from avatar_tools.demo.background import HEIGHT, WIDTH, draw_background
from avatar_tools.demo.body import draw_body
from avatar_tools.demo.canvas import DENSITY, Layer
from avatar_tools.demo.eyes import draw_eyes
from avatar_tools.demo.hair import back_hair, front_hair
from avatar_tools.demo.head import draw_head
from avatar_tools.demo.motion import Posture
from avatar_tools.demo.mouths import resting_mouth

Grid: TypeAlias = NDArray[np.float32]

EYES = (640.0, 282.0)  # where the drawing's origin, between the eyes, stands in the picture
MOUTH = (0.0, 103.0)  # of the drawing: where the lips of the resting mouth meet in the middle
RECT_SIZE = 180
RECT_UP = 84  # rows of the rectangle above the mouth: it begins below the eyes and ends below the chin

_NECK_Y = 190.0  # of the drawing: what the head tilts about
_EYES_WINDOW = (-84, -30, 168, 52)  # of the drawing: left, top, width, height
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
        self._front = _drawn(front_hair, -170, -200, 340, 500)
        self._bare_head = _drawn(draw_head, -170, -200, 340, 500)
        self._head = _with_mouth(self._bare_head)
        for head in (self._bare_head, self._head):
            head.pixels = _over(head.pixels, self._front.pixels)

    def frame(self, posture: Posture, *, bare: bool = False) -> Picture:
        """[720, 1280, 3] BGR; `bare`: without a mouth, as no frame of the avatar is."""
        picture = self._room.copy()
        _put(picture, *_shrunk(self._back, *_turned(self._back, posture, depth=-0.45)))
        _put(picture, *_shrunk(self._body, *_bent(self._body, posture)))
        head = self._with_eyes(self._bare_head if bare else self._head, posture)
        _put(picture, *_shrunk(head, *_turned(head, posture, depth=1.0)))
        return np.asarray((picture[..., ::-1].clip(0, 1) * 255 + 0.5), np.uint8)

    def _with_eyes(self, head: Layer, posture: Posture) -> Layer:
        """Eyes go between the face and the hair in front."""
        eyes = Layer(*_EYES_WINDOW)
        draw_eyes(eyes, lid=posture.lid, gaze=posture.gaze)
        row, column = int((eyes.top - head.top) * DENSITY), int((eyes.left - head.left) * DENSITY)
        finished = head.copy()
        window = slice(row, row + eyes.pixels.shape[0]), slice(column, column + eyes.pixels.shape[1])
        for layer in (eyes.pixels, self._front.pixels[window]):
            finished.pixels[window] = _over(finished.pixels[window], layer)
        return finished


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
    """For each picture pixel of the layer's window, moved with the head, the point of the drawing that lands there."""
    x, y = _plane(layer)
    x, y = x - posture.shift[0], y - (posture.shift[1] + _NECK_Y)
    cos, sin = np.cos(posture.roll), np.sin(posture.roll)
    x, y = cos * x + sin * y, cos * y - sin * x + _NECK_Y
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
    return (x - aside) / swell, y - (lift * (1 - 0.7 * follow) + posture.shift[1] * follow) + 0 * x


def _plane(layer: Layer) -> tuple[Grid, Grid]:
    """Centres of the picture's pixels in the layer's window: x as a row, y as a column."""
    height, width = layer.pixels.shape[:2]
    x = layer.left + np.arange(width // DENSITY, dtype=np.float32) + np.float32(0.5)
    y = layer.top + np.arange(height // DENSITY, dtype=np.float32) + np.float32(0.5)
    return x[None, :], y[:, None]


def _shrunk(layer: Layer, x: Grid, y: Grid) -> tuple[NDArray[np.float32], int, int]:
    """The warped layer at the picture's density, and its place there. The layer's window must lie on whole pixels."""
    height, width = layer.pixels.shape[:2]
    # The bend is smooth: worked out at the picture's density, it serves the layer's as well.
    column, row = (
        cv2.resize(((place - corner) * DENSITY - 0.5).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        for place, corner in ((x, layer.left), (y, layer.top))
    )
    warped = cv2.remap(layer.pixels, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    small = cv2.resize(warped, (width // DENSITY, height // DENSITY), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32), int(EYES[0] + layer.left), int(EYES[1] + layer.top)


def _put(picture: NDArray[np.float32], layer: NDArray[np.float32], left: int, top: int) -> None:
    height = min(layer.shape[0], picture.shape[0] - top)
    part = picture[top : top + height, left : left + layer.shape[1]]
    part[...] = _over(part, layer[:height])


def _over(below: NDArray[np.float32], layer: NDArray[np.float32]) -> NDArray[np.float32]:
    """A premultiplied layer over pixels of 3 or 4 channels."""
    channels = below.shape[-1]
    clear = cv2.merge([1 - layer[..., 3]] * channels)
    return np.asarray(cv2.multiply(below, clear) + layer[..., :channels], np.float32)
