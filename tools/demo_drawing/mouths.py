"""Paints the mouth inside the network's graph: its shape follows from a few movements of lips, jaw and tongue.

Nothing is blended between stored pictures, so that every shape between two others is as sharp as they are. Lengths are pixels of
the 320 picture (about 1.8 to a picture pixel), from the point where the lips of the resting mouth meet in the middle, y down.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from tools.demo_drawing.expressions import ExpressionGraph, Value

EDGE = 1.8  # width of the soft edge: one picture pixel, as sharp as the face around it


@dataclass(frozen=True, slots=True)
class Pose:
    """The mouth's movements, each [N,1,1,1] of 0 (at rest, lips closed) .. 1."""

    opened: Value
    """The jaw: 'a'."""
    spread: Value
    """Corners out: 'e', 'i'."""
    rounded: Value
    """Corners in, lips forward: 'o', 'u'."""
    pressed: Value
    """Lips pressed together: 'm', 'b', 'p'."""
    bitten: Value
    """Lower lip under the upper teeth: 'f', 'v'."""
    clenched: Value
    """Teeth together, lips apart: 's', 't'."""
    tongue: Value
    """Tip of the tongue up: 'l', 'th'."""


POSE_SIZE = len(fields(Pose))


@dataclass(frozen=True, slots=True)
class _Shape:
    """Sizes that follow from the pose, each [N,1,1,1]."""

    half_width: Value
    hole_half_width: Value
    hole_up: Value
    hole_down: Value
    upper_lip: Value
    lower_lip: Value
    drop: Value
    roundness: Value
    smile: Value


def _shape(p: Pose) -> _Shape:
    closed = (1 - p.opened) * (1 - p.clenched)
    half_width = 63.0 + 8.0 * p.spread - 22.0 * p.rounded - 6.0 * p.opened * (1 - p.spread) + 2.0 * p.pressed
    drop = 12.0 * p.opened
    hole_up = 0.7 + drop + 7.5 * p.opened * (1 - 0.35 * p.rounded) + 4.5 * p.clenched + 7.5 * p.bitten + 2.0 * p.spread * p.opened
    hole_up = hole_up + 3.5 * p.rounded
    hole_down = (
        0.7
        + 34.0 * p.opened * (1 - 0.15 * p.rounded) * (1 - 0.25 * p.spread)
        + 4.5 * p.rounded
        + 4.0 * p.tongue
        + 7.0 * p.clenched
        + 0.6 * p.bitten
    )
    return _Shape(
        half_width=half_width,
        hole_half_width=half_width - 5.0 - 3.0 * p.opened - 13.0 * p.rounded - 10.0 * p.bitten - 3.0 * p.clenched,
        drop=drop,
        hole_up=hole_up,
        hole_down=hole_down,
        upper_lip=15.0 - 4.2 * p.pressed + 2.2 * p.rounded - 1.5 * p.spread - 1.5 * p.opened - 1.0 * p.bitten,
        lower_lip=18.5 - 5.0 * p.pressed + 2.0 * p.rounded - 2.0 * p.spread - 2.0 * p.opened - 5.0 * p.bitten,
        roundness=0.62 + 0.25 * closed,
        smile=8.5 + 2.0 * p.spread - 5.0 * p.rounded - 2.5 * p.opened,
    )


