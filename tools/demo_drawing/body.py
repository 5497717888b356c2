"""Neck, shoulders and clothes. Origin between the eyes, as for the head."""

from __future__ import annotations

from tools.demo_drawing.canvas import Layer, Linear, Radial, ellipse, moved, path, spline, taper
from tools.demo_drawing.hair import RIGHT_SWEEP
from tools.demo_drawing.head import SKIN, SKIN_DEEP, SKIN_LIGHT, SKIN_MID, SKIN_SHADE

TEAL, TEAL_LIGHT, TEAL_DARK, TEAL_DEEP = "#1f7a78", "#2f9a94", "#155c5e", "#0d4247"
CREAM, CREAM_SHADE = "#fbf3e6", "#dcc7b0"
GOLD, GOLD_LIGHT = "#d9a441", "#ffe9a8"

_NECK = path(
    [(-46, 100), (-46, 150), (-50, 190), (-72, 214), (-120, 240)],
    [(-120, 240), (-60, 330), (60, 330), (120, 240)],
    [(120, 240), (72, 214), (50, 190), (46, 150), (46, 100)],
)
_TOP = path(
    [(-96, 236), (-62, 262), (0, 292), (62, 262), (96, 236)],
    [(96, 236), (110, 470)],
    [(110, 470), (-110, 470)],
    [(-110, 470), (-96, 236)],
)
_JACKET = path(
    [(-78, 216), (-128, 236), (-182, 254), (-222, 288), (-240, 350), (-252, 470)],
    [(-252, 470), (-10, 470)],
    [(-10, 470), (-34, 400), (-62, 320), (-80, 260), (-78, 216)],
)
_LAPEL = path(
    [(-73, 216), (-78, 209), (-88, 215), (-112, 262)],
    [(-112, 262), (-120, 292), (-88, 306)],
    [(-88, 306), (-104, 326)],
    [(-104, 326), (-70, 380), (-12, 466)],
    [(-12, 466), (-36, 392), (-62, 318), (-78, 262), (-73, 216)],
)


def draw_body(layer: Layer) -> None:
    """Neck first, then the blouse, then the open jacket over it."""
    _neck(layer)
    _blouse(layer)
    for side in (-1, 1):
        _jacket(layer, side)
    shadow = moved(RIGHT_SWEEP.shape(), -4, 7)
    layer.fill(shadow, "#05252a", alpha=0.6, blur=5, inside=layer.mask(_JACKET * (-1, 1)))


def _neck(layer: Layer) -> None:
    skin = layer.mask(_NECK)
    layer.fill(_NECK, Linear((-60, 120), (70, 250), ((0, SKIN), (0.5, SKIN_MID), (1, SKIN_SHADE))))
    layer.fill(
        path([(20, 120), (30, 180), (60, 214), (130, 250)], [(130, 250), (130, 120), (20, 120)]),
        SKIN_SHADE,
        alpha=0.55,
        blur=9,
        inside=skin,
    )
    layer.fill(ellipse((6, 150), (74, 46)), SKIN_DEEP, alpha=0.72, blur=10, inside=skin)
    for side in (-1, 1):
        tendon = taper([(side * 40, 176), (side * 26, 214), (side * 9, 240)], (1, 5, 4))
        layer.fill(tendon, SKIN_SHADE, alpha=0.4, blur=3.5, inside=skin)
        collarbone = taper([(side * 14, 246), (side * 40, 240), (side * 78, 234)], (2, 5, 1))
        layer.fill(collarbone, SKIN_SHADE, alpha=0.55, blur=2.5, inside=skin)
        layer.fill(moved(collarbone, 0, -5), SKIN_LIGHT, alpha=0.5, blur=2.5, inside=skin)
    layer.fill(ellipse((0, 246), (7, 6)), SKIN_SHADE, alpha=0.5, blur=3, inside=skin)
    layer.fill(ellipse((-26, 262), (40, 14)), SKIN_LIGHT, alpha=0.5, blur=9, inside=skin)


