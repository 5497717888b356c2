"""A small vector painter: smooth shapes, gradients, soft shadows, tapered strokes; antialiased, on premultiplied colour layers.

Shapes are polygons in picture coordinates. A layer is a window of that plane at `DENSITY` pixels per picture pixel, so that it
can be moved by fractions of a pixel later without losing its edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.demo_drawing.scene import DENSITY

Points: TypeAlias = NDArray[np.float64]
"""[N, 2]: x and y in picture pixels."""
Coverage: TypeAlias = NDArray[np.float32]
"""[height, width] of a layer: 0 outside, 1 inside."""

_SUBSAMPLES = 4  # a mask is filled at this multiple of the layer's density and averaged down
_SHIFT = 6  # fractional bits of the coordinates given to OpenCV
_LARGE_BLUR = 5.0  # layer pixels; above it a blur runs on a reduced picture, where it costs little and looks the same


def spline(points: Sequence[tuple[float, float]], *, closed: bool = True, steps: int = 14) -> Points:
    """A smooth curve through the points (centripetal Catmull-Rom, which neither loops nor overshoots)."""
    knots = np.asarray(points, np.float64)
    ends = (knots[-1:], knots[:2]) if closed else (2 * knots[:1] - knots[1:2], 2 * knots[-1:] - knots[-2:-1])
    padded = np.concatenate([ends[0], knots, ends[1]])
    p0, p1, p2, p3 = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t1 = _gap(p0, p1)
    t2 = t1 + _gap(p1, p2)
    t3 = t2 + _gap(p2, p3)
    t = t1 + (t2 - t1) * np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a1, a2, a3 = p0 + (p1 - p0) * (t / t1), p1 + (p2 - p1) * ((t - t1) / (t2 - t1)), p2 + (p3 - p2) * ((t - t2) / (t3 - t2))
    b1, b2 = a1 + (a2 - a1) * (t / t2), a2 + (a3 - a2) * ((t - t1) / (t3 - t1))
    curve = b1 + (b2 - b1) * ((t - t1) / (t2 - t1))
    return np.concatenate([curve.reshape(-1, 2), padded[-2:-1]])


def _gap(start: Points, end: Points) -> Points:
    """Parameter distance between knots: the square root of their distance is what makes the curve centripetal."""
    away = end - start
    return np.asarray(np.sqrt(np.hypot(away[..., 0], away[..., 1]))[..., None].clip(1e-6))


def path(*pieces: Sequence[tuple[float, float]]) -> Points:
    """A closed shape of smooth open pieces that meet in corners."""
    return np.concatenate([spline(piece, closed=False) for piece in pieces])


def ellipse(centre: tuple[float, float], radii: tuple[float, float], *, degrees: float = 0.0) -> Points:
    """An ellipse, turned clockwise."""
    t, turn = np.linspace(0, 2 * np.pi, 96, endpoint=False), np.deg2rad(degrees)
    x, y = radii[0] * np.cos(t), radii[1] * np.sin(t)
    return np.stack([centre[0] + x * np.cos(turn) - y * np.sin(turn), centre[1] + x * np.sin(turn) + y * np.cos(turn)], 1)


def moved(shape: Points, dx: float, dy: float) -> Points:
    """The same shape elsewhere."""
    return np.asarray(shape + np.array([dx, dy]))


def symmetric(half: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Knots of a closed shape from those of its right half, listed from the top to the bottom; both ends on x = 0."""
    return [*half, *[(-x, y) for x, y in reversed(half[1:-1])]]


def taper(points: Sequence[tuple[float, float]], widths: Sequence[float]) -> Points:
    """The outline of a brush stroke along a smooth curve; the widths are spread evenly over its length."""
    line = spline(points, closed=False)
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], 1) / np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)[:, None]
    half = np.interp(np.linspace(0, 1, len(line)), np.linspace(0, 1, len(widths)), widths)[:, None] / 2
    return np.concatenate([line + normal * half, (line - normal * half)[::-1]])


def rgb(code: str) -> NDArray[np.float32]:
    """[3] of 0..1 from "#rrggbb"."""
    return np.array([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)], np.float32)


@dataclass(frozen=True, slots=True)
class Linear:
    """A colour ramp from one point to another: stops of (place 0..1, "#rrggbb")."""

    start: tuple[float, float]
    end: tuple[float, float]
    stops: tuple[tuple[float, str], ...]

    def at(self, x: Points, y: Points) -> NDArray[np.float32]:
        """[height, width, 3]."""
        dx, dy = self.end[0] - self.start[0], self.end[1] - self.start[1]
        return _ramp(((x - self.start[0]) * dx + (y - self.start[1]) * dy) / (dx * dx + dy * dy), self.stops)


@dataclass(frozen=True, slots=True)
class Radial:
    """A colour ramp from the centre of an ellipse to its rim."""

    centre: tuple[float, float]
    radii: tuple[float, float]
    stops: tuple[tuple[float, str], ...]

    def at(self, x: Points, y: Points) -> NDArray[np.float32]:
        """[height, width, 3]."""
        return _ramp(np.hypot((x - self.centre[0]) / self.radii[0], (y - self.centre[1]) / self.radii[1]), self.stops)


