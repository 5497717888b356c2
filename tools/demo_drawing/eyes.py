"""The eyes in parts that move against each other: sockets, eyeballs, irises, lids."""

from __future__ import annotations

import numpy as np

from tools.demo_drawing.canvas import Coverage, Layer, Linear, Points, Radial, ellipse, moved, path, taper
from tools.demo_drawing.head import SKIN_DEEP

LASH = "#2a1714"
SIDES = (-1, 1)

_CENTRE_X = 44.0

# Knots from the inner to the outer corner, for the right half of the face.
_OPEN = np.array([(17.5, 5), (26, -5.2), (39, -11.3), (53.5, -11.0), (65, -4.8), (71, -0.5)], np.float64)
_SHUT = np.array([(17.5, 5.5), (27, 9.2), (39, 11.8), (52, 11.2), (64, 7), (71, 2)], np.float64)
_LOWER = np.array([(17.5, 5), (27, 10.2), (39, 12.8), (52, 12.2), (64.5, 7.2), (71, -0.5)], np.float64)
_CREASE = np.array([(20, -3), (28, -13.5), (41, -20.5), (56, -19.5), (68, -11), (74, -6)], np.float64)


def draw_sockets(layer: Layer) -> None:
    """Draws the shaded skin around the eyes."""
    for side in SIDES:
        layer.fill(
            path(_points(_CREASE, side), _points(moved(_LOWER[::-1], 0, 1.5), side)),
            Linear((0, -18), (0, 12), ((0, "#dfa583"), (0.6, "#eebb99"), (1, "#eebb99"))),
            blur=1.2,
        )


def draw_eyeballs(layer: Layer) -> None:
    """Draws the whites of the eyes."""
    for side in SIDES:
        ball = path(_points(_OPEN, side), _points(_LOWER[::-1], side))
        layer.fill(ball, Linear((0, -11), (0, 11), ((0, "#cdbfba"), (0.45, "#f4eeea"), (1, "#ece2dd"))))
        layer.fill(ellipse((side * 19, 5.5), (4, 4)), "#d98f86", alpha=0.75, blur=1.5)


def draw_irises(layer: Layer) -> None:
    """Draws the irises of eyes that look straight ahead, whole."""
    for side in SIDES:
        x, y = centre = (side * _CENTRE_X, -0.4)
        layer.fill(
            ellipse(centre, (13.0, 13.0)),
            Radial(centre, (13.0, 13.0), ((0, "#8a5a32"), (0.45, "#7c4c2a"), (0.8, "#56321e"), (1, "#2d1912"))),
        )
        layer.fill(ellipse((x + 1, y + 6), (8, 5)), "#c98d4f", alpha=0.62, blur=1.6)
        layer.fill(ellipse(centre, (5.8, 5.8)), "#160c0a", blur=0.3)
        layer.fill(ellipse((x - 4.2, y - 5.0), (3.7, 3.4)), "#ffffff", alpha=0.97, blur=0.3)
        layer.fill(ellipse((x + 5, y + 5.4), (1.9, 1.7)), "#ffffff", alpha=0.6, blur=0.3)


def opening(layer: Layer, lid: float) -> Coverage:
    """The eyeballs' visible part with lids at `lid`, 0 shut .. 1 open."""
    left, right = (layer.mask(_seen(lid, side)) for side in SIDES)
    return left + right


def draw_lids(layer: Layer, lid: float) -> None:
    """Draws the lids' edges, folds, lashes and shadows."""
    upper = _upper(lid)
    for side in SIDES:
        # The upper lid's shadow on the ball.
        shadow = taper(_points(moved(upper, 0, 2.2), side), (2, 6, 7, 6, 2))
        layer.fill(shadow, "#3a2320", alpha=0.42, blur=1.6, inside=layer.mask(_seen(lid, side)))
        layer.fill(taper(_points(moved(_LOWER, 0, 0.6), side), (0.6, 1.1, 1.2, 1.6, 1.8)), SKIN_DEEP, alpha=0.62, blur=0.7)
        layer.fill(
            taper(_points(moved(_CREASE, 0, 2.5 * (1 - lid)), side), (0.3, 1.6, 1.8, 1.4, 0.3)),
            SKIN_DEEP,
            alpha=0.3 + 0.3 * lid,
            blur=0.8,
        )
        _lashes(layer, side, upper, lid)


def _upper(lid: float) -> Points:
    return np.asarray(_OPEN * lid + _SHUT * (1 - lid))


def _seen(lid: float, side: int) -> Points:
    return path(_points(_upper(lid), side), _points(_LOWER[::-1], side))


def _points(knots: Points, side: int) -> list[tuple[float, float]]:
    return [(side * float(x), float(y)) for x, y in knots]


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
