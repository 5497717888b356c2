"""Hair: locks between two guide curves, filled, and combed with strands and a band of light that follow the same flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from tools.demo_drawing.canvas import Coverage, Layer, Linear, Paint, Points, spline, taper

BASE, DEEP, MID, LIGHT, SHINE = "#4b2a22", "#2b1613", "#6d3f2d", "#8f5a3d", "#d39a6c"


@dataclass(frozen=True, slots=True)
class Lock:
    """A body of hair from its root to its tip, between an outer and an inner guide curve with as many knots."""

    outer: Sequence[tuple[float, float]]
    inner: Sequence[tuple[float, float]]

    def shape(self) -> Points:
        """Its outline."""
        return np.concatenate([spline(self.outer, closed=False), spline(self.inner, closed=False)[::-1]])

    def strand(self, across: float) -> list[tuple[float, float]]:
        """The flow line at 0 (outer) .. 1 (inner)."""
        line = (1 - across) * np.asarray(self.outer) + across * np.asarray(self.inner)
        return [(float(x), float(y)) for x, y in line]


def comb(layer: Layer, lock: Lock, *, paint: Paint, strands: int, shines: Sequence[tuple[float, float]], seed: int) -> None:
    """Fill a lock and comb it. `shines`: where light lies along it, 0 root .. 1 tip, and how far it reaches."""
    inside = layer.mask(lock.shape())
    layer.fill(lock.shape(), paint)
    chance = Random(seed)  # noqa: S311 - strands are no secret, and this gives the same ones everywhere
    for i in range(strands):
        across, width = chance.random(), 1.0 + 6.0 * chance.random() ** 2
        span = (0.3 * chance.random(), 1 - 0.35 * chance.random())
        colour, alpha = ((DEEP, 0.3), (LIGHT, 0.24), (DEEP, 0.22), (MID, 0.34))[i % 4]
        _stroke(layer, lock, across, span, width, colour, alpha, inside)
    soft = layer.mask(lock.shape(), blur=2.5) ** 2 * inside
    for middle, length in shines:
        _shine(layer, lock, middle, length, soft, strands, chance)


def _shine(layer: Layer, lock: Lock, middle: float, length: float, inside: Coverage, strands: int, chance: Random) -> None:
    """A band of light across the lock, ragged along the strands and fading to its sides."""
    phase = 6 * chance.random()
    for _ in range(strands):
        across, reach = chance.random(), length * (0.4 + 0.8 * chance.random())
        centre = middle + 0.22 * length * np.sin(5 * across + phase)
        fade = np.sin(np.pi * across) ** 0.7
        span = (max(0.0, centre - reach / 2), min(1.0, centre + reach / 2))
        _stroke(layer, lock, across, span, 1.0 + 3.6 * chance.random(), SHINE, 0.25 * float(fade), inside, blur=0.8)


def _stroke(
    layer: Layer,
    lock: Lock,
    across: float,
    span: tuple[float, float],
    width: float,
    colour: str,
    alpha: float,
    inside: Coverage,
    *,
    blur: float = 0.5,
) -> None:
    line = spline(lock.strand(across), closed=False)
    piece = line[int(span[0] * (len(line) - 1)) : int(span[1] * (len(line) - 1)) + 2 : 3]
    if len(piece) >= 3:
        outline = taper([(float(x), float(y)) for x, y in piece], (0, width, width, 0))
        layer.fill(outline, colour, alpha=alpha, blur=blur, inside=inside)


def back_hair(layer: Layer) -> None:
    """The mass behind neck and shoulders; its ends are hidden by the clothes."""
    paint = Linear((0, -120), (0, 250), ((0, DEEP), (0.55, "#38201a"), (1, "#4f2d22")))
    for side, seed in ((-1, 13), (1, 57)):
        outer = [(18, -150), (102, -112), (122, -40), (122, 30), (130, 86), (146, 138), (146, 186), (136, 226), (140, 275)]
        inner = [(0, -120), (20, -60), (24, 0), (24, 60), (24, 110), (26, 150), (28, 190), (30, 226), (34, 275)]
        lock = Lock([(side * x, y) for x, y in outer], [(side * x, y) for x, y in inner])
        comb(layer, lock, paint=paint, strands=34, shines=((0.72, 0.2),) if side < 0 else (), seed=seed)


LEFT_SWEEP = Lock(
    [(-34, -165), (-68, -156), (-100, -124), (-118, -74), (-123, -24), (-122, 18), (-113, 42)],
    [(-36, -120), (-58, -102), (-77, -76), (-88, -46), (-96, -16), (-107, 8), (-113, 42)],
)
RIGHT_SWEEP = Lock(
    [
        (-35, -165),
        (16, -175),
        (68, -162),
        (107, -122),
        (125, -62),
        (128, 0),
        (126, 52),
        (136, 102),
        (153, 148),
        (154, 196),
        (147, 240),
        (106, 274),
    ],
    [
        (-37, -120),
        (-18, -104),
        (18, -84),
        (57, -60),
        (82, -30),
        (93, 8),
        (98, 58),
        (99, 104),
        (108, 146),
        (113, 192),
        (121, 238),
        (106, 274),
    ],
)
FRINGE = Lock(
    [(-36, -158), (2, -154), (48, -130), (82, -92), (102, -44), (108, 6), (106, 70), (112, 118), (116, 160)],
    [(-37, -118), (-16, -100), (20, -80), (58, -56), (82, -26), (93, 10), (97, 62), (99, 106), (116, 160)],
)


def front_hair(layer: Layer) -> None:
    """The parted top, one side swept behind the ear, the other falling to the shoulder."""
    paint = Linear((-90, -170), (120, 240), ((0, "#5d3629"), (0.3, BASE), (0.7, "#44261e"), (1, "#603626")))
    comb(layer, LEFT_SWEEP, paint=paint, strands=34, shines=((0.45, 0.3),), seed=3)
    comb(layer, RIGHT_SWEEP, paint=paint, strands=60, shines=((0.3, 0.17), (0.66, 0.16)), seed=71)
    comb(
        layer,
        FRINGE,
        paint=Linear((-40, -140), (110, 100), ((0, "#5d3629"), (0.5, "#54302a"), (1, "#472821"))),
        strands=28,
        shines=((0.36, 0.22),),
        seed=5,
    )
    layer.fill(
        taper([(-35, -172), (-36, -140), (-37, -116)], (7, 11, 3)),
        DEEP,
        alpha=0.55,
        blur=3.5,
        inside=layer.mask(LEFT_SWEEP.shape()) + layer.mask(FRINGE.shape()),
    )
