"""The benchmark avatar's clip: pictures that cost as much to encode as filmed ones, and a rectangle that moves like a head."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import Picture, Rect, crop_328, inner

WIDTH, HEIGHT = 1280, 720

_SEED = 328
_JPEG_QUALITY = 90  # as extracted from video; at quality 75 they have 60 to 70 KB
_SWAY, _NOD = 40, 16  # the camera's largest shift, pixels
_SWAY_FRAMES, _NOD_FRAMES = 231, 173
_RECT_WIDTH, _RECT_CHANGE, _RECT_FRAMES = 181, 8, 307  # 173 to 189, as measured on a real avatar
_FACE = (640, 400)  # the rectangle's centre while nothing moves

# (blur in pixels, strength in grey levels): from the shapes of a room down to the grain of a sensor.
_TEXTURE = ((90.0, 34.0), (24.0, 16.0), (6.0, 7.0), (2.0, 2.5), (0.8, 1.2))


@dataclass(frozen=True)
class BenchmarkClip:
    """Frames by index, any index >= 0. For any number of threads."""

    _scene: Picture  # larger than a frame by the camera's shifts

    def jpeg(self, index: int) -> bytes:
        """The frame, 1280x720."""
        x, y = _shift(index)
        frame = self._scene[_NOD + y : _NOD + y + HEIGHT, _SWAY + x : _SWAY + x + WIDTH]
        return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()

    def rect(self, index: int) -> Rect:
        """A square that stays with the scene and slowly changes its size."""
        x, y = _shift(index)
        size = round(_RECT_WIDTH + _RECT_CHANGE * math.sin(2 * math.pi * index / _RECT_FRAMES))
        left, top = _FACE[0] - x - size // 2, _FACE[1] - y - size // 2
        return Rect(left, top, left + size, top + size)

    def mouths(self, count: int) -> NDArray[np.uint8]:
        """[count, 320, 320, 3]: pictures like a network's inputs and outputs, from different places of the scene."""
        lefts = np.linspace(0, self._scene.shape[1] - _RECT_WIDTH, count).astype(int)
        rects = [Rect(left, _NOD, left + _RECT_WIDTH, _NOD + _RECT_WIDTH) for left in lefts.tolist()]
        return np.stack([inner(crop_328(self._scene, rect)) for rect in rects])


def benchmark_clip() -> BenchmarkClip:
    """The clip; always the same."""
    return BenchmarkClip(_textured(np.random.default_rng(_SEED), WIDTH + 2 * _SWAY, HEIGHT + 2 * _NOD))


def _shift(index: int) -> tuple[int, int]:
    """The camera's shift in pixels, to the right and down."""
    return (
        round(_SWAY * math.sin(2 * math.pi * index / _SWAY_FRAMES)),
        round(_NOD * math.sin(2 * math.pi * index / _NOD_FRAMES)),
    )


def _textured(generator: np.random.Generator, width: int, height: int) -> Picture:
    """Noise of several sizes, each band of the same strength whatever its blur; colours vary less than brightness."""
    total = np.full((height, width, 3), 128, np.float32)
    for blur, strength in _TEXTURE:
        grey = _noise(generator, width, height, 1, blur)
        colour = _noise(generator, width, height, 3, max(blur, 4.0))
        total += strength * (grey[:, :, None] + 0.4 * colour)
    return np.clip(total, 0, 255).astype(np.uint8)


def _noise(generator: np.random.Generator, width: int, height: int, channels: int, blur: float) -> NDArray[np.float32]:
    """[height, width, channels] (no last axis for one channel) of variance 1, with nothing finer than `blur` pixels."""
    step = max(1, int(blur // 2))  # coarse noise is made small and enlarged, because a wide blur takes long
    small = (height // step + 8, width // step + 8)
    raw = generator.standard_normal((*small, channels) if channels > 1 else small).astype(np.float32)
    smooth = cv2.GaussianBlur(raw, (0, 0), blur / step)
    smooth = np.asarray(cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    return np.asarray((smooth - smooth.mean()) / smooth.std(), np.float32)
