"""The room behind: daylight from a window on the left, leaves and a shelf, all far out of focus."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.demo_drawing.canvas import Layer, Linear, ellipse, path, taper


def draw_background(layer: Layer) -> None:
    """Coordinates of the picture itself, (0, 0) at its upper left."""
    wall = path([(-80, -80), (1360, -80)], [(1360, -80), (1360, 800)], [(1360, 800), (-80, 800)], [(-80, 800), (-80, -80)])
    layer.fill(wall, Linear((0, 0), (1280, 720), ((0, "#fdeedd"), (0.3, "#f7e3d0"), (0.6, "#e8d0be"), (1, "#c9aea3"))))
    _window(layer)
    _shelf(layer)
    _plant(layer)
    layer.fill(ellipse((560, 300), (360, 320)), "#fff4e4", alpha=0.5, blur=90)


def _box(x0: float, y0: float, x1: float, y1: float) -> NDArray[np.float64]:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)


def _window(layer: Layer) -> None:
    layer.fill(_box(60, -60, 330, 470), "#fffaf0", alpha=0.85, blur=16)
    layer.fill(_box(70, -60, 190, 200), "#dff0f2", alpha=0.8, blur=14)
    layer.fill(_box(206, -60, 320, 200), "#e8f4f2", alpha=0.8, blur=14)
    layer.fill(_box(70, 220, 190, 455), "#eaf3ea", alpha=0.8, blur=14)
    layer.fill(_box(206, 220, 320, 455), "#f3f6ea", alpha=0.8, blur=14)
    beam = np.array([(330, 60), (1000, 720), (620, 720), (330, 380)], np.float64)
    layer.fill(beam, "#fff6e6", alpha=0.28, blur=40)


def _shelf(layer: Layer) -> None:
    layer.fill(_box(890, 250, 1340, 268), "#a9806a", alpha=0.75, blur=8)
    layer.fill(_box(890, 268, 1340, 300), "#9a7767", alpha=0.3, blur=14)
    for x, width, height, colour in (
        (930, 34, 118, "#3f8a86"),
        (968, 26, 98, "#e2a05a"),
        (998, 30, 128, "#c96f5c"),
        (1032, 24, 106, "#f0d9b5"),
        (1060, 32, 120, "#56727f"),
    ):
        layer.fill(_box(x, 250 - height, x + width, 250), colour, alpha=0.72, blur=8)
    layer.fill(ellipse((1180, 200), (46, 50)), "#f4e3cf", alpha=0.9, blur=9)
    layer.fill(ellipse((1165, 185), (20, 22)), "#fffaf2", alpha=0.7, blur=9)


def _plant(layer: Layer) -> None:
    for i, (angle, length) in enumerate(((-72, 250), (-100, 290), (-128, 250), (-52, 190), (-150, 190), (-86, 220), (-114, 210))):
        turn = np.deg2rad(angle)
        tip = (1130 + length * np.cos(turn), 640 + length * np.sin(turn))
        bend = (1130 + 0.55 * length * np.cos(turn + 0.18), 640 + 0.55 * length * np.sin(turn + 0.18))
        colour = ("#6f9c78", "#5a8a6b", "#86ae84", "#4f7d63")[i % 4]
        layer.fill(taper([(1130, 640), bend, tip], (6, 62, 50, 2)), colour, alpha=0.72, blur=9)
    layer.fill(
        path([(1060, 620), (1200, 620)], [(1200, 620), (1182, 760)], [(1182, 760), (1078, 760)], [(1078, 760), (1060, 620)]),
        "#c98a68",
        alpha=0.85,
        blur=9,
    )
    layer.fill(_box(1066, 620, 1110, 760), "#e0a883", alpha=0.6, blur=12)