def _ramp(t: Points, stops: tuple[tuple[float, str], ...]) -> NDArray[np.float32]:
    places, colours = [place for place, _ in stops], np.stack([rgb(code) for _, code in stops])
    return np.stack([np.interp(t, places, colours[:, i]) for i in range(3)], -1).astype(np.float32)


Paint: TypeAlias = str | Linear | Radial


class Layer:
    """A window of the picture plane, [height, width, 4] premultiplied RGBA, float32 of 0..1."""

    def __init__(self, left: float, top: float, width: int, height: int) -> None:
        self.left, self.top = left, top
        self.pixels = np.zeros((height * DENSITY, width * DENSITY, 4), np.float32)

    def mask(self, shape: Points, *, blur: float = 0.0) -> Coverage:
        """Coverage of a shape over the whole layer; `blur` is a Gaussian's sigma in picture pixels."""
        covered = np.zeros(self.pixels.shape[:2], np.float32)
        window, part = self._cover([shape], blur)
        covered[window] = part
        return covered

    def fill(
        self,
        shape: Points | Sequence[Points],
        paint: Paint,
        *,
        alpha: float = 1.0,
        blur: float = 0.0,
        inside: Coverage | None = None,
    ) -> None:
        """Paint a shape, or several as one, over what is there; `inside` limits it to another shape's mask."""
        window, covered = self._cover([shape] if isinstance(shape, np.ndarray) else list(shape), blur)
        if covered.size:
            self._blend(window, covered if inside is None else covered * inside[window], paint, alpha)

    def copy(self) -> Layer:
        """Another layer with the same picture."""
        twin = Layer(self.left, self.top, 0, 0)
        twin.pixels = self.pixels.copy()
        return twin

    def put(self, other: Layer) -> None:
        """Draws another layer of the same window over this one."""
        self.pixels = self.pixels * (1 - other.pixels[..., 3:]) + other.pixels

    def _blend(self, window: tuple[slice, slice], covered: Coverage, paint: Paint, alpha: float) -> None:
        strength = covered * np.float32(alpha)
        if isinstance(paint, str):
            colour = rgb(paint)
        else:
            rows, columns = window
            y = self.top + (np.arange(rows.start, rows.stop)[:, None] + 0.5) / DENSITY
            x = self.left + (np.arange(columns.start, columns.stop)[None, :] + 0.5) / DENSITY
            colour = paint.at(*np.broadcast_arrays(x, y))
        opaque = np.empty((*covered.shape, 4), np.float32)
        opaque[..., :3], opaque[..., 3] = colour, 1
        part = self.pixels[window]
        part += cv2.multiply(opaque - part, cv2.merge([strength] * 4))  # far quicker than numpy's broadcasting over 4 channels

    def _cover(self, shapes: list[Points], blur: float) -> tuple[tuple[slice, slice], Coverage]:
        """The bounding window of the shapes and their coverage in it."""
        placed = [(shape - (self.left, self.top)) * DENSITY for shape in shapes]
        margin = 2 + 3 * blur * DENSITY
        height, width = self.pixels.shape[:2]
        low = np.floor(np.min([p.min(0) for p in placed], 0) - margin).astype(int)
        high = np.ceil(np.max([p.max(0) for p in placed], 0) + margin).astype(int)
        x0, y0 = np.clip(low, 0, (width, height))
        x1, y1 = np.clip(high, 0, (width, height))
        window = slice(int(y0), int(y1)), slice(int(x0), int(x1))
        if x0 >= x1 or y0 >= y1:
            return window, np.zeros((max(0, y1 - y0), max(0, x1 - x0)), np.float32)
        # A blurred shape is drawn with all its surroundings, or the layer's edge would be visible in the blur.
        area, offset = ((high - low), low) if blur else ((x1 - x0, y1 - y0), np.array([x0, y0]))
        covered = _soften(_rasterise(placed, offset, area), blur * DENSITY)
        return window, covered[y0 - offset[1] : y1 - offset[1], x0 - offset[0] : x1 - offset[0]]


def _rasterise(shapes: list[Points], offset: NDArray[np.int64], area: Sequence[int]) -> Coverage:
    fine = np.zeros((int(area[1]) * _SUBSAMPLES, int(area[0]) * _SUBSAMPLES), np.uint8)
    for shape in shapes:
        # OpenCV's integer coordinates are pixel centres.
        corners = np.round(((shape - offset) * _SUBSAMPLES - 0.5) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(fine, [corners], 255, shift=_SHIFT)
    averaged = cv2.resize(fine, (int(area[0]), int(area[1])), interpolation=cv2.INTER_AREA)
    return np.asarray(averaged, np.float32) / np.float32(255)


def _soften(covered: Coverage, sigma: float) -> Coverage:
    if sigma <= 0:
        return covered
    if sigma <= _LARGE_BLUR:
        return np.asarray(cv2.GaussianBlur(covered, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)
    height, width = covered.shape
    factor = sigma / 3
    small = cv2.resize(covered, (max(1, round(width / factor)), max(1, round(height / factor))), interpolation=cv2.INTER_AREA)
    return np.asarray(
        cv2.resize(
            cv2.GaussianBlur(small, (0, 0), 3, borderType=cv2.BORDER_REPLICATE), (width, height), interpolation=cv2.INTER_CUBIC
        ),
        np.float32,
    ).clip(0, 1)