def paint_mouth(skin: Value, x: Value, y: Value, pose: Pose) -> Value:
    """The skin with a mouth on it, [N,3,h,w] BGR 0..1.

    `skin` is [N or 1,3,h,w]; `x` and `y`, [N or 1,1,h,w], are its pixels' distances from the mouth's resting centre.
    """
    s = _shape(pose)
    u = x / s.half_width
    middle = s.drop - (s.smile * u * u).at_most(14.0)
    down = y - middle
    # Signed distances to four curves decide everything: the outer edges of both lips, and the hole between them.
    arch = (1 - u * u).at_least(1e-3)
    ends = _inside((1 - u.abs()) * s.half_width)
    bow = arch * (0.45 + 0.55 * arch) - 0.2 * (-(u * u) / 0.026).exp() * arch
    top = s.hole_up * arch.power(s.roundness) + s.upper_lip * bow
    below = s.hole_down * arch.power(s.roundness) + s.lower_lip * arch * (1.0 + 0.38 * u * u)
    in_upper = (down + top) / _steepness(s.hole_up + s.upper_lip, u, s.half_width)
    in_lower = (below - down) / _steepness(s.hole_down + s.lower_lip, u, s.half_width)
    hole = _hole_distance(x, down, s)
    lips = _inside(in_upper) * _inside(in_lower) * ends
    is_lower = (down / 3.0).sigmoid()
    picture = _shade_skin(skin, u, down, top, below, arch, pose)
    picture = _over(picture, _lip_colour(u, in_upper, in_lower, hole, is_lower, pose), lips)
    parted = ((s.hole_up + s.hole_down - 1.4) / 2.5).clip()
    return _over(picture, _inner_mouth(x, down, hole, s, pose), _inside(-hole) * ends * parted)


def _inside(distance: Value) -> Value:
    return (distance / EDGE + 0.5).clip()


def _over(below: Value, colour: Value | NDArray[np.float32], alpha: Value) -> Value:
    return below + (colour - below) * alpha


def _steepness(height: Value, u: Value, half_width: Value) -> Value:
    """The vertical distance to a parabola of that height, divided by the shortest distance."""
    slope = 2 * height * u / half_width
    return (1 + slope * slope).sqrt()


def _hole_distance(x: Value, down: Value, s: _Shape) -> Value:
    """Distance to the ellipse-like opening, negative inside: flatter above than below."""
    below = (down * 1e3).clip()
    height = s.hole_up + (s.hole_down - s.hole_up) * below
    fx, fy = x / s.hole_half_width, down / height
    slope_x, slope_y = fx / s.hole_half_width, fy / height
    return (fx * fx + fy * fy - 1) / (2 * (slope_x * slope_x + slope_y * slope_y + 1e-6).sqrt())


def _bgr(code: str) -> NDArray[np.float32]:
    """[1, 3, 1, 1] of 0..1 from "#rrggbb"."""
    return np.array([int(code[i : i + 2], 16) / 255 for i in (5, 3, 1)], np.float32).reshape(1, 3, 1, 1)


def _bump(distance: Value, width: float) -> Value:
    """1 at 0, falling like a Gaussian."""
    scaled = distance / width
    return (-(scaled * scaled)).exp()


def _shade_skin(skin: Value, u: Value, down: Value, top: Value, below: Value, arch: Value, p: Pose) -> Value:
    """The shadow under the lower lip, dents at the corners, light on the rim of the upper lip."""
    under = _bump(down - below - 5.5, 6.0) * arch * (0.42 + 0.1 * p.rounded)
    corners = _bump(u.abs() - 1.03, 0.085) * _bump(down, 7.0) * (0.22 + 0.2 * p.spread)
    rim = _bump(down + top + 3.4, 2.4) * arch * 0.22
    shaded = _over(skin, _bgr("#a85a43"), (under + corners).clip(0.0, 0.8))
    return _over(shaded, _bgr("#ffe9d8"), rim)


def _lip_colour(u: Value, in_upper: Value, in_lower: Value, hole: Value, is_lower: Value, p: Pose) -> Value:
    """[N,3,h,w]: upper lip in shade, lower lip catching the light."""
    to_hole = hole.at_least(0.0)
    up = in_upper.at_least(0.0)
    lo = in_lower.at_least(0.0)
    v_upper = up / (up + to_hole + 0.5)
    v_lower = lo / (lo + to_hole + 0.5)
    upper = _over(
        _over_constant("#c9696a", v_upper, "#a94a52"),
        _bgr("#e59a92"),
        0.5 * _bump(v_upper - 0.18, 0.2) * _bump(u.abs() - 0.25, 0.3),
    )
    lower = _over(
        _over_constant("#c05f62", v_lower, "#c96669"), _bgr("#f3b3a9"), 0.72 * _bump(v_lower - 0.48, 0.2) * _bump(u + 0.12, 0.42)
    )
    colour = upper + (lower - upper) * is_lower
    crease = (-(to_hole / 2.4)).exp() * (0.5 + 0.28 * (1 - p.opened) * (1 - p.opened))
    return _over(colour, _bgr("#6b2530"), crease)