def _blouse(layer: Layer) -> None:
    skin = layer.mask(_NECK)
    layer.fill(moved(_TOP, 0, -4), SKIN_DEEP, alpha=0.5, blur=3, inside=skin)
    layer.fill(_TOP, Linear((-90, 240), (90, 400), ((0, "#fffaf1"), (0.5, CREAM), (1, "#eadac6"))))
    inside = layer.mask(_TOP)
    hem = taper([(-96, 238), (-62, 264), (0, 294), (62, 264), (96, 238)], (3, 5, 5, 5, 3))
    layer.fill(hem, "#ffffff", alpha=0.8, inside=inside)
    layer.fill(moved(hem, 0, 5), CREAM_SHADE, alpha=0.5, blur=1.5, inside=inside)
    for x, bend in ((-24, -8), (6, 3), (30, 12)):
        fold = taper([(x, 300), (x + bend * 0.4, 350), (x + bend, 450)], (1, 9, 4))
        layer.fill(fold, CREAM_SHADE, alpha=0.5, blur=5, inside=inside)
    chain = taper([(-58, 232), (-40, 256), (-18, 272), (0, 277), (18, 272), (40, 256), (58, 232)], (1.2, 1.4, 1.4, 1.4, 1.2))
    layer.fill(moved(chain, 0, 2.5), SKIN_DEEP, alpha=0.4, blur=1.2)
    layer.fill(chain, GOLD)
    layer.fill(ellipse((0, 281), (4.4, 4.4)), Radial((-1.5, 279.5), (6, 6), ((0, GOLD_LIGHT), (0.5, GOLD), (1, "#a8742a"))))


def _jacket(layer: Layer, side: int) -> None:
    flip = (side * -1, 1)
    shape = _JACKET * flip
    layer.fill(moved(shape, -side * 5, 3), "#5b4638", alpha=0.45, blur=5, inside=layer.mask(_TOP))
    lit = ((0, TEAL_LIGHT), (0.4, TEAL), (1, TEAL_DARK)) if side < 0 else ((0, TEAL), (0.5, "#1b6b6b"), (1, TEAL_DEEP))
    layer.fill(shape, Linear((side * 100, 220), (side * 190, 460), lit))
    cloth = layer.mask(shape)
    arm = taper([(side * 176, 300), (side * 170, 360), (side * 172, 470)], (2, 9, 12))
    layer.fill(arm, TEAL_DEEP, alpha=0.75, blur=5, inside=cloth)
    layer.fill(moved(arm, side * 16, 0), TEAL_LIGHT, alpha=0.35, blur=8, inside=cloth)
    for knots, alpha in (
        ([(150, 262), (176, 286), (180, 320)], 0.45),
        ([(120, 300), (150, 330), (168, 380)], 0.3),
        ([(205, 300), (222, 350), (226, 420)], 0.4),
    ):
        layer.fill(taper([(side * x, y) for x, y in knots], (1, 7, 2)), TEAL_DEEP, alpha=alpha, blur=4, inside=cloth)
    shoulder = taper([(side * 96, 226), (side * 150, 246), (side * 205, 274)], (2, 7, 3))
    layer.fill(shoulder, "#5fc0b6", alpha=0.5 if side < 0 else 0.22, blur=4, inside=cloth)
    lapel = _LAPEL * flip
    layer.fill(moved(lapel, side * 5, 5), TEAL_DEEP, alpha=0.7, blur=4, inside=cloth)
    layer.fill(
        lapel,
        Linear(
            (side * 110, 220), (side * 30, 440), (((0, "#37a59d"), (1, TEAL)) if side < 0 else ((0, "#23827f"), (1, TEAL_DARK)))
        ),
    )
    edge = spline([(side * x, y) for x, y in ((80, 262), (62, 318), (36, 392), (12, 466))], closed=False)
    layer.fill(
        taper([(float(x), float(y)) for x, y in edge[::6]], (1.4, 1.4)), "#6fd0c4", alpha=0.55, blur=0.5, inside=layer.mask(lapel)
    )
