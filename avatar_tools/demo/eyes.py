"""The eyes, drawn anew for each opening of the lids and each gaze."""

from __future__ import annotations

import numpy as np

from avatar_tools.demo.canvas import Coverage, Layer, Linear, Points, Radial, ellipse, moved, path, taper
from avatar_tools.demo.head import SKIN_DEEP

LASH = "#2a1714"
_CENTRE_X = 44.0

# Knots from the inner to the outer corner, for the right half of the face.
_OPEN = np.array([(17.5, 5), (26, -5.2), (39, -11.3), (53.5, -11.0), (65, -4.8), (71, -0.5)], np.float64)
_SHUT = np.array([(17.5, 5.5), (27, 9.2), (39, 11.8), (52, 11.2), (64, 7), (71, 2)], np.float64)
_LOWER = np.array([(17.5, 5), (27, 10.2), (39, 12.8), (52, 12.2), (64.5, 7.2), (71, -0.5)], np.float64)
_CREASE = np.array([(20, -3), (28, -13.5), (41, -20.5), (56, -19.5), (68, -11), (74, -6)], np.float64)


def draw_eyes(layer: Layer, *, lid: float, gaze: tuple[float, float]) -> None:
    """Both eyes; `lid` 0 shut .. 1 open, `gaze` in picture pixels."""
    for side in (-1, 1):
        _eye(layer, side, lid, gaze)


def _points(knots: Points, side: int) -> list[tuple[float, float]]:
    return [(side * float(x), float(y)) for x, y in knots]


def _eye(layer: Layer, side: int, lid: float, gaze: tuple[float, float]) -> None:
    upper = moved(_OPEN * lid + _SHUT * (1 - lid), 0, 0.35 * gaze[1] * lid)
    ball = path(_points(_OPEN, side), _points(_LOWER[::-1], side))
    seen = path(_points(upper, side), _points(_LOWER[::-1], side))
    layer.fill(
        path(_points(_CREASE, side), _points(moved(_LOWER[::-1], 0, 1.5), side)),
        Linear((0, -18), (0, 12), ((0, "#dfa583"), (0.6, "#eebb99"), (1, "#eebb99"))),
        blur=1.2,
    )
    inside = layer.mask(seen)
    layer.fill(ball, Linear((0, -11), (0, 11), ((0, "#cdbfba"), (0.45, "#f4eeea"), (1, "#ece2dd"))), inside=inside)
    layer.fill(ellipse((side * 19, 5.5), (4, 4)), "#d98f86", alpha=0.75, blur=1.5, inside=inside)
    _iris(layer, (side * _CENTRE_X + gaze[0], -0.4 + gaze[1]), inside)
    # The upper lid's shadow on the ball.
    layer.fill(taper(_points(moved(upper, 0, 2.2), side), (2, 6, 7, 6, 2)), "#3a2320", alpha=0.42, blur=1.6, inside=inside)
    layer.fill(taper(_points(moved(_LOWER, 0, 0.6), side), (0.6, 1.1, 1.2, 1.6, 1.8)), SKIN_DEEP, alpha=0.62, blur=0.7)
    layer.fill(
        taper(_points(moved(_CREASE, 0, 2.5 * (1 - lid)), side), (0.3, 1.6, 1.8, 1.4, 0.3)),
        SKIN_DEEP,
        alpha=0.3 + 0.3 * lid,
        blur=0.8,
    )
    _lashes(layer, side, upper, lid)


def _iris(layer: Layer, centre: tuple[float, float], inside: Coverage) -> None:
    x, y = centre
    layer.fill(
        ellipse(centre, (13.0, 13.0)),
        Radial(centre, (13.0, 13.0), ((0, "#8a5a32"), (0.45, "#7c4c2a"), (0.8, "#56321e"), (1, "#2d1912"))),
        inside=inside,
    )
    layer.fill(ellipse((x + 1, y + 6), (8, 5)), "#c98d4f", alpha=0.62, blur=1.6, inside=inside)
    layer.fill(ellipse(centre, (5.8, 5.8)), "#160c0a", blur=0.3, inside=inside)
    layer.fill(ellipse((x - 4.2, y - 5.0), (3.7, 3.4)), "#ffffff", alpha=0.97, blur=0.3, inside=inside)
    layer.fill(ellipse((x + 5, y + 5.4), (1.9, 1.7)), "#ffffff", alpha=0.6, blur=0.3, inside=inside)


def _lashes(layer: Layer, side: int, upper: Points, lid: float) -> None:
    tip = upper[-1] + (5, -4.5 * lid + 1.5 * (1 - lid))
    line = [*_points(upper, side), (side * float(tip[0]), float(tip[1]))]
    layer.fill(taper(line, (0.8, 2.6, 3.6, 4.0, 3.4, 0.3)), LASH)
    for knot, (dx, dy) in ((3, (4.5, -7)), (4, (6.5, -6.0))):
        x, y = upper[knot]
        rise = dy * lid + 3.5 * (1 - lid)
        layer.fill(
            taper([(side * x, y), (side * (x + 0.6 * dx), y + 0.45 * rise), (side * (x + dx), y + rise)], (2.4, 1.5, 0.2)),
            LASH,
            alpha=0.9,
        )