def _over_constant(start: str, amount: Value, end: str) -> Value:
    return _bgr(start) + (_bgr(end) - _bgr(start)) * amount


def _inner_mouth(x: Value, down: Value, hole: Value, s: _Shape, p: Pose) -> Value:
    """[N,3,h,w]: the dark, tongue, teeth, and the shadow that the lips cast on them."""
    depth = (down / (s.hole_down + 4.0)).clip()
    colour = _over_constant("#2b0d13", depth, "#5d1d25")
    colour = _over(colour, *_tongue(x, down, s, p))
    side = x / 58.0
    upper_edge = 6.5 - s.drop - 6.0 * side * side - 8.0 * p.rounded - 4.5 * p.clenched - 2.0 * p.tongue
    gap = 1.0 + 2.0 * side * side
    lower_edge = (s.hole_down - 2.0 + 4.0 * (1 - p.clenched) * (1 - p.spread) - 4.5 * p.spread) * (
        1 - p.clenched
    ) + p.clenched * (upper_edge + gap)
    dim = (1.0 - 0.55 * side * side).clip(0.25, 1.0)
    apart = ((s.hole_up + s.hole_down - 2.5) / 5.0).clip()
    lower_teeth = apart * _inside(down - lower_edge - 3.0 * side * side) * (0.75 * p.clenched + 0.6 * p.spread).clip()
    colour = _over(colour, _bgr("#d9cdc4") * dim, lower_teeth)
    colour = _over(
        colour, _bgr("#f8f3ec") * dim * _tooth_gaps(x), _inside(upper_edge - down) * (1 - 1.1 * p.rounded).clip() * apart
    )
    shadow = (hole / 4.5).exp() * 0.62 * (1 - 0.6 * (down / 6.0).sigmoid())
    return _over(colour, _bgr("#35121a"), shadow)


def _tongue(x: Value, down: Value, s: _Shape, p: Pose) -> tuple[Value, Value]:
    """The tongue's colour and coverage."""
    crest = s.hole_down * (0.62 - 0.6 * p.tongue) - 1.0 + 0.0 * x
    half_width = s.hole_half_width * (0.72 - 0.2 * p.tongue)
    along = x / half_width
    above = down - crest - 0.35 * s.hole_down * along * along
    colour = _over_constant("#cf6f72", (above / 26.0).clip(), "#a1444f")
    shine = _bump(above - 6.0, 4.5) * _bump(along, 0.5) * 0.35
    return _over(colour, _bgr("#f0a9a3"), shine), (above / 3.0 + 0.5).clip()


def _tooth_gaps(x: Value) -> Value:
    """Brightness with faint lines between the upper teeth, whose widths shrink outwards."""
    lines = sum((_bump(x.abs() - place, 0.9) for place in (12.5, 23.5, 33.0)), _bump(x, 0.9))
    return 1 - 0.10 * lines


def resting_mouth(skin: NDArray[np.float32], centre: tuple[float, float], step: float) -> NDArray[np.float32]:
    """[h,w,3] of bare skin, BGR 0..1, with the resting mouth on it: `centre` (x, y) in its pixels, which lie `step` apart."""
    graph = ExpressionGraph()
    height, width = skin.shape[:2]
    y, x = np.indices((height, width), np.float32)
    at_rest = Pose(*(graph.constant(np.zeros((1, 1, 1, 1), np.float32)) for _ in range(POSE_SIZE)))
    below = graph.constant(skin.transpose(2, 0, 1)[None])
    across, down = (graph.constant((place[None, None] - middle) * step) for place, middle in zip((x, y), centre, strict=True))
    painted = paint_mouth(below, across, down, at_rest)
    model = graph.model("resting_mouth", {"mouth": (painted, [1, 3, height, width])})
    result = np.asarray(ReferenceEvaluator(model).run(None, {}))
    return result.reshape(3, height, width).transpose(1, 2, 0)
