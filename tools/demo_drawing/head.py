"""The head without its moving parts: ears, face, brows, nose. Origin between the eyes, y down, in picture pixels."""

from __future__ import annotations

import numpy as np

from tools.demo_drawing.canvas import Coverage, Layer, Linear, Radial, ellipse, moved, path, spline, symmetric, taper
from tools.demo_drawing.hair import DEEP, FRINGE, LEFT_SWEEP, RIGHT_SWEEP

SKIN_LIGHT, SKIN, SKIN_MID, SKIN_SHADE, SKIN_DEEP = "#fbdcc2", "#f3c7a6", "#e6ae8a", "#cf8c6b", "#a9664c"
BLUSH = "#e4806d"
BROW = "#4a2c22"

FACE = spline(
    symmetric(
        [(0, -128), (46, -122), (80, -92), (93, -48), (96, -5), (94, 35), (86, 78), (70, 115), (46, 143), (21, 157), (0, 160)]
    )
)


def draw_head(layer: Layer) -> None:
    """Ears and face; hair and eyes come on top."""
    _ear(layer, -1)  # the other one is under the hair
    face = layer.mask(FACE)
    layer.fill(FACE, Linear((-80, -90), (80, 120), ((0, SKIN_LIGHT), (0.45, SKIN), (1, SKIN_MID))))
    _shade_face(layer, face)
    _nose(layer, face)
    for side in (-1, 1):
        _brow(layer, side)


def _shade_face(layer: Layer, face: Coverage) -> None:
    layer.fill(ellipse((-30, 20), (62, 88)), SKIN_LIGHT, alpha=0.35, blur=24, inside=face)
    edge = face * (1 - layer.mask(moved(FACE, -16, -5), blur=11))
    layer.fill(FACE, SKIN_SHADE, alpha=0.75, inside=edge)
    rim = face * (1 - layer.mask(moved(FACE, 9, -4), blur=7))
    layer.fill(FACE, SKIN_SHADE, alpha=0.35, inside=rim)
    for hair in (FRINGE, RIGHT_SWEEP, LEFT_SWEEP):
        layer.fill(moved(hair.shape(), -3, 9), "#b5694a", alpha=0.42, blur=6, inside=face)
    for side in (-1, 1):
        layer.fill(ellipse((side * 58, 54), (27, 20)), BLUSH, alpha=0.34, blur=11, inside=face)
        layer.fill(ellipse((side * 42, -9), (31, 16)), "#c98266", alpha=0.34, blur=7, inside=face)
        layer.fill(ellipse((side * 44, 19), (22, 6)), "#d3906f", alpha=0.25, blur=5, inside=face)
        layer.fill(ellipse((side * 50 - 6, 38), (17, 9)), "#ffeadb", alpha=0.34, blur=7, inside=face)
    layer.fill(ellipse((-6, -66), (40, 20)), "#ffeedd", alpha=0.35, blur=14, inside=face)
    layer.fill(ellipse((-4, 146), (16, 7)), "#ffe6d0", alpha=0.42, blur=6, inside=face)


def _nose(layer: Layer, face: Coverage) -> None:
    layer.fill(taper([(16, -24), (11, -4), (11, 22), (17, 46)], (10, 7, 8, 12)), SKIN_SHADE, alpha=0.36, blur=5, inside=face)
    layer.fill(taper([(-15, -24), (-12, -6), (-12, 16)], (8, 4, 1)), SKIN_SHADE, alpha=0.2, blur=4, inside=face)
    layer.fill(taper([(-2, -18), (-3, 10), (-3, 40)], (5, 7, 9)), "#fff0e2", alpha=0.5, blur=3.5, inside=face)
    underside = path([(-18, 60), (-9, 63), (0, 66), (9, 63), (18, 60)], [(18, 60), (10, 69), (0, 72), (-10, 69), (-18, 60)])
    layer.fill(underside, "#b66f54", alpha=0.55, blur=3, inside=face)
    layer.fill(ellipse((0, 74), (13, 5)), SKIN_SHADE, alpha=0.4, blur=4, inside=face)
    layer.fill(ellipse((-3, 51), (7, 6)), "#fff5ea", alpha=0.7, blur=3.2, inside=face)
    for side in (-1, 1):
        wing = taper([(side * 15, 48), (side * 20, 55), (side * 18, 63), (side * 12, 64)], (0.4, 2.0, 2.2, 0.6))
        layer.fill(wing, SKIN_DEEP, alpha=0.5 if side > 0 else 0.3, blur=1.2, inside=face)
        nostril = taper([(side * 4.5, 64.5), (side * 8, 62.6), (side * 12.5, 64.2)], (1.0, 3.4, 1.0))
        layer.fill(nostril, "#7a3b2e", alpha=0.78, blur=0.8, inside=face)
    for side in (-1, 1):
        layer.fill(taper([(side * 4.5, 76), (side * 5.5, 86)], (2, 4)), SKIN_SHADE, alpha=0.22, blur=2, inside=face)


def _brow(layer: Layer, side: int) -> None:
    upper = [(21, -31), (24, -34.5), (40, -39.2), (57, -40.2), (75, -31)]
    lower = [(75, -31), (58, -35.2), (41, -33), (24, -28), (21, -31)]
    shape = path(upper, lower) * (side, 1)
    layer.fill(
        shape, Linear((side * 18, 0), (side * 76, 0), ((0, "#8a5b45"), (0.35, "#5f3b2d"), (1, BROW))), alpha=0.85, blur=1.1
    )
    for i in range(12):
        t = i / 11
        x, y = 23 + 46 * t, -28.5 - 7.5 * np.sin(np.pi * t * 0.66) + 4.5 * max(0.0, t - 0.7)
        hair = taper([(side * x, y), (side * (x + 4), y - 3.6 + 2.6 * t), (side * (x + 9), y - 5.2 + 6 * t)], (0.3, 1.1, 0.2))
        layer.fill(hair, DEEP, alpha=0.38, blur=0.5)


def _ear(layer: Layer, side: int) -> None:
    outline = spline([(90, -6), (101, -14), (111, -9), (113, 8), (109, 26), (103, 42), (95, 48), (88, 34)])
    shape = outline * (side, 1)
    layer.fill(shape, Linear((side * 88, 0), (side * 114, 10), ((0, SKIN_SHADE), (0.55, SKIN_MID), (1, SKIN))))
    inside = layer.mask(shape)
    layer.fill(
        taper([(side * 98, -2), (side * 106, -2), (side * 106, 12), (side * 101, 26)], (1, 4, 4, 1)),
        SKIN_DEEP,
        alpha=0.5,
        blur=1.6,
        inside=inside,
    )
    layer.fill(ellipse((side * 97, 16), (5, 9)), SKIN_DEEP, alpha=0.55, blur=2.5, inside=inside)
    layer.fill(ellipse((side * 101, 47), (4.2, 4.2)), SKIN_DEEP, alpha=0.4, blur=1.5)
    layer.fill(
        ellipse((side * 101, 45.5), (3.8, 3.8)),
        Radial((side * 101 - 1.4, 44), (5.5, 5.5), ((0, "#fff6d6"), (0.5, "#e3b34f"), (1, "#a8742a"))),
    )
